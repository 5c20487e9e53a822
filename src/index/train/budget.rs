//! What a build may use, and whether that is enough: to be known before FAISS begins.

use crate::engine::{self, Builder};
use crate::index::error::{IndexError, MemoryShortage, ShortageKind};
use crate::pg::memory;

/// What a build may use.
#[derive(Clone, Copy)]
pub struct Resources {
    /// For FAISS.
    pub threads: usize,
    /// Rows are handed to FAISS in batches of about so many bytes.
    pub batch_bytes: usize,
    /// What may be used beside the index itself; None: whatever there is.
    pub work_bytes: Option<u64>,
    /// What the system is thought to keep of tables and indexes in memory.
    pub cache_bytes: u64,
}

impl Resources {
    /// The limit on training samples: the setting, or none.
    pub fn work_bytes(self) -> u64 {
        self.work_bytes.unwrap_or(u64::MAX)
    }
}

/// How many rows train an index, of how many that there are.
pub struct TrainingSample {
    pub rows: usize,
    pub table_rows: usize,
}

/// FAISS ends the process when memory runs out in one of its threads; so the answer must be known before. And what
/// the index does not keep must fit into `maintenance_work_mem`.
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

/// Why a builder learns from less than its kind needs to be at its best, where the table has more.
pub fn shortage(builder: &Builder, sample: TrainingSample, resources: Resources) -> String {
    let enough = builder.enough_training_rows().min(sample.table_rows);
    if sample.rows >= enough {
        return String::new();
    }
    format!(
        "learnt from {} rows, as maintenance_work_mem ({} MB) allows no more; {} would do better",
        engine::grouped(sample.rows as u64),
        resources.work_bytes() >> 20,
        engine::grouped(enough as u64)
    )
}
