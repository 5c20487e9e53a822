//! Resource limits of a build, from PostgreSQL's settings.

use pgrx::pg_sys;

pub use crate::index::train::Resources;
use crate::pg::settings;

/// Minimum to which `maintenance_work_mem` is raised: FAISS needs it for anything but a scan.
const MIN_WORK_BYTES: u64 = 32 << 20;

/// One thread each for the leader and the parallel workers it could have. A batch gets an eighth of
/// maintenance_work_mem, because two batches can be in memory at a time, within limits outside of which its size has no
/// effect.
pub fn resources() -> Resources {
    let work_bytes = (settings::maintenance_work_mem().max(0) as u64 * 1024).max(MIN_WORK_BYTES);
    Resources {
        threads: settings::max_parallel_maintenance_workers().max(0) as usize + 1,
        batch_bytes: (work_bytes as usize / 8).min(64 << 20),
        work_bytes: Some(work_bytes),
        cache_bytes: cache_bytes(),
    }
}

/// The planner's estimate of the memory in which the system caches tables and indexes.
pub fn cache_bytes() -> u64 {
    u64::from(settings::effective_cache_size().unsigned_abs()) * u64::from(pg_sys::BLCKSZ)
}
