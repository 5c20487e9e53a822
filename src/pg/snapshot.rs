//! PostgreSQL snapshots that this process takes.

use pgrx::pg_sys;

use super::callback;
use super::relation::Rel;

/// A new snapshot, active so that functions in index expressions use it too. While it exists, the horizon
/// (`xid::oldest_running`) passes neither the rows it sees nor the pages that this process writes, so unreferenced new
/// pages are not reclaimed. This does not hold in VACUUM, whose snapshots do not hold back the horizon.
pub struct ActiveSnapshot(pg_sys::Snapshot);

impl ActiveSnapshot {
    pub fn latest() -> Self {
        // SAFETY: called in a transaction.
        Self::push(unsafe { pg_sys::GetLatestSnapshot() })
    }

    /// A new snapshot for catalogue lookups, whatever the isolation level: the snapshot of a REPEATABLE READ
    /// transaction can be older than the current meaning of a name.
    pub fn of_catalogue() -> Self {
        // SAFETY: called in a transaction; without a relation, it is a new one.
        Self::push(unsafe { pg_sys::GetCatalogSnapshot(pg_sys::InvalidOid) })
    }

    fn push(snapshot: pg_sys::Snapshot) -> Self {
        // SAFETY: PostgreSQL's snapshot of this moment, of which a copy is pushed.
        unsafe { pg_sys::PushActiveSnapshot(snapshot) };
        // SAFETY: one was just pushed.
        ActiveSnapshot(unsafe { pg_sys::GetActiveSnapshot() })
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

type LockRelation = unsafe extern "C-unwind" fn(pg_sys::Relation, pg_sys::Snapshot);

/// The calling query's snapshot, which outlives every function that the query calls.
pub struct CallersSnapshot(pg_sys::Snapshot);

impl CallersSnapshot {
    /// None outside a query.
    pub fn get() -> Option<Self> {
        // SAFETY: reads this process's state.
        let is_set = unsafe { pg_sys::ActiveSnapshotSet() };
        // SAFETY: there is one.
        is_set.then(|| CallersSnapshot(unsafe { pg_sys::GetActiveSnapshot() }))
    }

    pub fn is(&self, other: pg_sys::Snapshot) -> bool {
        self.0 == other
    }

    /// Registers a predicate lock on the whole index for serializable transactions, as PostgreSQL does at the start of
    /// a scan. Must be called before the first page is read: rows inserted from then on are conflicts.
    pub fn note_index_read(&self, index: Rel) {
        // SAFETY: the relation is open, and the query's snapshot valid.
        unsafe { callback::call(PredicateLockRelation as LockRelation, (index.as_ptr(), self.0)) };
    }
}

/// The calling query's snapshot, registered: it stays valid until it is unregistered, or until the transaction ends.
pub fn registered_active() -> pg_sys::Snapshot {
    // SAFETY: called in a query, which has a snapshot.
    let active = unsafe { pg_sys::GetActiveSnapshot() };
    // SAFETY: valid.
    unsafe { pg_sys::RegisterSnapshot(active) }
}

/// As `registered_active`, of a new snapshot.
pub fn registered_latest() -> pg_sys::Snapshot {
    // SAFETY: called in a transaction.
    let latest = unsafe { pg_sys::GetLatestSnapshot() };
    // SAFETY: valid until something else asks for one.
    unsafe { pg_sys::RegisterSnapshot(latest) }
}

/// Releases the snapshot that PostgreSQL keeps from the last catalogue lookup. In a session it ends with each
/// statement; in a long-running process it would keep VACUUM from removing rows anywhere in the database.
pub fn forget_catalogue_snapshot() {
    // SAFETY: called in a transaction; the next look takes a new one.
    unsafe { pg_sys::InvalidateCatalogSnapshot() };
}
