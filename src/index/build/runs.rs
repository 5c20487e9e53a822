//! A table in runs of blocks, between which FAISS works on what they held.

use crate::pg::progress;

/// The most blocks that one run of the table scan takes.
const MAX_RUN_BLOCKS: u32 = 1024;

/// The table's blocks in runs, between which FAISS works on what they held.
pub struct Runs {
    next: u32,
    end: u32,
    blocks: u32,
}

/// Some blocks, one after the other.
pub struct Run {
    pub start: u32,
    pub blocks: u32,
}

impl Runs {
    /// Of the blocks before `end`.
    pub fn new(end: u32) -> Self {
        Runs { next: 0, end, blocks: 1 }
    }

    /// Tells how far the scan has come.
    pub fn report(&self) {
        progress::blocks(self.next, self.end);
    }

    pub fn is_over(&self) -> bool {
        self.next == self.end
    }

    /// How many bytes lie behind a block depends on TOAST: feels for runs of about half a batch.
    pub fn adapt(&mut self, run_bytes: usize, batch_bytes: usize) {
        self.blocks = match run_bytes {
            bytes if bytes < batch_bytes / 4 => (self.blocks * 2).min(MAX_RUN_BLOCKS),
            bytes if bytes > batch_bytes / 2 => (self.blocks / 2).max(1),
            _ => self.blocks,
        };
    }
}

impl Iterator for Runs {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let run = Run { start: self.next, blocks: self.blocks.min(self.end - self.next) };
        self.next += run.blocks;
        (run.blocks > 0).then_some(run)
    }
}
