//! The table under an index, and the access to it during long work such as a merge.

use super::error::IndexError;
use super::format::Tid;

/// A row whose vector is not NULL.
pub struct TableRow<'a> {
    /// TID of the root of the row's HOT chain.
    pub tid: Tid,
    /// Value of the id column; None if it is NULL or there is no such column.
    pub id: Option<i64>,
    /// False if the row is deleted but may still be visible to other transactions.
    pub is_alive: bool,
    pub vector: &'a [f32],
}

pub type VisitRow<'a> = dyn FnMut(TableRow) -> Result<(), IndexError> + 'a;

/// The table, with the index's expressions evaluated and its predicate applied.
pub trait Table {
    fn blocks(&self) -> u32;
    /// Calls `visit` with the rows of a range of blocks that an index build would index. Returns the number of table
    /// rows in it, indexed or not. `sample`: may include rows of transactions in progress.
    fn scan_blocks(
        &mut self,
        start: u32,
        blocks: u32,
        sample: bool,
        visit: &mut VisitRow,
    ) -> Result<f64, IndexError>;
    /// Takes the snapshot that `scan_visible` and `fetch` use from now on.
    fn take_snapshot(&mut self);
    /// Calls `visit` with each visible row that belongs in the index.
    fn scan_visible(&mut self, visit: &mut VisitRow) -> Result<(), IndexError>;
    /// Calls `visit` with the vector of a row; false if no version of the row is visible, or its vector is NULL.
    fn fetch(&mut self, tid: Tid, visit: &mut dyn FnMut(&[f32])) -> bool;
    /// Releases the buffer pins that `fetch` holds.
    fn unpin(&mut self);
    /// The line pointers of a block; None if there is no such block.
    fn line_pointers(&mut self, block: u32) -> Option<LinePointers>;
}

/// The used line pointers of a heap page.
pub enum LinePointers {
    /// The table is not a heap: every TID is valid.
    Unknown,
    /// Indexed by offset - 1.
    Taken(Vec<bool>),
}

/// Access to the table that can be released in between, and the obligation to yield to other processes.
pub trait TableAccess {
    /// Whether the table can be opened, now or later.
    fn has_table(&self) -> bool;
    /// Opens the table; None if its lock is not available now.
    fn table(&mut self) -> Option<&mut dyn Table>;
    /// Closes the table and releases everything that keeps VACUUM from removing rows.
    fn release_table(&mut self);
    /// Whether another process waits for a lock that conflicts with this process's. Releases the table from time to
    /// time.
    fn must_yield(&mut self) -> bool;
}
