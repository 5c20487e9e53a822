//! An index of a table around a FAISS index that was made elsewhere.
//!
//! The file's rows are found in the table by their ids, and compared with it: all of them where the file holds the rows
//! themselves, and by a sample where it holds codes of them. Rows of the table that the file lacks are added to it.

use std::time::Instant;

use super::Definition;
use super::build::{Beginning, Heap, Resources, TrainingSample, check_memory};
use super::calibration::HeldBack;
use super::error::IndexError;
use super::format::Tid;
use super::native::interruptible;
use super::sample::Sample;
use crate::engine::{Builder, Foreign, ForeignError};
use crate::pg::progress::{self, Phase};

/// Rows of lossy codes that are compared, and how many of them may be off: a coarse quantiser that is a graph, or
/// another processor's rounding, now and then leads to another list.
const COMPARED_ROWS: usize = 1000;
const MAX_STRANGER_SHARE: f64 = 0.1;
/// Ids that an error names.
const NAMED_IDS: usize = 5;

/// A row of the table.
pub struct Identified<'a> {
    pub tid: Tid,
    /// None: NULL.
    pub id: Option<i64>,
    /// False: deleted, and perhaps still seen by others.
    pub is_alive: bool,
    pub vector: &'a [f32],
}

/// Why an index from elsewhere does not become the table's.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    /// The engine found it to be another one than it says.
    #[error("{0}")]
    Disordered(String),
    #[error("it has {file} dimensions, and the column has {table}")]
    Dimensions { file: usize, table: usize },
    #[error(
        "its rows have no ids, so they must be those of the table in the order of ids; it has {file} rows, and the table has {table}"
    )]
    Count { file: u64, table: u64 },
    #[error("{count} of its {rows} rows have an id that no row of the table with a vector has: {ids}")]
    Missing { count: usize, rows: u64, ids: Ids },
    #[error("{count} of its {rows} rows are not those that the table has under their ids: {ids}")]
    Changed { count: usize, rows: u64, ids: Ids },
    #[error(
        "{count} of {compared} rows that were compared are not those that the table has under their ids: {ids}"
    )]
    Strangers { count: usize, compared: usize, ids: Ids },
    #[error("two rows of the table have the id {0}")]
    Ambiguous(i64),
    #[error("the table has no rows with vectors, so there is nothing to keep it for")]
    EmptyTable,
}

/// Some ids, and whether there are more.
#[derive(Debug)]
pub struct Ids(String);

impl Ids {
    fn of(ids: &[i64], count: usize) -> Self {
        let names: Vec<String> = ids.iter().take(NAMED_IDS).map(i64::to_string).collect();
        Ids(names.join(", ") + if count > NAMED_IDS { " and others" } else { "" })
    }
}

impl std::fmt::Display for Ids {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What rows of the table are added to: `foreign` with its rows, which are found in the table.
pub fn begin(
    mut foreign: Foreign,
    definition: &Definition,
    heap: &mut dyn Heap,
    resources: Resources,
) -> Result<Beginning, IndexError> {
    let started = Instant::now();
    if foreign.dims() != definition.dims {
        return Err(ImportError::Dimensions { file: foreign.dims(), table: definition.dims }.into());
    }
    let fresh = Builder::new(foreign.factory(), definition.dims, definition.metric)?;
    progress::phase(Phase::Sampling);
    let factory = foreign.factory().to_string();
    let untrained = TrainingSample { rows: 0, table_rows: 0 };
    if foreign.rows() == 0 {
        let mut sample = Sample::take(definition, heap, resources, false)?;
        let expected_rows = sample.estimated_rows();
        check_memory(&fresh, &factory, untrained, expected_rows, resources)?;
        let builder = resume(&foreign, false)?;
        let held = sample.hold_back(definition, &builder, started);
        let is_trained = fresh.needs_training();
        let (tids, complete) = (Vec::new(), None);
        return Ok(Beginning { builder, factory, held, expected_rows, is_trained, tids, complete });
    }
    let matched = match_rows(&mut foreign, &fresh, definition, heap)?;
    let expected_rows = foreign.rows() + matched.others;
    check_memory(&fresh, &factory, untrained, expected_rows, resources)?;
    let builder = resume(&foreign, true)?;
    compare_codes(&foreign, &builder, &matched, resources)?;
    Ok(Beginning {
        builder,
        factory,
        // To rows that a graph was built of it leads faster than to others: they are no queries to measure it by.
        held: HeldBack::none(definition.metric, definition.dims),
        expected_rows,
        is_trained: fresh.needs_training(),
        tids: matched.tids,
        complete: (matched.others == 0).then_some(matched.heap_rows),
    })
}

fn resume(foreign: &Foreign, keep_rows: bool) -> Result<Builder, IndexError> {
    use crate::engine::EngineError;
    interruptible(1, || foreign.resume(keep_rows)).map_err(|error| match error {
        EngineError::Corrupt { reason } => ImportError::Disordered(reason).into(),
        other => other.into(),
    })
}

/// Where the file's rows are in the table.
struct Matched {
    /// By position.
    tids: Vec<Tid>,
    /// Rows of the table that the file lacks.
    others: u64,
    heap_rows: f64,
    /// Some rows of the table, prepared, with their positions in the file and their ids.
    compared: Vec<(u64, i64, Vec<f32>)>,
}

/// No row's TID.
const NOWHERE: Tid = Tid::MAX;

/// Finds each row of the file in the table, and where it holds rows themselves, puts the table's in their place.
fn match_rows(
    foreign: &mut Foreign,
    fresh: &Builder,
    definition: &Definition,
    heap: &mut dyn Heap,
) -> Result<Matched, IndexError> {
    let labels = Labels::of(foreign, fresh, definition, heap)?;
    let rows = foreign.rows();
    let stride = rows.div_ceil(COMPARED_ROWS as u64);
    let mut tids = Vec::new();
    tids.try_reserve_exact(rows as usize)?;
    tids.resize(rows as usize, NOWHERE);
    let (mut others, mut compared, mut changed) = (0, Vec::new(), (0, Vec::new()));
    let mut row = Vec::new();
    let heap_rows = heap.identify(&mut |found| {
        if !prepare(&found, definition, &mut row) {
            return Ok(());
        }
        let position = match found.id.filter(|_| found.is_alive) {
            Some(id) if fresh.accepts(&row) => labels.position(id),
            _ => None,
        };
        let Some(position) = position else {
            others += 1;
            return Ok(());
        };
        let place = &mut tids[position as usize];
        let id = found.id.unwrap_or_default();
        if *place != NOWHERE {
            return Err(ImportError::Ambiguous(id).into());
        }
        *place = found.tid;
        if foreign.stores_rows() {
            if !foreign.exchange_row(position, &row) {
                changed.0 += 1;
                changed.1.extend((changed.0 <= NAMED_IDS).then_some(id));
            }
        } else if position % stride == 0 {
            compared.push((position, id, row.clone()));
        }
        Ok(())
    })?;
    let missing = tids.iter().filter(|&&tid| tid == NOWHERE).count();
    if missing > 0 {
        let ids = labels.0.iter().filter(|(_, position)| tids[*position as usize] == NOWHERE);
        let ids: Vec<i64> = ids.map(|(id, _)| *id).take(NAMED_IDS).collect();
        return Err(ImportError::Missing { count: missing, rows, ids: Ids::of(&ids, missing) }.into());
    }
    let (count, ids) = changed;
    if count > 0 {
        return Err(ImportError::Changed { count, rows, ids: Ids::of(&ids, count) }.into());
    }
    Ok(Matched { tids, others, heap_rows, compared })
}

/// Makes `row` what is indexed of a row; false: nothing is.
fn prepare(found: &Identified, definition: &Definition, row: &mut Vec<f32>) -> bool {
    row.clear();
    row.extend_from_slice(found.vector);
    definition.metric.prepare(row)
}

/// Positions of the file by id, in ascending order of ids.
struct Labels(Vec<(i64, u64)>);

impl Labels {
    /// Those that the file has; else it has all rows of the table, in the order of their ids.
    fn of(
        foreign: &Foreign,
        fresh: &Builder,
        definition: &Definition,
        heap: &mut dyn Heap,
    ) -> Result<Self, IndexError> {
        let mut labels = Vec::new();
        if let Some(of_file) = foreign.labels() {
            labels.try_reserve_exact(of_file.len())?;
            labels.extend(of_file.iter().copied().zip(0u64..));
            labels.sort_unstable();
            return Ok(Labels(labels));
        }
        let mut row = Vec::new();
        heap.identify(&mut |found| {
            if found.is_alive && prepare(&found, definition, &mut row) && fresh.accepts(&row) {
                labels.try_reserve(1)?;
                labels.push((found.id.ok_or(IndexError::NoId)?, 0));
            }
            Ok(())
        })?;
        if labels.len() as u64 != foreign.rows() {
            return Err(ImportError::Count { file: foreign.rows(), table: labels.len() as u64 }.into());
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

/// Err where the codes of the file do not stand for the rows of the table.
fn compare_codes(
    foreign: &Foreign,
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
    let strangers = interruptible(resources.threads, || foreign.strangers(builder, &positions, &rows))?;
    let (count, compared) = (strangers.len(), positions.len());
    if count as f64 <= MAX_STRANGER_SHARE * compared as f64 {
        return Ok(());
    }
    let is_stranger = |position: &u64| strangers.contains(position);
    let ids = matched.compared.iter().filter(|(position, ..)| is_stranger(position));
    let ids: Vec<i64> = ids.map(|(_, id, _)| *id).take(NAMED_IDS).collect();
    Err(ImportError::Strangers { count, compared, ids: Ids::of(&ids, count) }.into())
}
