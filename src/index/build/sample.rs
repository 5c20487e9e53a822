//! A random sample of table rows: for training, for estimating the number of rows, and as calibration queries.

use std::time::Instant;

use crate::engine::{self, Builder, TrainingRows};
use crate::index::Definition;
use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::table::{Table, TableRow};
use crate::index::train::{HoldoutRows, Resources, TrainingSample, wanted_queries};
use crate::pg::progress;

/// Minimum rows to read for the estimate of the number of rows.
const MIN_SAMPLE_ROWS: usize = 1000;
/// Minimum rows to read if some become holdout queries, so that these come from many blocks.
const MIN_CALIBRATION_ROWS: usize = 4000;

/// Estimates how many rows are to be indexed; exact if the table is small enough to be scanned whole.
pub fn count_rows(definition: &Definition, table: &mut dyn Table) -> Result<u64, IndexError> {
    let (enough, blocks) = (engine::scanned_rows(definition.dims), table.blocks());
    let (mut seen, mut read, mut row) = (0u64, 0u32, Vec::new());
    for block in shuffled(blocks) {
        pgrx::check_for_interrupts!();
        table.scan_blocks(block, 1, true, &mut |TableRow { vector, .. }| {
            row.clear();
            row.extend_from_slice(vector);
            seen += u64::from(definition.metric.prepare(&mut row));
            Ok(())
        })?;
        read += 1;
        progress::blocks(read, blocks);
        if seen >= enough {
            break;
        }
    }
    let estimated = seen as f64 * f64::from(blocks) / f64::from(read.max(1));
    Ok(seen.max(estimated as u64))
}

/// Rows from random blocks of the table, in their indexed form.
pub struct TableSample {
    /// The rows kept for training.
    rows: Vec<f32>,
    dims: usize,
    /// Number of rows read.
    count: usize,
    /// Blocks read, and blocks in the table.
    blocks: (u32, u32),
    /// Reservoir of calibration queries: each row read has the same chance to be in it.
    queries: Vec<(Tid, Vec<f32>)>,
    random: Random,
}

impl TableSample {
    /// `trains`: also keep as many rows as training uses.
    pub fn take(
        definition: &Definition,
        table: &mut dyn Table,
        resources: Resources,
        trains: bool,
    ) -> Result<Self, IndexError> {
        let builder = Builder::new(&definition.factory, definition.dims, definition.metric)?;
        let training = if trains { builder.training_rows() } else { TrainingRows::default() };
        let training_rows = training.wanted.min(builder.trainable_rows(resources.work_bytes()));
        // `check_memory` must know whether the sample is large enough to train on.
        let least = if builder.is_approximate() { MIN_CALIBRATION_ROWS } else { MIN_SAMPLE_ROWS };
        let wanted = training_rows.max(training.enough()).max(least);
        let most_queries =
            if builder.is_approximate() { wanted_queries(u64::MAX, definition.dims) } else { 0 };

        let dims = definition.dims;
        let (queries, random) = (Vec::new(), Random::new());
        let mut sample =
            TableSample { rows: Vec::new(), dims, count: 0, blocks: (0, table.blocks()), queries, random };
        let mut row = Vec::new();
        for block in shuffled(table.blocks()) {
            pgrx::check_for_interrupts!();
            table.scan_blocks(block, 1, true, &mut |TableRow { tid, vector, .. }| {
                row.clear();
                row.extend_from_slice(vector);
                if definition.metric.prepare(&mut row) && builder.accepts(&row) {
                    sample.count += 1;
                    if sample.count <= training_rows {
                        sample.rows.extend_from_slice(&row);
                    }
                    sample.consider(tid, &row, most_queries);
                }
                Ok(())
            })?;
            sample.blocks.0 += 1;
            progress::blocks(sample.blocks.0, sample.blocks.1);
            if sample.count >= wanted {
                break;
            }
        }
        Ok(sample)
    }

    /// Reservoir sampling (Vitter's algorithm R): the `count`-th row replaces a random row of the reservoir.
    fn consider(&mut self, tid: Tid, row: &[f32], most: usize) {
        if self.queries.len() < most {
            self.queries.push((tid, row.to_vec()));
            return;
        }
        let place = self.random.below(self.count as u64) as usize;
        if let Some(query) = self.queries.get_mut(place) {
            *query = (tid, row.to_vec());
        }
    }

    /// The holdout queries for calibrating `builder`.
    pub fn hold_back(&mut self, definition: &Definition, builder: &Builder, started: Instant) -> HoldoutRows {
        let mut queries = std::mem::take(&mut self.queries);
        queries.truncate(wanted_queries(self.estimated_rows(), self.dims));
        if !builder.is_approximate() {
            queries.clear();
        }
        HoldoutRows::new(definition.metric, self.dims, queries, started)
    }

    /// The rows kept for training, row-major.
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// Number of rows read.
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn training(&self) -> TrainingSample {
        let table_rows = usize::try_from(self.estimated_rows()).unwrap_or(usize::MAX);
        TrainingSample { rows: self.rows.len() / self.dims, table_rows: table_rows.max(self.count) }
    }

    pub fn estimated_rows(&self) -> u64 {
        let (read, all) = self.blocks;
        if read == 0 { 0 } else { (self.count as f64 * f64::from(all) / f64::from(read)) as u64 }
    }
}

/// A linear congruential generator (Knuth's MMIX constants) with a fixed seed, so that builds are reproducible.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Random(0x9E37_79B9_7F4A_7C15)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }
}

/// All block numbers in random order (Fisher-Yates shuffle).
fn shuffled(blocks: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..blocks).collect();
    let mut random = Random::new();
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at as u64 + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::shuffled;

    #[test]
    fn a_shuffle_has_every_block_once() {
        for blocks in [0, 1, 2, 1000] {
            let mut order = shuffled(blocks);
            order.sort_unstable();
            assert!(order.into_iter().eq(0..blocks), "{blocks}");
        }
    }
}
