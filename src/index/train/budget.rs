//! Resource limits of a build, checked before FAISS starts.

use crate::engine::{self, Builder};
use crate::index::error::{IndexError, MemoryShortage, ShortageKind};
use crate::pg::memory;

/// Resource limits of a build.
#[derive(Clone, Copy)]
pub struct Resources {
    /// OpenMP threads for FAISS.
    pub threads: usize,
    /// Approximate bytes of one batch of rows.
    pub batch_bytes: usize,
    /// Limit on memory beside the index itself; None: no limit.
    pub work_bytes: Option<u64>,
    /// Estimate of the memory in which the system caches tables and indexes (`effective_cache_size`).
    pub cache_bytes: u64,
}

impl Resources {
    /// The limit on training samples.
    pub fn work_bytes(self) -> u64 {
        self.work_bytes.unwrap_or(u64::MAX)
    }
}

/// Rows to train on, and rows in the table.
pub struct TrainingSample {
    pub rows: usize,
    pub table_rows: usize,
}

/// Err if the build needs more memory than there is, or more beside the index itself than `maintenance_work_mem`.
/// Checked in advance, because running out of memory on a FAISS thread aborts the process.
pub fn check_memory(
    builder: &Builder,
    factory: &str,
    sample: TrainingSample,
    rows: u64,
    resources: Resources,
) -> Result<(), IndexError> {
    let shortage = |kind, needed_bytes, available_bytes| {
        let factory = factory.to_string();
        Err(IndexError::Memory(MemoryShortage { kind, factory, needed_bytes, available_bytes }))
    };
    let needed = builder.build_bytes(rows, sample.rows, sample.table_rows, resources.batch_bytes);
    if let Some(limit) = resources.work_bytes
        && needed.work > limit
    {
        return shortage(ShortageKind::Setting, needed.work, limit);
    }
    match memory::available_bytes() {
        Some(available_bytes) if needed.total > available_bytes => {
            shortage(ShortageKind::System, needed.total, available_bytes)
        }
        _ => Ok(()),
    }
}

/// A message for the user if memory limits training to fewer rows than the factory could use; empty otherwise.
pub fn shortage(builder: &Builder, sample: TrainingSample, resources: Resources) -> String {
    let enough = builder.enough_training_rows().min(sample.table_rows);
    if sample.rows >= enough {
        return String::new();
    }
    format!(
        "trained on {} rows, as maintenance_work_mem ({} MB) allows no more; {} would do better",
        engine::grouped(sample.rows as u64),
        resources.work_bytes() >> 20,
        engine::grouped(enough as u64)
    )
}
