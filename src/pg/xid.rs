//! Transaction ids as horizons, in the 64-bit form that never wraps around.

use pgrx::pg_sys;

/// The next transaction id. Every transaction that is writing a page now has a smaller one.
pub fn next() -> u64 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::ReadNextFullTransactionId() }.value
}

/// All transactions with smaller ids are over, and no snapshot sees any of them as running.
pub fn oldest_running() -> u64 {
    // SAFETY: both read shared memory; no relation means the horizon that holds for all of them.
    let (next, oldest) = unsafe {
        let oldest = pg_sys::GetOldestNonRemovableTransactionId(core::ptr::null_mut());
        (next(), u64::from(oldest.into_inner()))
    };
    let epoch = next >> 32;
    // The oldest id is below the next one, so a larger 32-bit value belongs to the previous epoch.
    let epoch = if oldest > (next & 0xFFFF_FFFF) { epoch.saturating_sub(1) } else { epoch };
    epoch << 32 | oldest
}
