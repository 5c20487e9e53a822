//! Server internals. Only this folder touches buffers, WAL and locks, and raises PostgreSQL errors.
//!
//! Guards release their resource when dropped, except while a panic unwinds: by then ereport has reset
//! `InterruptHoldoffCount`, and a late `LWLockRelease` would make it negative; the transaction's abort releases buffers
//! and locks instead. Hence the rule: nothing catches a panic and continues, except `subtransaction`, which aborts its
//! subtransaction, and `interrupts`, which re-raises the error after FAISS's frames have returned.

pub mod bitmap;
pub mod buffer;
pub mod bytes;
pub mod callback;
pub mod catalogue;
pub mod condition;
pub mod error;
pub mod exit;
pub mod expression;
pub mod extension;
pub mod free_space;
pub mod interrupts;
pub mod invalidation;
pub mod list;
pub mod lock;
pub mod memory;
pub mod node;
pub mod owner;
pub mod plan_node;
pub mod progress;
pub mod relation;
mod report;
pub mod results;
pub mod row_limit;
pub mod search_path;
pub mod settings;
pub mod snapshot;
pub mod spi;
pub mod subtransaction;
pub mod text;
pub mod transaction;
pub mod visible_index;
pub mod wal;
pub mod worker;
pub mod xid;

pub use interrupts::take_interrupts;

/// Whether this server replays WAL, so that pages can change in spite of heavyweight locks.
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
