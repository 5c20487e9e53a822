//! Builds the index of a table from an external FAISS index.
//!
//! Each row of the file is matched with the table row that has its id, and compared with it: every row if the file
//! stores rows uncompressed, a sample if it stores codes. Table rows that are missing from the file are added.

use std::time::Instant;

use super::add_rows::BaseIndex;
use super::runs::Runs;
use super::sample::TableSample;
use crate::engine::{Builder, ExternalIndex};
use crate::index::Definition;
use crate::index::error::{Ids, ImportError, IndexError, NAMED_IDS};
use crate::index::format::Tid;
use crate::index::interruptible::interruptible;
use crate::index::table::{Table, TableRow};
use crate::index::train::{HoldoutRows, Resources, TrainingSample, check_memory};
use crate::pg::progress::{self, Phase};

/// Rows compared if the file stores lossy codes, and the share of them that may differ: with a graph as coarse
/// quantiser, or because of another processor's rounding, a row is sometimes assigned to another list.
const COMPARED_ROWS: usize = 1000;
const MAX_MISMATCHED_SHARE: f64 = 0.1;

/// Starts the build from `external`: matches its rows with the table's and prepares the index for the remaining rows.
pub fn begin(
    mut external: ExternalIndex,
    definition: &Definition,
    table: &mut dyn Table,
    resources: Resources,
) -> Result<BaseIndex, IndexError> {
    let started = Instant::now();
    if external.dims() != definition.dims {
        return Err(ImportError::Dimensions { file: external.dims(), table: definition.dims }.into());
    }
    if definition.are_halves {
        external.expect_halves();
    }
    let fresh = Builder::new(external.factory(), definition.dims, definition.metric)?;
    progress::phase(Phase::Sampling);
    let factory = external.factory().to_string();
    let untrained = TrainingSample { rows: 0, table_rows: 0 };
    let is_trained = fresh.needs_training();
    let mut sample = TableSample::take(definition, table, resources, false)?;
    let mut held = sample.hold_back(definition, &fresh, started);
    if external.rows() == 0 {
        let expected_rows = sample.estimated_rows();
        check_memory(&fresh, &factory, untrained, expected_rows, resources)?;
        let builder = resume(&external, false)?;
        let (tids, complete) = (Vec::new(), None);
        return Ok(BaseIndex {
            builder,
            factory,
            held,
            expected_rows,
            is_trained,
            tids,
            complete,
            untrained: None,
            shortage: String::new(),
        });
    }
    held = held.for_import();
    let matched = match_rows(&mut external, &fresh, definition, table, &mut held, resources)?;
    let expected_rows = external.rows() + matched.others;
    check_memory(&fresh, &factory, untrained, expected_rows, resources)?;
    let builder = resume(&external, true)?;
    compare_codes(&external, &builder, &matched, resources)?;
    Ok(BaseIndex {
        builder,
        factory,
        held,
        expected_rows,
        is_trained,
        tids: matched.tids,
        complete: (matched.others == 0).then_some(matched.heap_rows),
        untrained: None,
        shortage: String::new(),
    })
}

fn resume(external: &ExternalIndex, keep_rows: bool) -> Result<Builder, IndexError> {
    use crate::engine::EngineError;
    interruptible(1, || external.resume(keep_rows)).map_err(|error| match error {
        EngineError::Corrupt { reason } => ImportError::Inconsistent(reason).into(),
        other => other.into(),
    })
}

/// The file's rows, matched with rows of the table.
struct Matched {
    /// TIDs by position.
    tids: Vec<Tid>,
    /// Number of table rows that the file lacks.
    others: u64,
    heap_rows: f64,
    compared: Vec<ComparedRow>,
}

/// A prepared table row, with its position in the file and its id.
type ComparedRow = (u64, i64, Vec<f32>);

/// Marks a position whose table row has not been found.
const NOWHERE: Tid = Tid::MAX;

/// Finds the table row of each row in the file. If the file stores rows uncompressed, replaces them with the table's.
/// Rows that are not holdout queries are compared with the queries in `held`.
fn match_rows(
    external: &mut ExternalIndex,
    fresh: &Builder,
    definition: &Definition,
    table: &mut dyn Table,
    held: &mut HoldoutRows,
    resources: Resources,
) -> Result<Matched, IndexError> {
    let labels = Labels::of(external, fresh, definition, table)?;
    let mut matching = Matching::new(external, &labels)?;
    let (mut others, mut heap_rows, mut row) = (0, 0.0, Vec::new());
    let mut batch = RowBatch::default();
    let mut runs = Runs::new(table.blocks());
    while let Some(run) = runs.next() {
        pgrx::check_for_interrupts!();
        let filled = batch.bytes();
        heap_rows += table.scan_blocks(run.start, run.blocks, false, &mut |found| {
            if !prepare(&found, definition, &mut row) {
                return Ok(());
            }
            let id = found.id.filter(|_| found.is_alive && fresh.accepts(&row));
            match id.and_then(|id| Some((id, labels.position(id)?))) {
                None => others += 1,
                Some((id, position)) => {
                    matching.set(id, position, found.tid, &row)?;
                    if !held.hold_out_position(found.tid, position) {
                        batch.push(position, &row)?;
                    }
                }
            }
            Ok(())
        })?;
        let run_bytes = batch.bytes() - filled;
        if runs.is_over() || batch.bytes() >= resources.batch_bytes {
            interruptible(resources.threads, || held.compare(&batch.positions, &batch.rows))?;
            batch.clear();
        }
        runs.adapt(run_bytes, resources.batch_bytes);
    }
    let (tids, compared) = matching.finish()?;
    Ok(Matched { tids, others, heap_rows, compared })
}

/// Table rows for positions of the file, collected until the next FAISS call.
#[derive(Default)]
struct RowBatch {
    positions: Vec<u64>,
    rows: Vec<f32>,
}

impl RowBatch {
    fn push(&mut self, position: u64, row: &[f32]) -> Result<(), IndexError> {
        self.positions.try_reserve(1)?;
        self.rows.try_reserve(row.len())?;
        self.positions.push(position);
        self.rows.extend_from_slice(row);
        Ok(())
    }

    fn bytes(&self) -> usize {
        size_of_val(self.rows.as_slice())
    }

    fn clear(&mut self) {
        self.positions.clear();
        self.rows.clear();
    }
}

/// State of matching the file's rows with the table's.
struct Matching<'a> {
    external: &'a mut ExternalIndex,
    labels: &'a Labels,
    /// TIDs by position.
    tids: Vec<Tid>,
    /// One of every `stride` rows.
    compared: Vec<ComparedRow>,
    stride: u64,
    /// Number of rows that differ from the file's, and some of their ids.
    changed: (usize, Vec<i64>),
}

impl<'a> Matching<'a> {
    fn new(external: &'a mut ExternalIndex, labels: &'a Labels) -> Result<Self, IndexError> {
        let rows = external.rows();
        let mut tids = Vec::new();
        tids.try_reserve_exact(rows as usize)?;
        tids.resize(rows as usize, NOWHERE);
        let stride = rows.div_ceil(COMPARED_ROWS as u64);
        Ok(Matching { external, labels, tids, compared: Vec::new(), stride, changed: (0, Vec::new()) })
    }

    /// Matches `position` of the file with the table row at `tid`.
    fn set(&mut self, id: i64, position: u64, tid: Tid, row: &[f32]) -> Result<(), IndexError> {
        let place = &mut self.tids[position as usize];
        if *place != NOWHERE {
            return Err(ImportError::Ambiguous(id).into());
        }
        *place = tid;
        if self.external.stores_rows() {
            if !self.external.replace_row(position, row) {
                let (count, ids) = &mut self.changed;
                *count += 1;
                ids.extend((*count <= NAMED_IDS).then_some(id));
            }
        } else if position.is_multiple_of(self.stride) {
            self.compared.push((position, id, row.to_vec()));
        }
        Ok(())
    }

    /// Returns TIDs by position and the rows to compare; Err if the table lacks rows of the file or has different ones.
    fn finish(self) -> Result<(Vec<Tid>, Vec<ComparedRow>), IndexError> {
        let rows = self.external.rows();
        let missing = self.tids.iter().filter(|&&tid| tid == NOWHERE).count();
        if missing > 0 {
            let ids = self.labels.0.iter().filter(|(_, position)| self.tids[*position as usize] == NOWHERE);
            let ids: Vec<i64> = ids.map(|(id, _)| *id).take(NAMED_IDS).collect();
            return Err(ImportError::Missing { count: missing, rows, ids: Ids::of(&ids, missing) }.into());
        }
        let (count, ids) = self.changed;
        if count > 0 {
            return Err(ImportError::Changed { count, rows, ids: Ids::of(&ids, count) }.into());
        }
        Ok((self.tids, self.compared))
    }
}

/// Writes the indexed form of the vector to `row`; false if it has none (a zero vector under cosine).
fn prepare(found: &TableRow, definition: &Definition, row: &mut Vec<f32>) -> bool {
    row.clear();
    row.extend_from_slice(found.vector);
    definition.metric.prepare(row)
}

/// Positions in the file by id, in ascending order of ids.
struct Labels(Vec<(i64, u64)>);

impl Labels {
    /// The file's own labels; without any, the ids of all table rows in ascending order.
    fn of(
        external: &ExternalIndex,
        fresh: &Builder,
        definition: &Definition,
        table: &mut dyn Table,
    ) -> Result<Self, IndexError> {
        let mut labels = Vec::new();
        if let Some(of_file) = external.labels() {
            labels.try_reserve_exact(of_file.len())?;
            labels.extend(of_file.iter().copied().zip(0u64..));
            labels.sort_unstable();
            return Ok(Labels(labels));
        }
        let mut row = Vec::new();
        table.scan_blocks(0, table.blocks(), false, &mut |found| {
            if found.is_alive && prepare(&found, definition, &mut row) && fresh.accepts(&row) {
                labels.try_reserve(1)?;
                labels.push((found.id.ok_or(IndexError::NoId)?, 0));
            }
            Ok(())
        })?;
        if labels.len() as u64 != external.rows() {
            return Err(ImportError::Count { file: external.rows(), table: labels.len() as u64 }.into());
        }
        labels.sort_unstable();
        labels.iter_mut().zip(0..).for_each(|(label, position)| label.1 = position);
        match labels.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(ImportError::Ambiguous(pair[0].0).into()),
            None => Ok(Labels(labels)),
        }
    }

    fn position(&self, id: i64) -> Option<u64> {
        self.0.binary_search_by_key(&id, |(id, _)| *id).ok().map(|at| self.0[at].1)
    }
}

/// Err if too many of the file's codes do not match the table's rows.
fn compare_codes(
    external: &ExternalIndex,
    builder: &Builder,
    matched: &Matched,
    resources: Resources,
) -> Result<(), IndexError> {
    let (mut positions, mut rows) = (Vec::new(), Vec::new());
    for (position, _, row) in &matched.compared {
        positions.push(*position);
        rows.extend_from_slice(row);
    }
    if positions.is_empty() {
        return Ok(());
    }
    let mismatched =
        interruptible(resources.threads, || external.differing_rows(builder, &positions, &rows))?;
    let (count, compared) = (mismatched.len(), positions.len());
    if count as f64 <= MAX_MISMATCHED_SHARE * compared as f64 {
        return Ok(());
    }
    let is_mismatched = |position: &u64| mismatched.contains(position);
    let ids = matched.compared.iter().filter(|(position, ..)| is_mismatched(position));
    let ids: Vec<i64> = ids.map(|(_, id, _)| *id).take(NAMED_IDS).collect();
    Err(ImportError::Mismatched { count, compared, ids: Ids::of(&ids, count) }.into())
}
