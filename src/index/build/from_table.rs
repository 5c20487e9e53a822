//! Building an index over a table: sample, train, add, write, publish.
//!
//! The table is scanned in runs of blocks. FAISS works between two runs, when no buffer is pinned or locked, on
//! threads of its own (`engine::on_worker`), while the main thread keeps taking interrupts.

use std::time::{Duration, Instant};

use super::import::{self, Identified, ImportError};
use super::sample::{Sample, count_rows};
use crate::cache::SyncAt;
use crate::engine::{self, Builder, ExternalIndex, Metric};
use crate::failpoint;
use crate::index::error::{IndexError, MemoryShortage, ShortageKind};
use crate::index::format::{DeltaHead, META_BLOCK, Manifest, PointRef, Tid};
use crate::index::interruptible::interruptible;
use crate::index::segment::{self, Models, Staged};
use crate::index::storage::blob::{self, Logging};
use crate::index::train::{HeldBack, Target};
use crate::index::{Definition, delta, first_pages, read_meta};
use crate::pg::buffer::PageLock;
use crate::pg::progress::{self, Phase};
use crate::pg::relation::Rel;
use crate::pg::{memory, wal};

/// The most blocks that one run of the table scan takes.
const MAX_RUN_BLOCKS: u32 = 1024;
/// The index of a table that is too small to train what was asked for.
pub const UNTRAINED_FACTORY: &str = "Flat";

/// Takes TID and vector of a row.
pub type VisitRow<'a> = dyn FnMut(Tid, &[f32]) -> Result<(), IndexError> + 'a;

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

/// The table, as the index sees it: expressions evaluated, predicate applied.
pub trait Heap {
    fn blocks(&self) -> u32;
    /// Shows `visit` TID and vector of each row in a run of blocks; NULLs are left out. Returns the table's rows, in
    /// the index or not. `sample`: rows in progress may be shown too.
    fn scan(
        &mut self,
        start: u32,
        blocks: u32,
        sample: bool,
        visit: &mut VisitRow,
    ) -> Result<f64, IndexError>;
    /// Shows `visit` the rows in a run of blocks with their ids; NULLs are left out. Returns the table's rows, in the
    /// index or not.
    fn identify(
        &mut self,
        start: u32,
        blocks: u32,
        visit: &mut dyn FnMut(Identified) -> Result<(), IndexError>,
    ) -> Result<f64, IndexError>;
}

/// What came of a build.
#[derive(Default)]
pub struct Built {
    /// Rows of the table, and those of them in the index.
    pub heap_rows: f64,
    pub index_rows: f64,
    /// What calibration took of the build's time.
    pub calibration: Duration,
    pub untrained: Option<Untrained>,
    /// What it lacked to learn from as many rows as it would; empty: nothing.
    pub shortage: String,
}

/// There are too few rows to train what was asked for, so the index is a scan for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untrained {
    pub factory: String,
    pub rows: u64,
    pub needed_rows: u64,
}

/// The fewest rows that train this factory; None: it needs no training, or cannot be built.
pub fn rows_to_train(factory: &str, dims: usize, metric: Metric) -> Option<u64> {
    let builder = Builder::new(factory, dims, metric).ok()?;
    builder.needs_training().then(|| builder.training_rows().min as u64)
}

/// Err: FAISS does not build this factory for so many dimensions.
pub fn check_factory(definition: &Definition) -> Result<(), IndexError> {
    // Of what may be chosen anything can be built.
    let factory = if definition.factory == engine::AUTO { UNTRAINED_FACTORY } else { &definition.factory };
    Builder::new(factory, definition.dims, definition.metric)?;
    Ok(())
}

/// Fills the new, empty relation `rel`; from `foreign`, where that is to be imported.
pub fn build(
    rel: Rel,
    definition: &Definition,
    heap: &mut dyn Heap,
    resources: Resources,
    foreign: Option<ExternalIndex>,
) -> Result<Built, IndexError> {
    check_factory(definition)?;
    let (mut meta, [meta_tag, delta_tag]) = first_pages(definition)?;
    let main = pgrx::pg_sys::ForkNumber::MAIN_FORKNUM;
    PageLock::create(rel, main).write_unlogged(meta_tag, &[&meta.encode()]);
    PageLock::create(rel, main).write_unlogged(delta_tag, &[&DeltaHead::EMPTY.to_bytes()]);

    let (staged, mut added) = stage_segment(rel, definition, heap, resources, foreign)?;
    if let Some(staged) = staged {
        let live_rows = added.tids.len() as u64;
        let models = if added.is_trained { Models::Own { live_rows } } else { Models::None };
        let points = std::mem::take(&mut added.points);
        // Until this is committed, the lock on the index keeps the cache file.
        let (mut segment, _) = staged.store(rel, models, points, Logging::WithRelation)?;
        segment.reason = std::mem::take(&mut added.reason);
        if segment.reason.is_empty() {
            segment.reason.clone_from(&added.shortage);
        }
        failpoint::reach("build.segment_stored");
        let manifest = Manifest { segments: vec![segment] };
        let blob = blob::write(rel, blob::random_id()?, &manifest.encode(), Logging::WithRelation)?;
        meta.manifest = Some(blob);
        meta.generation = 1;
        PageLock::exclusive(rel, META_BLOCK).write_unlogged(meta_tag, &[&meta.encode()]);
    }
    failpoint::reach("build.root_written");
    wal::log_relation(rel);
    failpoint::reach("build.logged");
    let mut tail = delta::Tail::of(&read_meta(rel)?);
    for (tid, row) in &added.strays {
        delta::append(rel, &mut tail, *tid, row)?;
    }
    failpoint::reach("build.finished");
    let index_rows = (added.tids.len() + added.strays.len()) as f64;
    let Added { heap_rows, calibration, untrained, shortage, .. } = added;
    Ok(Built { heap_rows, index_rows, calibration, untrained, shortage })
}

/// What rows are added to.
pub struct Beginning {
    pub builder: Builder,
    pub factory: String,
    /// Of the rows that are to be added.
    pub held: HeldBack,
    /// How many rows it is going to have, about.
    pub expected_rows: u64,
    /// Its models were learnt from this table.
    pub is_trained: bool,
    /// The rows that it has already, by position.
    pub tids: Vec<Tid>,
    /// The table's rows, if none of them is to be added.
    pub complete: Option<f64>,
    pub untrained: Option<Untrained>,
    /// As of what was built.
    pub shortage: String,
}

/// Everything up to the cache file; None for a table without rows to index.
fn stage_segment(
    rel: Rel,
    definition: &Definition,
    heap: &mut dyn Heap,
    resources: Resources,
    foreign: Option<ExternalIndex>,
) -> Result<(Option<Staged>, Added), IndexError> {
    let target = target(definition, resources);
    let is_import = foreign.is_some();
    let mut beginning = match foreign {
        Some(foreign) => import::begin(foreign, definition, heap, resources)?,
        None => begin(definition, &target, heap, resources)?,
    };
    if beginning.complete.is_none() {
        // A little more, in case there are: what is not used stays unmapped, and growing would copy all.
        beginning.builder.reserve(beginning.expected_rows + beginning.expected_rows / 16)?;
    }
    progress::phase(Phase::Adding);
    let (builder, factory, mut added) = add_rows(definition, heap, beginning, resources)?;
    failpoint::reach("build.added");
    if added.tids.is_empty() {
        return if is_import { Err(ImportError::EmptyTable.into()) } else { Ok((None, added)) };
    }
    progress::phase(Phase::Writing);
    let chosen = target.choose(added.tids.len() as u64);
    if chosen.factory == factory {
        added.reason = chosen.reason;
    }
    let cache = segment::cache();
    let key = segment::file_key(rel, blob::random_id()?);
    let staged = interruptible(resources.threads, || {
        segment::stage(&cache, key, &builder, definition.metric, &factory, &added.tids, SyncAt::Writing)
    })?;
    failpoint::reach("build.staged");
    Ok((Some(staged), added))
}

/// An empty index, trained on a sample of the table.
fn begin(
    definition: &Definition,
    target: &Target,
    heap: &mut dyn Heap,
    resources: Resources,
) -> Result<Beginning, IndexError> {
    let started = Instant::now();
    progress::phase(Phase::Sampling);
    let definition = &match target {
        Target::Factory(_) => definition.clone(),
        Target::Auto(_) => {
            Definition { factory: target.choose(count_rows(definition, heap)?).factory, ..definition.clone() }
        }
    };
    let mut sample = Sample::take(definition, heap, resources, true)?;
    failpoint::reach("build.sampled");
    let (mut builder, factory) = choose_builder(definition, &sample)?;
    let (asked, rows) = (&definition.factory, sample.count() as u64);
    let untrained = rows_to_train(asked, definition.dims, definition.metric)
        .filter(|_| factory != asked && rows > 0)
        .map(|needed_rows| Untrained { factory: asked.clone(), rows, needed_rows });
    let expected_rows = sample.estimated_rows();
    check_memory(&builder, factory, sample.training(), expected_rows, resources)?;
    let is_trained = builder.needs_training();
    if is_trained {
        progress::phase(Phase::Training);
        interruptible(resources.threads, || builder.train(sample.rows()))?;
        failpoint::reach("build.trained");
    }
    let held = sample.hold_back(definition, &builder, started);
    let factory = factory.to_string();
    let (tids, complete) = (Vec::new(), None);
    let shortage = if is_trained { shortage(&builder, sample.training(), resources) } else { String::new() };
    Ok(Beginning { builder, factory, held, expected_rows, is_trained, tids, complete, untrained, shortage })
}

/// Why a builder learns from less than its kind needs to be at its best, where the table has more.
fn shortage(builder: &Builder, sample: TrainingSample, resources: Resources) -> String {
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

fn target(definition: &Definition, resources: Resources) -> Target<'_> {
    let Definition { dims, metric, factory, recall } = definition;
    Target::new(factory, *dims, *metric, *recall, resources)
}

/// The index to build, and its factory string: what was asked for, or Flat where there are too few rows to train it.
fn choose_builder<'a>(definition: &'a Definition, sample: &Sample) -> Result<(Builder, &'a str), IndexError> {
    let builder = Builder::new(&definition.factory, definition.dims, definition.metric)?;
    if builder.needs_training() && sample.count() < builder.training_rows().min {
        let flat = Builder::new(UNTRAINED_FACTORY, definition.dims, definition.metric)?;
        return Ok((flat, UNTRAINED_FACTORY));
    }
    Ok((builder, &definition.factory))
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

// ---------------------------------------------------------------- add

/// What came of adding the table's rows.
#[derive(Default)]
struct Added {
    /// By position.
    tids: Vec<Tid>,
    /// Rows that FAISS cannot take, as their sums would overflow: they stay in the delta.
    strays: Vec<(Tid, Vec<f32>)>,
    heap_rows: f64,
    /// The segment's models were learnt from this table.
    is_trained: bool,
    /// What its search parameters bring, and the time that it took to know.
    points: Vec<PointRef>,
    calibration: Duration,
    /// Why `auto` chose what it is.
    reason: String,
    untrained: Option<Untrained>,
    /// As of what was built.
    shortage: String,
}

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

/// Adds every row of the table that is not in the index yet.
fn add_rows(
    definition: &Definition,
    heap: &mut dyn Heap,
    beginning: Beginning,
    resources: Resources,
) -> Result<(Builder, String, Added), IndexError> {
    let Beginning {
        mut builder,
        factory,
        mut held,
        expected_rows,
        is_trained,
        tids,
        complete,
        untrained,
        shortage,
    } = beginning;
    let mut present = tids.clone();
    present.sort_unstable();
    let (heap_rows, is_complete) = (complete.unwrap_or(0.0), complete.is_some());
    let mut added = Added { tids, heap_rows, is_trained, untrained, shortage, ..Added::default() };
    progress::rows(added.tids.len() as u64, expected_rows);
    let mut batch = Vec::<f32>::new();
    let Added { tids, strays, heap_rows, .. } = &mut added;
    // Rows added behind this end, which only CREATE INDEX CONCURRENTLY allows, are for its second pass.
    let mut runs = Runs::new(if is_complete { 0 } else { heap.blocks() });
    while let Some(run) = runs.next() {
        pgrx::check_for_interrupts!();
        let filled = batch.len();
        *heap_rows += heap.scan(run.start, run.blocks, false, &mut |tid, vector| {
            if present.binary_search(&tid).is_ok() {
                return Ok(());
            }
            let at = batch.len();
            batch.extend_from_slice(vector);
            let row = &mut batch[at..];
            match definition.metric.prepare(row) {
                true if builder.accepts(row) && held.takes(tid, row) => batch.truncate(at),
                true if builder.accepts(row) => tids.push(tid),
                is_indexed => {
                    strays.extend(is_indexed.then(|| (tid, row.to_vec())));
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
        let done = tids.len() as u64;
        // There are at least as many rows as were seen, and in the end no more.
        progress::rows(done, if runs.is_over() { done } else { expected_rows.max(done) });
        progress::blocks(runs.next, runs.end);
        runs.adapt(run_bytes, resources.batch_bytes);
    }
    let started = Instant::now();
    added.points =
        interruptible(resources.threads, || held.calibrate_hiding(&mut builder, resources.threads))?;
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
    held: &mut HeldBack,
    batch: &[f32],
    resources: Resources,
) -> Result<(), IndexError> {
    interruptible(resources.threads, || {
        let first = builder.rows();
        builder.add(batch)?;
        let positions: Vec<u64> = (first..builder.rows()).collect();
        held.compare(&positions, batch)
    })
}
