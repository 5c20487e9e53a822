//! Transaction ids as horizons, in their 64-bit form that never wraps.

use pgrx::pg_sys;

/// The id that the next transaction gets. Whoever writes a page now has a smaller one.
pub fn next() -> u64 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::ReadNextFullTransactionId() }.value
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
