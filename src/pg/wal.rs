//! Changes to pages that are logged: generic WAL records of at most four pages, all or nothing.

use pgrx::pg_sys;

use super::buffer::{PageLock, PageMut};
use super::relation::Rel;
use crate::index::format::PageTag;

/// One WAL record in the making. Pages are edited as copies; `commit` applies and logs them together, and a record
/// that is dropped changes nothing. Relations that need no WAL go the same way, unlogged.
pub struct WalRecord {
    state: *mut pg_sys::GenericXLogState,
}

impl WalRecord {
    pub fn start(rel: Rel) -> Self {
        // SAFETY: the relation is open.
        let state = unsafe { pg_sys::GenericXLogStart(rel.as_ptr()) };
        WalRecord { state }
    }

    /// Edits an existing page; `lock` is exclusive and outlives the record's commit.
    pub fn edit<R>(&mut self, lock: &PageLock, change: impl FnOnce(&mut PageMut) -> R) -> R {
        change(&mut self.register(lock, 0))
    }

    /// Gives a page new content, logged as a whole.
    pub fn create(&mut self, lock: &PageLock, tag: PageTag, parts: &[&[u8]]) {
        let mut page = self.register(lock, pg_sys::GENERIC_XLOG_FULL_IMAGE);
        page.init(tag);
        page.set_body(parts);
    }

    fn register<'a>(&mut self, lock: &'a PageLock, flags: u32) -> PageMut<'a> {
        // SAFETY: the buffer is exclusively locked; the copy belongs to this record alone.
        unsafe { PageMut::new(pg_sys::GenericXLogRegisterBuffer(self.state, lock.buffer(), flags as i32)) }
    }

    /// Applies the edits and logs them as one record.
    pub fn commit(self) {
        // SAFETY: started and not finished; the registered buffers are still locked.
        unsafe { pg_sys::GenericXLogFinish(self.state) };
        core::mem::forget(self);
    }
}

impl Drop for WalRecord {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: started and not finished.
            unsafe { pg_sys::GenericXLogAbort(self.state) };
        }
    }
}

/// Logs all of a new relation's pages, once it is complete. Before that nobody else can see it.
pub fn log_relation(rel: Rel) {
    if rel.needs_wal() {
        // SAFETY: the relation is open and its pages are standard ones with pd_lower set.
        unsafe {
            pg_sys::log_newpage_range(rel.as_ptr(), pg_sys::ForkNumber::MAIN_FORKNUM, 0, rel.blocks(), true)
        };
    }
}
