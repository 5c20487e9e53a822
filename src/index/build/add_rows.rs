//! Adds the table's rows to a FAISS index in batches.

use std::time::{Duration, Instant};

use super::runs::Runs;
use crate::engine::Builder;
use crate::index::Definition;
use crate::index::error::IndexError;
use crate::index::format::{PointRef, Tid};
use crate::index::interruptible::interruptible;
use crate::index::table::{Table, TableRow};
use crate::index::train::{HoldoutRows, Resources};
use crate::pg::progress;

/// The index that the table's rows are added to.
pub struct BaseIndex {
    pub builder: Builder,
    pub factory: String,
    /// Holdout queries among the rows to be added.
    pub held: HoldoutRows,
    /// Estimate of the final number of rows.
    pub expected_rows: u64,
    /// Whether its models were trained on this table.
    pub is_trained: bool,
    /// TIDs of the rows it already has, by position.
    pub tids: Vec<Tid>,
    /// Number of rows in the table, if the index already has all of them.
    pub complete: Option<f64>,
    pub untrained: Option<Untrained>,
    /// What training lacked; see `train::shortage`.
    pub shortage: String,
}

/// The table has too few rows to train the requested factory; the segment is Flat until there are enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untrained {
    pub factory: String,
    pub rows: u64,
    pub needed_rows: u64,
}

/// The result of adding the table's rows.
#[derive(Default)]
pub struct Added {
    /// TIDs by position.
    pub tids: Vec<Tid>,
    /// Rows that FAISS cannot represent because sums over them would overflow. They stay in the delta.
    pub rejected: Vec<(Tid, Vec<f32>)>,
    pub heap_rows: f64,
    /// Whether the segment's models were trained on this table.
    pub is_trained: bool,
    /// Measured operating points, and the time that measuring took.
    pub points: Vec<PointRef>,
    pub calibration: Duration,
    /// Why `auto` chose the factory.
    pub reason: String,
    pub untrained: Option<Untrained>,
    /// What training lacked; see `train::shortage`.
    pub shortage: String,
}

/// Adds every row of the table that is not in the index yet.
pub fn add_rows(
    definition: &Definition,
    table: &mut dyn Table,
    base: BaseIndex,
    resources: Resources,
) -> Result<(Builder, String, Added), IndexError> {
    let BaseIndex {
        mut builder,
        factory,
        mut held,
        expected_rows,
        is_trained,
        tids,
        complete,
        untrained,
        shortage,
    } = base;
    let mut present = tids.clone();
    present.sort_unstable();
    let (heap_rows, is_complete) = (complete.unwrap_or(0.0), complete.is_some());
    let mut added = Added { tids, heap_rows, is_trained, untrained, shortage, ..Added::default() };
    progress::rows(added.tids.len() as u64, expected_rows);
    let mut batch = Vec::<f32>::new();
    let Added { tids, rejected, heap_rows, .. } = &mut added;
    // Blocks after this end can only appear in CREATE INDEX CONCURRENTLY, whose second pass inserts their rows.
    let mut runs = Runs::new(if is_complete { 0 } else { table.blocks() });
    while let Some(run) = runs.next() {
        pgrx::check_for_interrupts!();
        let filled = batch.len();
        *heap_rows +=
            table.scan_blocks(run.start, run.blocks, false, &mut |TableRow { tid, vector, .. }| {
                if present.binary_search(&tid).is_ok() {
                    return Ok(());
                }
                let at = batch.len();
                batch.extend_from_slice(vector);
                let row = &mut batch[at..];
                match definition.metric.prepare(row) {
                    true if builder.accepts(row) && held.hold_out(tid, row) => batch.truncate(at),
                    true if builder.accepts(row) => tids.push(tid),
                    is_indexed => {
                        rejected.extend(is_indexed.then(|| (tid, row.to_vec())));
                        batch.truncate(at);
                    }
                }
                Ok(())
            })?;
        let run_bytes = (batch.len() - filled) * size_of::<f32>();
        if runs.is_over() || batch.len() * size_of::<f32>() >= resources.batch_bytes {
            add_batch(&mut builder, &mut held, &batch, resources)?;
            batch.clear();
        }
        let (added, done) = (tids.len() as u64, builder.rows() - builder.unlinked_rows());
        // The total is an estimate until the scan ends; it must never be less than the rows already added.
        progress::rows(done, if runs.is_over() { added } else { expected_rows.max(added) });
        runs.report();
        runs.adapt(run_bytes, resources.batch_bytes);
    }
    while builder.unlinked_rows() > 0 {
        pgrx::check_for_interrupts!();
        interruptible(resources.threads, || builder.link(Builder::LINK_ROWS))?;
        progress::rows(builder.rows() - builder.unlinked_rows(), builder.rows());
    }
    let started = Instant::now();
    added.points =
        interruptible(resources.threads, || held.calibrate_with_holdout(&mut builder, resources.threads))?;
    added.calibration = held.comparing() + started.elapsed();
    for (tid, row) in held.release() {
        added.tids.push(tid);
        batch.extend_from_slice(&row);
    }
    interruptible(resources.threads, || builder.add(&batch))?;
    Ok((builder, factory, added))
}

fn add_batch(
    builder: &mut Builder,
    held: &mut HoldoutRows,
    batch: &[f32],
    resources: Resources,
) -> Result<(), IndexError> {
    interruptible(resources.threads, || {
        let first = builder.rows();
        builder.add_unlinked(batch)?;
        let positions: Vec<u64> = (first..builder.rows()).collect();
        held.compare(&positions, batch)
    })
}
