//! Splits a table scan into runs of blocks, so that FAISS can work between two runs.

use crate::pg::progress;

/// Upper limit on the blocks of one run.
const MAX_RUN_BLOCKS: u32 = 1024;

/// A scan of the table's blocks, split into runs.
pub struct Runs {
    next: u32,
    end: u32,
    blocks: u32,
}

/// Consecutive blocks.
pub struct BlockRun {
    pub start: u32,
    pub blocks: u32,
}

impl Runs {
    /// Runs over the blocks before `end`.
    pub fn new(end: u32) -> Self {
        Runs { next: 0, end, blocks: 1 }
    }

    /// Reports progress to `pg_stat_progress_create_index`.
    pub fn report(&self) {
        progress::blocks(self.next, self.end);
    }

    pub fn is_over(&self) -> bool {
        self.next == self.end
    }

    /// Adapts the length of the next run. TOAST makes the bytes per block unpredictable, so the length is adjusted
    /// until a run has about half a batch.
    pub fn adapt(&mut self, run_bytes: usize, batch_bytes: usize) {
        self.blocks = match run_bytes {
            bytes if bytes < batch_bytes / 4 => (self.blocks * 2).min(MAX_RUN_BLOCKS),
            bytes if bytes > batch_bytes / 2 => (self.blocks / 2).max(1),
            _ => self.blocks,
        };
    }
}

impl Iterator for Runs {
    type Item = BlockRun;

    fn next(&mut self) -> Option<BlockRun> {
        let run = BlockRun { start: self.next, blocks: self.blocks.min(self.end - self.next) };
        self.next += run.blocks;
        (run.blocks > 0).then_some(run)
    }
}
