//! Server internals: the only place that touches buffers, WAL and locks, and that raises PostgreSQL errors.
//!
//! Guards here release what they hold when they go out of scope, except while a panic unwinds: an ereport has reset
//! `InterruptHoldoffCount` by then, so a late `LWLockRelease` would underflow it; the transaction's abort releases
//! buffers and locks instead. Hence the rule: nobody catches a panic and goes on, but `subtransaction`, which aborts one;
//! and `interrupts` keeps one back until FAISS's frames are gone.

pub mod bitmap;
pub mod buffer;
pub mod bytes;
pub mod catalogue;
pub mod condition;
pub mod error;
pub mod exit;
pub mod extension;
pub mod free_space;
pub mod interrupts;
pub mod invalidation;
pub mod lock;
pub mod memory;
pub mod owner;
pub mod progress;
pub mod relation;
pub mod results;
pub mod search_path;
pub mod snapshot;
pub mod spi;
pub mod subtransaction;
pub mod text;
pub mod transaction;
pub mod wal;
pub mod worker;
pub mod xid;

pub use interrupts::take_interrupts;

/// Whether this server replays WAL: pages then change under whatever lock one holds.
pub fn is_in_recovery() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pgrx::pg_sys::RecoveryInProgress() }
}

/// Sleeps if VACUUM has used up its cost limit, and takes interrupts.
pub fn vacuum_delay_point() {
    take_interrupts();
    // SAFETY: called on the main thread with no buffer locked.
    unsafe { delay() };
}

#[cfg(not(feature = "pg18"))]
use pgrx::pg_sys::vacuum_delay_point as delay;

#[cfg(feature = "pg18")]
unsafe fn delay() {
    // SAFETY: as the caller; this is not ANALYZE.
    unsafe { pgrx::pg_sys::vacuum_delay_point(false) };
}
