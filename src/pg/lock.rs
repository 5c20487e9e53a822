//! Heavyweight locks: interruptible, deadlock-checked, visible in pg_locks, released at the latest by the transaction.
//!
//! They are page locks on pseudo pages of the index; no code locks those pages for another reason.

use pgrx::pg_sys;

use super::relation::Rel;

/// What a lock keeps others from doing.
#[derive(Clone, Copy)]
pub enum Purpose {
    /// Changing the manifest, or taking rows out of the delta (invariant 6).
    Maintenance = 0,
    /// Writing a segment's cache file: one backend does, the others wait for it.
    Materialise = 1,
    /// Merging segments: one process at a time, for as long as that takes. Taken before Maintenance.
    Compaction = 2,
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

    /// None if somebody else holds it.
    pub fn try_acquire(rel: Rel, purpose: Purpose) -> Option<Self> {
        // SAFETY: the relation is open.
        let is_ours = unsafe { pg_sys::ConditionalLockPage(rel.as_ptr(), purpose as u32, MODE) };
        is_ours.then(|| IndexLock { rel, purpose })
    }
}

/// Whether anybody waits for a lock on the relation that conflicts with ours, which is a ShareUpdateExclusiveLock:
/// waiters for weaker locks, taken on PostgreSQL's fast path, cannot be asked for.
pub fn has_waiters(rel: Rel) -> bool {
    // SAFETY: the relation is open and locked in this mode by the caller.
    unsafe {
        pg_sys::LockHasWaitersRelation(rel.as_ptr(), pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE)
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
