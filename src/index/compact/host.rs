//! Work that continues during a merge: sealing the delta, and yielding to other processes.

use std::time::Duration;

use super::seal;
use crate::index::error::IndexError;
use crate::index::table::{Table, TableAccess};
use crate::pg::relation::Rel;

/// The process around a merge.
pub struct Host<'a> {
    rel: Rel,
    /// Size of the delta, in bytes of pages, above which it is sealed.
    delta_limit_bytes: u64,
    access: &'a mut dyn TableAccess,
    /// Error of a seal that failed while FAISS was working.
    pub failure: Option<IndexError>,
}

impl<'a> Host<'a> {
    pub fn new(rel: Rel, delta_limit_bytes: u64, access: &'a mut dyn TableAccess) -> Self {
        Host { rel, delta_limit_bytes, access, failure: None }
    }

    /// Whether the table can be read, now or later. If not, rows come from FAISS's decoder.
    pub fn has_table(&self) -> bool {
        self.access.has_table()
    }

    /// None if the table's lock is not available now.
    pub fn table(&mut self) -> Option<&mut dyn Table> {
        self.access.table()
    }

    /// Whether to stop, because another process waits or sealing failed. Must be polled often, also while FAISS is
    /// working, but never under the maintenance lock: it seals the delta, so that inserting backends need not, and
    /// periodically closes the table.
    pub fn must_yield(&mut self) -> bool {
        if self.failure.is_none() && !self.access.must_yield() {
            self.failure = seal::try_down_to(self.rel, self.delta_limit_bytes).err();
            return self.failure.is_some();
        }
        true
    }

    /// Called between batches, with no buffer locked: closes the table and seals the delta if it is too large. False:
    /// abandon the merge because another process waits.
    pub fn should_continue(&mut self) -> Result<bool, IndexError> {
        self.access.release_table();
        seal::down_to(self.rel, self.delta_limit_bytes)?;
        Ok(!self.access.must_yield())
    }

    /// Sleeps without holding a snapshot or lock that keeps VACUUM from removing rows.
    pub fn rest(&mut self, time: Duration) {
        self.access.release_table();
        crate::pg::worker::nap(time);
    }
}
