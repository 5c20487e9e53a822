//! Heavyweight locks: interruptible, deadlock-checked, visible in pg_locks, released at the latest by the transaction.
//!
//! They are page locks on pseudo pages of the index; no code locks those pages for another reason.

use pgrx::pg_sys;

use super::relation::Rel;

/// What a lock keeps others from doing.
#[derive(Clone, Copy)]
pub enum Purpose {
    /// Changing the manifest: VACUUM, sealing and compaction exclude one another (invariant 6).
    Maintenance = 0,
    /// Writing a segment's cache file: one backend does, the others wait for it.
    Materialise = 1,
}

pub struct IndexLock {
    rel: Rel,
    purpose: Purpose,
}

const MODE: pg_sys::LOCKMODE = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;

impl IndexLock {
    pub fn acquire(rel: Rel, purpose: Purpose) -> Self {
        // SAFETY: the relation is open.
        unsafe { pg_sys::LockPage(rel.as_ptr(), purpose as u32, MODE) };
        IndexLock { rel, purpose }
    }
}

impl Drop for IndexLock {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: acquired in `acquire`; the relation is still open, since the borrower of `Rel` keeps it so.
            unsafe { pg_sys::UnlockPage(self.rel.as_ptr(), self.purpose as u32, MODE) };
        }
    }
}
