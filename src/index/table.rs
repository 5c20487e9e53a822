//! The table under an index, as the index sees it.

use super::error::IndexError;
use super::format::Tid;

/// Takes TID and vector of a row.
pub type VisitRow<'a> = dyn FnMut(Tid, &[f32]) -> Result<(), IndexError> + 'a;

/// A row of the table.
pub struct Identified<'a> {
    pub tid: Tid,
    /// None: NULL.
    pub id: Option<i64>,
    /// False: deleted, and perhaps still seen by others.
    pub is_alive: bool,
    pub vector: &'a [f32],
}

/// The table, as the index sees it: expressions evaluated, predicate applied.
pub trait Heap {
    fn blocks(&self) -> u32;
    /// Shows `visit` TID and vector of each row in a run of blocks; NULLs are left out. Returns the table's rows, in
    /// the index or not. `sample`: rows in progress may be shown too.
    fn scan(
        &mut self,
        start: u32,
        blocks: u32,
        sample: bool,
        visit: &mut VisitRow,
    ) -> Result<f64, IndexError>;
    /// Shows `visit` the rows in a run of blocks with their ids; NULLs are left out. Returns the table's rows, in the
    /// index or not.
    fn identify(
        &mut self,
        start: u32,
        blocks: u32,
        visit: &mut dyn FnMut(Identified) -> Result<(), IndexError>,
    ) -> Result<f64, IndexError>;
}
