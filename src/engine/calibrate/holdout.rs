//! Rows of an index as queries to it, as if they were not in it.
//!
//! An index that was made elsewhere has all rows already, and to a row that is in a graph its links lead much faster
//! than to others (see `exact_neighbours.rs`). So the links to such rows are taken out for as long as they are queries:
//! then no search comes by them, and answers are those of a graph that has never seen them, but for two things. Where a
//! way led over a hidden row it is cut, and links that were left out for it are still missing. Both make searches find
//! less than they will: what is measured is a little too low, never too high, and the less so the fewer rows are hidden
//! of many. Scans and lists have no ways: there it is enough that a hidden row is not found.

use crate::engine::EngineError;
use crate::engine::build::Builder;
use crate::engine::search::zeros;
use crate::engine::shim::ffi::{self, Links};
use std::ops::Deref;

/// An index of which some rows are hidden, until this is dropped.
pub struct Hidden<'a> {
    builder: &'a mut Builder,
    /// What was taken out of a graph; NULL: it has none.
    links: *mut Links,
    /// Bitmap by position of the hidden rows, where it is that which keeps them from being found.
    dead: Option<Vec<u8>>,
}

impl Builder {
    /// Hides the rows at these positions, which exist. All of them but one are out of reach: a graph's entry stays, and
    /// may be found.
    pub fn hide(&mut self, positions: &[u64]) -> Result<Hidden<'_>, EngineError> {
        let mut bits = zeros::<u8>(self.rows().div_ceil(8) as usize)?;
        for position in positions {
            bits[(position / 8) as usize] |= 1 << (position % 8);
        }
        let mut links = std::ptr::null_mut();
        if self.handle().describe().searches_graph == 0 {
            let dead = (!positions.is_empty()).then_some(bits);
            return Ok(Hidden { builder: self, links, dead });
        }
        // SAFETY: the handle is a live index that nothing else uses, by `&mut self`; the bitmap outlives the call.
        let code =
            unsafe { ffi::vekter_index_unlink(self.index.as_mut(), bits.as_ptr(), bits.len(), &mut links) };
        EngineError::from_code(code, |reason| EngineError::Failed { reason })?;
        Ok(Hidden { builder: self, links, dead: None })
    }
}

impl Hidden<'_> {
    /// What a search is to be told, as in [`crate::engine::OpenIndex::search`].
    pub fn dead(&self) -> Option<&[u8]> {
        self.dead.as_deref()
    }
}

impl Deref for Hidden<'_> {
    type Target = Builder;

    fn deref(&self) -> &Builder {
        self.builder
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        if !self.links.is_null() {
            // SAFETY: the links were taken out of this very index, which was borrowed since, so that no row was added;
            // they are not used again.
            unsafe { ffi::vekter_index_relink(self.builder.index.as_mut(), self.links) };
        }
    }
}
