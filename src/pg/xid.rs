//! Transaction ids as horizons, in their 64-bit form that never wraps.

use pgrx::pg_sys;

/// The id that the next transaction gets. Whoever writes a page now has a smaller one.
pub fn next() -> u64 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::ReadNextFullTransactionId() }.value
}

/// Gives up the snapshot that PostgreSQL keeps from the last look into its catalogue. In a session it goes with each
/// statement; a process that works for long without one would keep VACUUM from removing rows anywhere in the database.
pub fn forget_catalogue_snapshot() {
    // SAFETY: called in a transaction; the next look takes a new one.
    unsafe { pg_sys::InvalidateCatalogSnapshot() };
}

/// While it lives, the horizon does not pass the pages that this process writes: whoever looks for garbage leaves them
/// alone, though nothing refers to them yet. Not in VACUUM, whose snapshots hold up nobody.
pub struct HeldHorizon(());

impl HeldHorizon {
    pub fn hold() -> Self {
        // SAFETY: called in a transaction.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
        HeldHorizon(())
    }
}

impl Drop for HeldHorizon {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pushed in `hold`; what is pushed in between is popped in between.
            unsafe { pg_sys::PopActiveSnapshot() };
        }
    }
}

/// Every transaction with a smaller id is over, and no snapshot is left that could see it run.
pub fn oldest_running() -> u64 {
    // SAFETY: both read shared memory; no relation means the horizon that holds for all of them.
    let (next, oldest) = unsafe {
        let oldest = pg_sys::GetOldestNonRemovableTransactionId(core::ptr::null_mut());
        (next(), u64::from(oldest.into_inner()))
    };
    let epoch = next >> 32;
    // The oldest id is behind the next one; a larger 32-bit value belongs to the epoch before.
    let epoch = if oldest > (next & 0xFFFF_FFFF) { epoch.saturating_sub(1) } else { epoch };
    epoch << 32 | oldest
}
