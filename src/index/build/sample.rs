//! Rows from random places of a table: to train an index on, to count the others by, and as queries to calibrate it.

use std::time::Instant;

use crate::engine::{self, Builder, TrainingRows};
use crate::index::Definition;
use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::table::{Table, TableRow};
use crate::index::train::{HeldBack, Resources, TrainingSample, wanted_queries};
use crate::pg::progress;

/// Rows looked at, at least, to estimate how many there are.
const MIN_SAMPLE_ROWS: usize = 1000;
/// And if some of them are to be held back for calibration: they are to come from many places.
const MIN_CALIBRATION_ROWS: usize = 4000;

/// About how many rows there are to index; exactly, if so few that they could be scanned.
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

/// Rows from random places of the table, in the form that is indexed.
pub struct Sample {
    /// Those kept for training.
    rows: Vec<f32>,
    dims: usize,
    /// Rows looked at.
    count: usize,
    /// Blocks that were read for it, of how many.
    blocks: (u32, u32),
    /// Some for calibration, each row that was looked at with the same chance.
    queries: Vec<(Tid, Vec<f32>)>,
    random: Random,
}

impl Sample {
    /// `trains`: enough rows to train the index are kept.
    pub fn take(
        definition: &Definition,
        table: &mut dyn Table,
        resources: Resources,
        trains: bool,
    ) -> Result<Self, IndexError> {
        let builder = Builder::new(&definition.factory, definition.dims, definition.metric)?;
        let training = if trains { builder.training_rows() } else { TrainingRows::default() };
        let training_rows = training.wanted.min(builder.trainable_rows(resources.work_bytes()));
        // If there are enough, as `check_memory` must know.
        let least = if builder.is_approximate() { MIN_CALIBRATION_ROWS } else { MIN_SAMPLE_ROWS };
        let wanted = training_rows.max(training.enough()).max(least);
        let most_queries =
            if builder.is_approximate() { wanted_queries(u64::MAX, definition.dims) } else { 0 };

        let dims = definition.dims;
        let (queries, random) = (Vec::new(), Random::new());
        let mut sample =
            Sample { rows: Vec::new(), dims, count: 0, blocks: (0, table.blocks()), queries, random };
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

    /// Reservoir sampling (Vitter's algorithm R): the `count`-th row takes the place of another by chance.
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

    /// The rows that calibrate `builder`.
    pub fn hold_back(&mut self, definition: &Definition, builder: &Builder, started: Instant) -> HeldBack {
        let mut queries = std::mem::take(&mut self.queries);
        queries.truncate(wanted_queries(self.estimated_rows(), self.dims));
        if !builder.is_approximate() {
            queries.clear();
        }
        HeldBack::new(definition.metric, self.dims, queries, started)
    }

    /// Those kept for training, row-major.
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// Rows looked at.
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

/// A linear congruential generator (Knuth's MMIX constants), the same for each build.
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

/// All block numbers, in an order that has nothing to do with the table's: a Fisher-Yates shuffle.
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
