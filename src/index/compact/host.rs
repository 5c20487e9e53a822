//! What goes on beside a merge: inserts are sealed, and those who wait are let through.

use std::time::Duration;

use super::seal;
use crate::index::error::IndexError;
use crate::index::table::{Surroundings, Table};
use crate::pg::relation::Rel;

/// What a merge needs from outside.
pub struct Host<'a> {
    rel: Rel,
    /// A delta of more bytes than this is sealed.
    delta_limit_bytes: u64,
    surroundings: &'a mut dyn Surroundings,
    /// Why sealing failed while FAISS was at work.
    pub failure: Option<IndexError>,
}

impl<'a> Host<'a> {
    pub fn new(rel: Rel, delta_limit_bytes: u64, surroundings: &'a mut dyn Surroundings) -> Self {
        Host { rel, delta_limit_bytes, surroundings, failure: None }
    }

    /// Whether the table is there to be asked, now or later. Where it is not, rows are taken as FAISS decodes them.
    pub fn knows_table(&self) -> bool {
        self.surroundings.knows_table()
    }

    /// None if the table cannot be had now.
    pub fn table(&mut self) -> Option<&mut dyn Table> {
        self.surroundings.table()
    }

    /// Whether somebody waits for this process, or it cannot go on. To be asked often, also while FAISS runs, but
    /// without the maintenance lock: it seals what inserts bring, so that the inserters need not, and lets go of the
    /// table now and then.
    pub fn must_yield(&mut self) -> bool {
        if self.failure.is_none() && !self.surroundings.must_yield() {
            self.failure = seal::try_down_to(self.rel, self.delta_limit_bytes).err();
            return self.failure.is_some();
        }
        true
    }

    /// Called between batches, without a lock on a buffer; lets go of the table and seals what is due. False: give the
    /// merge up, others wait.
    pub fn goes_on(&mut self) -> Result<bool, IndexError> {
        self.surroundings.leave_table();
        seal::down_to(self.rel, self.delta_limit_bytes)?;
        Ok(!self.surroundings.must_yield())
    }

    /// Sleeps, holding nothing that keeps VACUUM from removing rows.
    pub fn rest(&mut self, time: Duration) {
        self.surroundings.leave_table();
        crate::pg::worker::nap(time);
    }
}
