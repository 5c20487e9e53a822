//! The table under an index, as the index reads it, and what it asks of its surroundings while it works for long.

use super::error::IndexError;
use super::format::Tid;

/// A row whose vector is not NULL.
pub struct TableRow<'a> {
    /// The root's, where PostgreSQL chained versions in a page.
    pub tid: Tid,
    /// Of the integer column that identifies rows; None: NULL, or there is no such column.
    pub id: Option<i64>,
    /// False: deleted, and perhaps still seen by others.
    pub is_alive: bool,
    pub vector: &'a [f32],
}

pub type VisitRow<'a> = dyn FnMut(TableRow) -> Result<(), IndexError> + 'a;

/// The table: expressions of the index evaluated, its predicate applied.
pub trait Table {
    fn blocks(&self) -> u32;
    /// Shows `visit` the rows in a run of blocks that an index build takes. Returns the table's rows, in the index or
    /// not. `sample`: rows in progress may be shown too.
    fn scan_blocks(
        &mut self,
        start: u32,
        blocks: u32,
        sample: bool,
        visit: &mut VisitRow,
    ) -> Result<f64, IndexError>;
    /// What is visible now is what `scan_visible` and `fetch` see from here on.
    fn take_snapshot(&mut self);
    /// Shows `visit` each visible row that the index should have.
    fn scan_visible(&mut self, visit: &mut VisitRow) -> Result<(), IndexError>;
    /// Shows `visit` the vector of a row; false if no version of it is visible, or its vector is NULL.
    fn fetch(&mut self, tid: Tid, visit: &mut dyn FnMut(&[f32])) -> bool;
    /// Lets go of pages that `fetch` holds.
    fn unpin(&mut self);
    /// The line pointers of a block. None if there is no such block.
    fn line_pointers(&mut self, block: u32) -> Option<LinePointers>;
}

/// Which line pointers of a heap page are taken.
pub enum LinePointers {
    /// The table is not a heap: every TID is fine.
    Unknown,
    /// By offset, the first offset being 1.
    Taken(Vec<bool>),
}

/// A table that may be let go of meanwhile, and those who wait.
pub trait Surroundings {
    /// Whether the table is there to be asked for rows, now or later.
    fn knows_table(&self) -> bool;
    /// Opens the table; None if it cannot be had now.
    fn table(&mut self) -> Option<&mut dyn Table>;
    /// Lets go of the table, and of everything else that keeps VACUUM from removing rows.
    fn leave_table(&mut self);
    /// Whether somebody waits for a lock that conflicts with those of this process. Leaves the table now and then.
    fn must_yield(&mut self) -> bool;
}
