//! Snapshots that this process takes for itself.

use pgrx::pg_sys;

use super::relation::Rel;

/// A snapshot of now, also for the functions in index expressions. While it lives, the horizon (`xid::oldest_running`)
/// passes neither the rows that it sees nor the pages that this process writes: whoever looks for garbage leaves them
/// alone, though nothing refers to them yet. Not in VACUUM, whose snapshots hold up nobody.
pub struct ActiveSnapshot(pg_sys::Snapshot);

impl ActiveSnapshot {
    pub fn latest() -> Self {
        // SAFETY: called in a transaction.
        unsafe {
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
            ActiveSnapshot(pg_sys::GetActiveSnapshot())
        }
    }

    /// The one by which names are found in the catalogue at this moment, whatever the isolation level: that of a
    /// REPEATABLE READ transaction can be older than what a name means by now.
    pub fn of_catalogue() -> Self {
        // SAFETY: called in a transaction; what is pushed is a copy. Without a relation, it is a new one.
        unsafe {
            pg_sys::PushActiveSnapshot(pg_sys::GetCatalogSnapshot(pg_sys::InvalidOid));
            ActiveSnapshot(pg_sys::GetActiveSnapshot())
        }
    }

    pub fn as_ptr(&self) -> pg_sys::Snapshot {
        self.0
    }
}

impl Drop for ActiveSnapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pushed when it was made; what is pushed in between is popped in between.
            unsafe { pg_sys::PopActiveSnapshot() };
        }
    }
}

unsafe extern "C-unwind" {
    /// storage/predicate.h, which pgrx does not bind.
    fn PredicateLockRelation(relation: pg_sys::Relation, snapshot: pg_sys::Snapshot);
}

/// The snapshot of the calling query, which keeps it for longer than any function that it calls.
pub struct CallersSnapshot(pg_sys::Snapshot);

impl CallersSnapshot {
    /// None outside of a query.
    pub fn get() -> Option<Self> {
        // SAFETY: asked for only where there is one.
        unsafe { pg_sys::ActiveSnapshotSet().then(|| CallersSnapshot(pg_sys::GetActiveSnapshot())) }
    }

    pub fn is(&self, other: pg_sys::Snapshot) -> bool {
        self.0 == other
    }

    /// Notes for serializable transactions that all of an index is read under it, as PostgreSQL does when a scan begins.
    /// Before the first page is read: what is inserted from then on is a conflict.
    pub fn note_index_read(&self, index: Rel) {
        // SAFETY: the relation is open, and the query's snapshot valid; the boundary turns an error into a panic.
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| PredicateLockRelation(index.as_ptr(), self.0)) }
    }
}

/// Gives up the snapshot that PostgreSQL keeps from the last look into its catalogue. In a session it goes with each
/// statement; a process that works for long without one would keep VACUUM from removing rows anywhere in the database.
pub fn forget_catalogue_snapshot() {
    // SAFETY: called in a transaction; the next look takes a new one.
    unsafe { pg_sys::InvalidateCatalogSnapshot() };
}
