//! Resource limits of a build, from PostgreSQL's settings.

use pgrx::pg_sys;

pub use crate::index::train::Resources;

/// Minimum to which `maintenance_work_mem` is raised: FAISS needs it for anything but a scan.
const MIN_WORK_BYTES: u64 = 32 << 20;

/// One thread each for the leader and the parallel workers it could have. A batch gets an eighth of
/// maintenance_work_mem, because two batches can be in memory at a time, within limits outside of which its size has no
/// effect.
pub fn resources() -> Resources {
    // SAFETY: plain reads of settings.
    let (workers, kilobytes) =
        unsafe { (pg_sys::max_parallel_maintenance_workers, pg_sys::maintenance_work_mem) };
    let work_bytes = (kilobytes.max(0) as u64 * 1024).max(MIN_WORK_BYTES);
    Resources {
        threads: workers.max(0) as usize + 1,
        batch_bytes: (work_bytes as usize / 8).min(64 << 20),
        work_bytes: Some(work_bytes),
        cache_bytes: cache_bytes(),
    }
}

/// The planner's estimate of the memory in which the system caches tables and indexes.
pub fn cache_bytes() -> u64 {
    // SAFETY: a plain read of a setting.
    u64::from(unsafe { pg_sys::effective_cache_size }.unsigned_abs()) * u64::from(pg_sys::BLCKSZ)
}
