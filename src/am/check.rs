//! `vekter_check()`: locks, the table's side of the comparison, and with whose rights it is read.

use pgrx::pg_sys;

use super::table::scan_visible;
use super::table_scan::{Collector, collect};
use crate::index::check::{self, Finding, LinePointers, Table};
use crate::index::error::IndexError;
use crate::index::table::VisitRow;
use crate::pg::buffer::PageLock;
use crate::pg::error::SqlError;
use crate::pg::owner::as_owner;
use crate::pg::relation::{IndexAndTable, Rel};

/// Checks a faiss index, with its table if `with_table`. Both are only locked against being changed or dropped.
pub fn check(index: pg_sys::Oid, with_table: bool) -> Result<Vec<Finding>, SqlError> {
    let open = IndexAndTable::open(index)?;
    let (heap, index) = (open.table(), open.index());
    let findings = as_owner(heap, || {
        let mut rows = Rows { heap, index, snapshot: core::ptr::null_mut() };
        check::check(index, with_table.then_some(&mut rows))
    })?;
    Ok(findings)
}

struct Rows {
    heap: Rel,
    index: Rel,
    /// Registered; null before `take_snapshot`.
    snapshot: pg_sys::Snapshot,
}

impl Rows {
    fn forget_snapshot(&mut self) {
        if !self.snapshot.is_null() {
            // SAFETY: registered in `take_snapshot` and forgotten once.
            unsafe { pg_sys::UnregisterSnapshot(self.snapshot) };
            self.snapshot = core::ptr::null_mut();
        }
    }
}

impl Table for Rows {
    fn take_snapshot(&mut self) {
        self.forget_snapshot();
        // A new one at any isolation level: an older one may see rows that the index was built without.
        // SAFETY: called in a transaction, on the main thread.
        self.snapshot = unsafe { pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()) };
    }

    fn scan(&mut self, visit: &mut VisitRow) -> Result<(), IndexError> {
        let mut collector = Collector { visit, outcome: Ok(()) };
        // SAFETY: relations and snapshot are open, and the state is the collector that `collect` takes.
        unsafe {
            let info = pg_sys::BuildIndexInfo(self.index.as_ptr());
            let relations = (self.heap, self.index);
            scan_visible(relations, info, self.snapshot, true, Some(collect), &mut collector);
        }
        collector.outcome
    }

    fn line_pointers(&mut self, block: u32) -> Option<LinePointers> {
        if !self.heap.is_heap() {
            return Some(LinePointers::Unknown);
        }
        crate::pg::take_interrupts();
        (block < self.heap.blocks())
            .then(|| LinePointers::Taken(PageLock::share(self.heap, block).view().line_pointers()))
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        // While an error unwinds, the transaction's abort forgets it.
        if !std::thread::panicking() {
            self.forget_snapshot();
        }
    }
}
