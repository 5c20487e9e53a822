//! Snapshots that this process takes for itself.

use pgrx::pg_sys;

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

    pub fn as_ptr(&self) -> pg_sys::Snapshot {
        self.0
    }
}

impl Drop for ActiveSnapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pushed in `latest`; what is pushed in between is popped in between.
            unsafe { pg_sys::PopActiveSnapshot() };
        }
    }
}

/// Gives up the snapshot that PostgreSQL keeps from the last look into its catalogue. In a session it goes with each
/// statement; a process that works for long without one would keep VACUUM from removing rows anywhere in the database.
pub fn forget_catalogue_snapshot() {
    // SAFETY: called in a transaction; the next look takes a new one.
    unsafe { pg_sys::InvalidateCatalogSnapshot() };
}
