//! Merging segments into one: what compaction does, one merge at a time.
//!
//! The sources are immutable and only the holder of the compaction lock removes segments, so the work needs no other
//! lock. VACUUM goes on meanwhile and may set tombstones in the sources; under the maintenance lock, just before the
//! result is published, those are carried over by TID.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::blob::{self, Logging};
use super::build::{self, Resources, TrainingSample, UNTRAINED_FACTORY};
use super::calibration::{HeldBack, wanted_queries};
use super::error::IndexError;
use super::format::{BlobRef, Manifest, PointRef, SegmentRef, Tid};
use super::native::{interruptible, stoppable};
use super::opened::OpenedSegment;
use super::plan::Plan;
use super::rows::{Host, Outcome, read, sample};
use super::segment::Models;
use super::{Snapshot, publish, read_manifest, read_meta, recycle, segment, space};
use crate::cache::SyncAt;
use crate::engine::{Builder, Metric};
use crate::failpoint;
use crate::pg::invalidation;
use crate::pg::lock::{IndexLock, Purpose};
use crate::pg::relation::Rel;
use crate::pg::snapshot::ActiveSnapshot;

/// Rows that are read from a segment in one go.
const READ_ROWS: usize = 1024;

/// Merges the plan's sources. The caller holds the compaction lock since before it took the snapshot.
pub fn merge(
    rel: Rel,
    snapshot: &Snapshot,
    plan: &Plan,
    resources: Resources,
    host: &mut dyn Host,
) -> Result<Outcome, IndexError> {
    let sources: Vec<Arc<OpenedSegment>> =
        plan.sources.iter().map(|&at| snapshot.segments[at].clone()).collect();
    let factory = factory_for(plan, &sources, host);
    let base = plan.base.filter(|_| factory == plan.factory).map(|at| snapshot.segments[at].clone());
    failpoint::reach("merge.planned");
    let begun = Instant::now();
    let started = start(snapshot, plan, factory, base.as_deref(), &sources, resources, host)?;
    let (mut builder, factory, models) = match started {
        Ok(started) => started,
        Err(outcome) => return Ok(outcome),
    };
    builder.reserve(plan.rows)?;
    let is_base = |source: &Arc<OpenedSegment>| base.as_ref().is_some_and(|base| Arc::ptr_eq(source, base));
    let added: Vec<Arc<OpenedSegment>> = sources.iter().filter(|source| !is_base(source)).cloned().collect();
    let held = match hold_back(snapshot, &builder, base.as_deref(), &added, begun, host)? {
        Ok(held) => held,
        Err(outcome) => return Ok(outcome),
    };
    let mut merge = Merge {
        metric: snapshot.metric,
        resources,
        host,
        builder,
        held,
        tids: Vec::new(),
        batch: Vec::new(),
        strays: (Vec::new(), Vec::new()),
        outcome: Outcome::Done,
    };
    if let Some(base) = &base {
        merge.tids.extend((0..base.segment.rows()).map(|position| base.segment.tid(position)));
        if !merge.compare_base(base)? {
            return Ok(Outcome::Yielded);
        }
    }
    for source in &added {
        merge.add_segment(source)?;
        if merge.outcome != Outcome::Done {
            return Ok(merge.outcome);
        }
    }
    if !merge.flush()? {
        return Ok(Outcome::Yielded);
    }
    let Some(points) = merge.calibrate(base.as_deref())? else {
        return Ok(Outcome::Yielded);
    };
    let Merge { host, builder, tids, strays, .. } = merge;
    let staged = if tids.is_empty() {
        None
    } else {
        let cache = segment::cache();
        let key = segment::file_key(rel, blob::random_id()?);
        let staged = stoppable(resources.threads, &mut || !host.must_yield(), || {
            segment::stage(&cache, key, &builder, snapshot.metric, &factory, &tids, SyncAt::Writing)
        })?;
        if staged.is_none() {
            return Ok(Outcome::Yielded);
        }
        staged
    };
    drop(builder);

    failpoint::reach("merge.staged");
    // Copying a large segment to pages takes its time, in which others may seal: so without the maintenance lock, and
    // the horizon keeps the pages. (In a VACUUM it does not; but then this process alone looks for garbage.)
    let horizon = ActiveSnapshot::latest();
    let mut merged = match staged {
        Some(staged) => vec![staged.store(rel, models, points, Logging::Now)?],
        None => Vec::new(),
    };
    for result in merged.iter_mut().filter(|result| result.factory == plan.factory) {
        result.reason.clone_from(&plan.reason);
    }
    failpoint::reach("merge.copied");
    let lock = IndexLock::acquire(rel, Purpose::Maintenance);
    let mut manifest = read_manifest(rel, &read_meta(rel)?)?;
    let died = died_meanwhile(rel, &manifest, &sources)?;
    if let Some(result) = merged.first_mut() {
        let dead = base.as_ref().map(|base| dead_now(rel, &manifest, base)).transpose()?.flatten();
        set_dead(rel, result, &tids, base.as_ref().map_or(0, |base| base.segment.rows()), dead, &died)?;
    }
    merged.extend(store_strays(rel, snapshot, strays, &died)?);
    replace(rel, &mut manifest, &sources, merged, snapshot.meta.index_id)?;
    drop((lock, horizon));
    Ok(Outcome::Done)
}

// ---------------------------------------------------------------- the builder

/// The index to add to, its factory string, and where its models come from.
type Started = (Builder, String, Models);

/// What the merge begins with; Err in the result: why it does not.
fn start(
    snapshot: &Snapshot,
    plan: &Plan,
    factory: &str,
    base: Option<&OpenedSegment>,
    sources: &[Arc<OpenedSegment>],
    resources: Resources,
    host: &mut dyn Host,
) -> Result<Result<Started, Outcome>, IndexError> {
    let (dims, metric) = (snapshot.dims(), snapshot.metric);
    let fresh = Builder::new(factory, dims, metric)?;
    let live_rows: u64 = snapshot.segments.iter().map(|segment| segment.live_rows()).sum();
    let untrained = TrainingSample { rows: 0, table_rows: 0 };
    build::check_memory(&fresh, factory, untrained, plan.rows, resources)?;
    let quantiser = match base {
        Some(base) => Some((base, true)),
        None if plan.retrain || !fresh.needs_training() => None,
        None => newest_trained(snapshot, factory).map(|donor| (donor, false)),
    };
    if let Some((donor, keep_rows)) = quantiser {
        let serial = donor.segment.serial();
        let builder = interruptible(1, || Builder::resume(factory, dims, metric, serial, keep_rows))?;
        return Ok(Ok((builder, factory.to_string(), Models::of(&donor.reference))));
    }
    if !fresh.needs_training() {
        return Ok(Ok((fresh, factory.to_string(), Models::None)));
    }
    let wanted = fresh.training_rows();
    let sample = match sample(metric, sources, &fresh, wanted.wanted as u64, host)? {
        Ok(sample) => sample,
        Err(outcome) => return Ok(Err(outcome)),
    };
    if sample.len() / dims < wanted.min {
        let flat = Builder::new(UNTRAINED_FACTORY, dims, metric)?;
        return Ok(Ok((flat, UNTRAINED_FACTORY.to_string(), Models::None)));
    }
    let mut builder = fresh;
    let taken = TrainingSample { rows: sample.len() / dims, table_rows: sample.len() / dims };
    build::check_memory(&builder, factory, taken, plan.rows, resources)?;
    let trained = stoppable(resources.threads, &mut || !host.must_yield(), || builder.train(&sample))?;
    if trained.is_none() {
        return Ok(Err(Outcome::Yielded));
    }
    failpoint::reach("merge.trained");
    Ok(Ok((builder, factory.to_string(), Models::Own { live_rows })))
}

/// The plan's factory string; or that of the codes, where there is no more to be had than they have kept: what ranks by
/// the rows that it stores would rank by other rows than the table's, and other codes would lose as much again.
fn factory_for<'a>(plan: &'a Plan, sources: &'a [Arc<OpenedSegment>], host: &dyn Host) -> &'a str {
    let coded = sources.iter().filter(|source| !source.segment.index.stores_rows());
    match coded.max_by_key(|source| source.live_rows()) {
        Some(coded) if !host.knows_table() => &coded.reference.factory,
        _ => &plan.factory,
    }
}

/// The segment whose quantiser has seen the most rows.
fn newest_trained<'a>(snapshot: &'a Snapshot, factory: &str) -> Option<&'a OpenedSegment> {
    let trained = snapshot
        .segments
        .iter()
        .filter(|segment| segment.reference.trained_rows > 0 && segment.reference.factory == factory);
    trained.max_by_key(|segment| segment.reference.trained_rows).map(Arc::as_ref)
}

/// The rows that calibrate the result, of those that are added to it; Err in the result: others wait. A base whose rows
/// are not stored cannot be compared with them, and its own points go on holding.
fn hold_back(
    snapshot: &Snapshot,
    builder: &Builder,
    base: Option<&OpenedSegment>,
    added: &[Arc<OpenedSegment>],
    started: Instant,
    host: &mut dyn Host,
) -> Result<Result<HeldBack, Outcome>, IndexError> {
    let (metric, dims) = (snapshot.metric, snapshot.dims());
    let none = || Ok(Ok(HeldBack::none(metric, dims)));
    if !builder.is_approximate() || base.is_some_and(|base| !base.segment.index.stores_rows()) {
        return none();
    }
    let live_rows: u64 = added.iter().map(|source| source.live_rows()).sum();
    let wanted = wanted_queries(live_rows, dims);
    if wanted == 0 {
        return none();
    }
    let step = (live_rows as usize / wanted).max(1);
    let mut chosen = Vec::with_capacity(wanted);
    for source in added {
        let positions: Vec<u64> = source.live_positions().step_by(step).collect();
        let outcome = read(metric, source, &positions, host, &mut |position, row| {
            if builder.accepts(row) {
                chosen.push((source.segment.tid(position), row.to_vec()));
            }
        })?;
        match outcome {
            Outcome::Done => {}
            Outcome::Yielded => return Ok(Err(outcome)),
            Outcome::RowsMissing => return none(),
        }
    }
    Ok(Ok(HeldBack::new(metric, dims, chosen, started)))
}

// ---------------------------------------------------------------- rows

struct Merge<'a> {
    metric: Metric,
    resources: Resources,
    host: &'a mut dyn Host,
    builder: Builder,
    held: HeldBack,
    /// By position; those of `batch` are in.
    tids: Vec<Tid>,
    batch: Vec<f32>,
    /// Rows that the builder cannot take, as its sums would overflow.
    strays: (Vec<Tid>, Vec<f32>),
    outcome: Outcome,
}

impl Merge<'_> {
    /// Adds the live rows of a source, or says in `outcome` why not.
    fn add_segment(&mut self, source: &OpenedSegment) -> Result<(), IndexError> {
        if source.segment.index.stores_rows() {
            return self.add_stored(source);
        }
        let live: Vec<u64> = source.live_positions().collect();
        for positions in live.chunks(READ_ROWS) {
            let mut rows: Vec<(u64, Vec<f32>)> = Vec::with_capacity(positions.len());
            self.outcome = read(self.metric, source, positions, self.host, &mut |position, row| {
                rows.push((position, row.to_vec()));
            })?;
            if self.outcome != Outcome::Done {
                return Ok(());
            }
            for (position, row) in rows {
                self.push(source.segment.tid(position), &row);
            }
            if !self.flush_if_full()? {
                self.outcome = Outcome::Yielded;
                return Ok(());
            }
        }
        Ok(())
    }

    fn add_stored(&mut self, source: &OpenedSegment) -> Result<(), IndexError> {
        let dims = source.segment.index.dims();
        let mut stopped = Ok(true);
        source.segment.index.all_rows(READ_ROWS, &mut |positions, rows| {
            for (&position, row) in positions.iter().zip(rows.chunks_exact(dims)) {
                if !source.is_dead(position) {
                    self.push(source.segment.tid(position), row);
                }
            }
            stopped = self.flush_if_full();
            matches!(stopped, Ok(true))
        })?;
        if !stopped? {
            self.outcome = Outcome::Yielded;
        }
        Ok(())
    }

    fn push(&mut self, tid: Tid, row: &[f32]) {
        if self.builder.accepts(row) {
            if self.held.takes(tid, row) {
                return;
            }
            self.tids.push(tid);
            self.batch.extend_from_slice(row);
        } else {
            self.strays.0.push(tid);
            self.strays.1.extend_from_slice(row);
        }
    }

    fn flush_if_full(&mut self) -> Result<bool, IndexError> {
        if size_of_val(self.batch.as_slice()) < self.resources.batch_bytes { Ok(true) } else { self.flush() }
    }

    /// Hands the batch to FAISS. False: others wait.
    fn flush(&mut self) -> Result<bool, IndexError> {
        if !self.host.goes_on()? {
            return Ok(false);
        }
        let Merge { host, builder, held, batch, .. } = self;
        let added = stoppable(self.resources.threads, &mut || !host.must_yield(), || {
            let first = builder.rows();
            builder.add(batch)?;
            let positions: Vec<u64> = (first..builder.rows()).collect();
            held.compare(&positions, batch)
        })?;
        if added.is_none() {
            return Ok(false);
        }
        self.batch.clear();
        failpoint::reach("merge.batch_added");
        Ok(true)
    }

    /// Compares the base's rows with those held back, where it has them. False: others wait.
    fn compare_base(&mut self, base: &OpenedSegment) -> Result<bool, IndexError> {
        if !base.segment.index.stores_rows() {
            return Ok(true);
        }
        let (dims, threads) = (base.segment.index.dims(), self.resources.threads);
        let Merge { host, held, .. } = self;
        let mut outcome = Ok(true);
        base.segment.index.all_rows(READ_ROWS * 4, &mut |positions, rows| {
            let (mut live, mut values) =
                (Vec::with_capacity(positions.len()), Vec::with_capacity(rows.len()));
            for (&position, row) in positions.iter().zip(rows.chunks_exact(dims)) {
                if !base.is_dead(position) {
                    live.push(position);
                    values.extend_from_slice(row);
                }
            }
            let compared = stoppable(threads, &mut || !host.must_yield(), || held.compare(&live, &values));
            outcome = compared.map(|done| done.is_some());
            matches!(outcome, Ok(true))
        })?;
        outcome
    }

    /// Measures the result, and adds what was held back. None: others wait.
    fn calibrate(&mut self, base: Option<&OpenedSegment>) -> Result<Option<Vec<PointRef>>, IndexError> {
        let (metric, dims, threads) = (self.metric, self.builder.dims(), self.resources.threads);
        let dead = base.and_then(|base| base.dead.as_deref());
        let Merge { host, builder, held, .. } = self;
        let measured =
            stoppable(threads, &mut || !host.must_yield(), || held.calibrate(builder, dead, threads))?;
        let Some(mut points) = measured else {
            return Ok(None);
        };
        for (tid, row) in std::mem::replace(held, HeldBack::none(metric, dims)).release() {
            self.push(tid, &row);
        }
        if points.is_empty()
            && let Some(base) = base
        {
            points.clone_from(&base.reference.points);
        }
        Ok(self.flush()?.then_some(points))
    }
}

// ---------------------------------------------------------------- the end of a merge

/// A source in the manifest as it is now.
fn find<'a>(manifest: &'a Manifest, source: &OpenedSegment) -> Result<&'a SegmentRef, IndexError> {
    let id = source.reference.payload.id;
    manifest
        .segments
        .iter()
        .find(|segment| segment.payload.id == id)
        .ok_or_else(|| IndexError::Damaged(format!("segment {id:032x} vanished while it was merged")))
}

/// The source's bitmap as VACUUM left it last.
fn dead_now(rel: Rel, manifest: &Manifest, source: &OpenedSegment) -> Result<Option<Vec<u8>>, IndexError> {
    let tombstones = find(manifest, source)?.tombstones.as_ref();
    tombstones.map(|tombstones| blob::read_to_vec(rel, tombstones)).transpose()
}

/// TIDs that got a tombstone since the snapshot.
fn died_meanwhile(
    rel: Rel,
    manifest: &Manifest,
    sources: &[Arc<OpenedSegment>],
) -> Result<HashSet<Tid>, IndexError> {
    let mut died = HashSet::new();
    for source in sources {
        if find(manifest, source)?.tombstones == source.reference.tombstones {
            continue;
        }
        let Some(bits) = dead_now(rel, manifest, source)? else { continue };
        let is_dead = |position: &u64| bits[(position / 8) as usize] >> (position % 8) & 1 == 1;
        died.extend(source.live_positions().filter(is_dead).map(|position| source.segment.tid(position)));
    }
    Ok(died)
}

/// Gives the result its tombstones: those of the base, whose positions it keeps, and behind them those of rows that
/// died meanwhile.
fn set_dead(
    rel: Rel,
    result: &mut SegmentRef,
    tids: &[Tid],
    base_rows: u64,
    base_dead: Option<Vec<u8>>,
    died: &HashSet<Tid>,
) -> Result<(), IndexError> {
    let mut bits = base_dead.unwrap_or_default();
    bits.resize(tids.len().div_ceil(8), 0);
    for position in (base_rows as usize..tids.len()).filter(|&position| died.contains(&tids[position])) {
        bits[position / 8] |= 1 << (position % 8);
    }
    result.dead_rows = bits.iter().map(|byte| u64::from(byte.count_ones())).sum();
    if result.dead_rows > 0 {
        result.tombstones = Some(blob::write(rel, blob::random_id()?, &bits, Logging::Now)?);
    }
    Ok(())
}

/// Rows that the result cannot hold stay in a Flat segment of their own.
fn store_strays(
    rel: Rel,
    snapshot: &Snapshot,
    (tids, rows): (Vec<Tid>, Vec<f32>),
    died: &HashSet<Tid>,
) -> Result<Option<SegmentRef>, IndexError> {
    let (mut live_tids, mut live_rows) = (Vec::new(), Vec::new());
    for (tid, row) in tids.iter().zip(rows.chunks_exact(snapshot.dims())) {
        if !died.contains(tid) {
            live_tids.push(*tid);
            live_rows.extend_from_slice(row);
        }
    }
    if live_tids.is_empty() {
        return Ok(None);
    }
    let mut builder = Builder::new(UNTRAINED_FACTORY, snapshot.dims(), snapshot.metric)?;
    builder.reserve(live_tids.len() as u64)?;
    builder.add(&live_rows)?;
    let (cache, key) = (segment::cache(), segment::file_key(rel, blob::random_id()?));
    let (metric, factory) = (snapshot.metric, UNTRAINED_FACTORY);
    let staged = segment::stage(&cache, key, &builder, metric, factory, &live_tids, SyncAt::Writing)?;
    staged.store(rel, Models::None, Vec::new(), Logging::Now).map(Some)
}

/// Publishes the manifest with the result in the sources' place, and gives their pages and files back. Sessions that
/// have the files mapped are told, so that none keeps their space for long.
fn replace(
    rel: Rel,
    manifest: &mut Manifest,
    sources: &[Arc<OpenedSegment>],
    merged: Vec<SegmentRef>,
    index_id: u128,
) -> Result<(), IndexError> {
    let is_source =
        |segment: &SegmentRef| sources.iter().any(|source| source.reference.payload.id == segment.payload.id);
    let (replaced, kept): (Vec<_>, Vec<_>) = manifest.segments.drain(..).partition(is_source);
    manifest.segments = merged.into_iter().chain(kept).collect();
    failpoint::reach("merge.stored");
    publish(rel, manifest, None)?;
    failpoint::reach("merge.published");
    let old = Manifest { segments: replaced };
    let blocks: Vec<u32> = old.blobs().flat_map(BlobRef::blocks).collect();
    space::retire(rel, blocks.iter().copied());
    recycle::remember(index_id, blocks);
    failpoint::reach("merge.retired");
    let cache = segment::cache();
    for segment in &old.segments {
        cache.remove(&segment::file_key(rel, segment.payload.id));
    }
    invalidation::announce(rel);
    Ok(())
}
