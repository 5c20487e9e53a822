//! Heavyweight locks: interruptible, deadlock-checked, visible in pg_locks, released at the latest by the transaction.
//!
//! They are tuple locks on pseudo tuples of the index, with the purpose as block number; PostgreSQL never locks tuples
//! of an index. Page locks are unsuitable: up to version 16, PostgreSQL forbids waiting for another lock while holding
//! one, and ignores them in deadlock detection (storage/lmgr/deadlock.c, FindLockCycleRecurseMember).

use pgrx::pg_sys;

use super::relation::Rel;

/// The operations that a lock excludes.
#[derive(Clone, Copy)]
pub enum Purpose {
    /// Changes of the manifest, and removal of rows from the delta (invariant 6).
    Maintenance = 0,
    /// Writing a segment's cache file: one backend writes, the others wait for it.
    Materialise = 1,
    /// Merging segments, for the whole duration of the merge. Acquired before Maintenance.
    Compaction = 2,
}

pub struct IndexLock {
    rel: Rel,
    purpose: Purpose,
}

const MODE: pg_sys::LOCKMODE = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;

impl IndexLock {
    pub fn acquire(rel: Rel, purpose: Purpose) -> Self {
        // SAFETY: the relation is open, and the tuple id is only read.
        unsafe { pg_sys::LockTuple(rel.as_ptr(), &mut pseudo_tuple(purpose), MODE) };
        IndexLock { rel, purpose }
    }

    /// None if another process holds it.
    pub fn try_acquire(rel: Rel, purpose: Purpose) -> Option<Self> {
        // SAFETY: the relation is open, and the tuple id is only read.
        let is_ours = unsafe { try_lock(rel, &mut pseudo_tuple(purpose)) };
        // Constructed only on success, because dropping it releases a lock.
        is_ours.then(|| IndexLock { rel, purpose })
    }

    /// Whether another process waits for it.
    pub fn has_waiters(&self) -> bool {
        // SAFETY: set at session start.
        let database = unsafe { pg_sys::MyDatabaseId };
        // PostgreSQL's `SET_LOCKTAG_TUPLE` (storage/lock.h) of the pseudo tuple.
        let tag = pg_sys::LOCKTAG {
            locktag_field1: database.to_u32(),
            locktag_field2: self.rel.oid().to_u32(),
            locktag_field3: self.purpose as u32,
            locktag_field4: PSEUDO_OFFSET,
            locktag_type: pg_sys::LockTagType::LOCKTAG_TUPLE as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        };
        // SAFETY: the lock is held by this process, and never on the fast path, which is for relations.
        unsafe { pg_sys::LockHasWaiters(&tag, MODE, false) }
    }
}

/// Offset of the pseudo tuples in their blocks.
const PSEUDO_OFFSET: u16 = 1;

fn pseudo_tuple(purpose: Purpose) -> pg_sys::ItemPointerData {
    let block = pg_sys::BlockIdData { bi_hi: 0, bi_lo: purpose as u16 };
    pg_sys::ItemPointerData { ip_blkid: block, ip_posid: PSEUDO_OFFSET }
}

/// # Safety
/// The relation is open.
#[cfg(not(feature = "pg18"))]
unsafe fn try_lock(rel: Rel, tuple: &mut pg_sys::ItemPointerData) -> bool {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::ConditionalLockTuple(rel.as_ptr(), tuple, MODE) }
}

/// # Safety
/// The relation is open.
#[cfg(feature = "pg18")]
unsafe fn try_lock(rel: Rel, tuple: &mut pg_sys::ItemPointerData) -> bool {
    // SAFETY: the caller's promise; failing is no news for the log.
    unsafe { pg_sys::ConditionalLockTuple(rel.as_ptr(), tuple, MODE, false) }
}

/// Whether another session holds the strongest lock on a relation, as its creator does until the end of the
/// transaction. Takes the oid, because the relation may not be visible to this session.
pub fn is_exclusively_locked(relation: u32) -> bool {
    let (relation, mode) = (relation.into(), pg_sys::AccessShareLock);
    let is_free = try_lock_relation(relation, mode);
    if is_free {
        unlock_relation(relation, mode);
    }
    !is_free
}

/// Locks a relation, which need not exist, if nobody is in the way.
pub(super) fn try_lock_relation(relation: pg_sys::Oid, mode: u32) -> bool {
    // SAFETY: locks a number, in a transaction, which releases it at the latest.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, mode as pg_sys::LOCKMODE) }
}

/// Gives back what `try_lock_relation` took.
pub(super) fn unlock_relation(relation: pg_sys::Oid, mode: u32) {
    // SAFETY: a lock of this process; PostgreSQL warns where there is none.
    unsafe { pg_sys::UnlockRelationOid(relation, mode as pg_sys::LOCKMODE) };
}

/// Whether another process waits for a lock that conflicts with ours, a ShareUpdateExclusiveLock. Waiters for weaker
/// locks, which PostgreSQL takes on the fast path, cannot be detected.
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
            unsafe { pg_sys::UnlockTuple(self.rel.as_ptr(), &mut pseudo_tuple(self.purpose), MODE) };
        }
    }
}
