//! What FAISS may use in a build, by PostgreSQL's settings.

use pgrx::pg_sys;

pub use crate::index::train::Resources;

/// Below this much, `maintenance_work_mem` is taken for this much: FAISS needs it for anything but a scan.
const MIN_WORK_BYTES: u64 = 32 << 20;

/// Threads for the leader and the workers that it might have had; an eighth of maintenance_work_mem for a batch, of
/// which two are in memory at times, within limits between which it matters.
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

/// What the planner, too, takes the system to keep of tables and indexes in memory.
pub fn cache_bytes() -> u64 {
    // SAFETY: a plain read of a setting.
    u64::from(unsafe { pg_sys::effective_cache_size }.unsigned_abs()) * u64::from(pg_sys::BLCKSZ)
}
