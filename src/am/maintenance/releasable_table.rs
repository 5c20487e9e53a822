//! The table of an index that is compacted: opened when its rows are needed, and released for those who wait.

use std::time::Instant;

use pgrx::pg_sys;

use super::POLL_INTERVAL;
use crate::am::indexed_table::IndexedTable;
use crate::index::table::{Table, TableAccess};
use crate::pg;
use crate::pg::lock::{self, IndexLock};
use crate::pg::relation::{OpenRelation, Rel};
use crate::pg::snapshot::{self, ActiveSnapshot};

const TABLE_LOCK: u32 = pg_sys::AccessShareLock;

/// Access to the table, locked for short times.
pub struct ReleasableTable<'a> {
    index: Rel,
    /// It yields to waiters for this lock and for the index; None: it never yields.
    compaction_lock: Option<&'a IndexLock>,
    looked: Instant,
    // Drop order.
    open: Option<(IndexedTable, ActiveSnapshot, OpenRelation)>,
}

impl<'a> ReleasableTable<'a> {
    pub fn under(index: Rel, compaction_lock: Option<&'a IndexLock>) -> Self {
        ReleasableTable { index, compaction_lock, looked: Instant::now(), open: None }
    }
}

impl TableAccess for ReleasableTable<'_> {
    fn has_table(&self) -> bool {
        true
    }

    fn table(&mut self) -> Option<&mut dyn Table> {
        if self.open.is_none() {
            // SAFETY: looks a catalogue row up by its oid.
            let heap = unsafe { pg_sys::IndexGetRelation(self.index.oid(), true) };
            self.open = OpenRelation::try_open(heap, TABLE_LOCK).map(|heap| {
                let snapshot = ActiveSnapshot::latest();
                // SAFETY: the index stays open while `self` lives, and the table is dropped before the other two.
                let table =
                    unsafe { IndexedTable::under_snapshot(heap.rel(), self.index, snapshot.as_ptr()) };
                (table, snapshot, heap)
            });
        }
        let (table, ..) = self.open.as_mut()?;
        Some(table)
    }

    fn release_table(&mut self) {
        self.open = None;
        snapshot::forget_catalogue_snapshot();
    }

    fn must_yield(&mut self) -> bool {
        // Both the check, which takes a lock manager lock, and reopening the table take time.
        if self.looked.elapsed() < POLL_INTERVAL {
            return false;
        }
        self.looked = Instant::now();
        self.release_table();
        pg::take_interrupts();
        self.compaction_lock.is_some_and(|lock| lock::has_waiters(self.index) || lock.has_waiters())
    }
}

/// No access to the table, and no yielding.
pub struct NoTable;

impl TableAccess for NoTable {
    fn has_table(&self) -> bool {
        false
    }

    fn table(&mut self) -> Option<&mut dyn Table> {
        None
    }

    fn release_table(&mut self) {}

    fn must_yield(&mut self) -> bool {
        pg::take_interrupts();
        false
    }
}
