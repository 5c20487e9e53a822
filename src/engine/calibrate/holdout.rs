//! Holding rows of an index out of its searches, so that they can serve as queries.
//!
//! An index from elsewhere contains all its rows already, and a graph finds rows of its own too easily (see
//! `exact_neighbours.rs`). So the links to held-out rows are removed until calibration is over; then no search reaches
//! them. The graph still differs in two ways from one that was built without these rows: paths through a held-out row
//! are cut, and links that construction omitted in favour of that row stay missing. Both lower the measured recall a
//! little, never raise it, and less so the smaller the share of held-out rows. Scans and lists have no paths: there
//! held-out rows are treated as dead.

use crate::EngineError;
use crate::build::Builder;
use crate::search::zeros;
use crate::shim::ffi::{self, RemovedLinks};
use std::ops::Deref;

/// An index of which some rows are held out, until this is dropped.
pub struct Holdout<'a> {
    builder: &'a mut Builder,
    /// The links that were removed from a graph; NULL if the index has none.
    links: *mut RemovedLinks,
    /// Bitmap of the held-out rows by position; None for a graph, which needs none.
    dead: Option<Vec<u8>>,
}

impl Builder {
    /// Holds out the rows at these positions, which must exist. A graph keeps the links to its entry point, so that row
    /// may still be found.
    pub fn hold_out(&mut self, positions: &[u64]) -> Result<Holdout<'_>, EngineError> {
        let mut bits = zeros::<u8>(self.rows().div_ceil(8) as usize)?;
        for position in positions {
            bits[(position / 8) as usize] |= 1 << (position % 8);
        }
        let mut links = std::ptr::null_mut();
        if self.handle().describe().searches_graph == 0 {
            let dead = (!positions.is_empty()).then_some(bits);
            return Ok(Holdout { builder: self, links, dead });
        }
        // SAFETY: the handle is a live index that nothing else uses, by `&mut self`; the bitmap outlives the call.
        let code = unsafe {
            ffi::vekter_index_remove_links(self.index.as_mut(), bits.as_ptr(), bits.len(), &mut links)
        };
        EngineError::from_code(code, |reason| EngineError::Failed { reason })?;
        Ok(Holdout { builder: self, links, dead: None })
    }
}

impl Holdout<'_> {
    /// The `dead` argument for searches, as in [`crate::OpenIndex::search`].
    pub fn dead(&self) -> Option<&[u8]> {
        self.dead.as_deref()
    }
}

impl Deref for Holdout<'_> {
    type Target = Builder;

    fn deref(&self) -> &Builder {
        self.builder
    }
}

impl Drop for Holdout<'_> {
    fn drop(&mut self) {
        if !self.links.is_null() {
            // SAFETY: the links come from this very index, which has been borrowed since, so that no row was added;
            // this is their only use after that.
            unsafe { ffi::vekter_index_restore_links(self.builder.index.as_mut(), self.links) };
        }
    }
}
