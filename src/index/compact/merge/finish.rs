//! The end of a merge: carries over tombstones set meanwhile, and replaces the sources with the result.

use std::collections::HashSet;
use std::sync::Arc;

use crate::cache::{Claim, SyncAt};
use crate::engine::Builder;
use crate::failpoint;
use crate::index::compact::plan::MergePlan;
use crate::index::error::IndexError;
use crate::index::format::{BlobRef, Manifest, PointRef, SegmentRef, Tid, Tombstones};
use crate::index::segment::{self, Models, OpenedSegment, Staged};
use crate::index::storage::blob::{self, Logging};
use crate::index::storage::free_pages;
use crate::index::train::UNTRAINED_FACTORY;
use crate::index::{IndexView, publish, read_manifest, read_meta};
use crate::pg::invalidation;
use crate::pg::lock::{IndexLock, Purpose};
use crate::pg::relation::Rel;
use crate::pg::snapshot::ActiveSnapshot;

/// The result of merging the sources.
pub(super) struct Merged {
    /// None if there were no live rows.
    pub staged: Option<Staged>,
    pub models: Models,
    pub points: Vec<PointRef>,
    /// TIDs by position.
    pub tids: Vec<Tid>,
    /// Rows that the result cannot represent.
    pub rejected: (Vec<Tid>, Vec<f32>),
    /// The source whose positions the result keeps.
    pub base: Option<Arc<OpenedSegment>>,
}

/// Stores the result and publishes it.
pub(super) fn finish(
    rel: Rel,
    view: &IndexView,
    plan: &MergePlan,
    sources: &[Arc<OpenedSegment>],
    Merged { staged, models, points, tids, rejected, base }: Merged,
) -> Result<(), IndexError> {
    // Copying a large segment to pages takes long, so it runs without the maintenance lock and other processes may seal
    // meanwhile. The snapshot's horizon protects the new pages from being reclaimed. (A snapshot of VACUUM's does not,
    // but then no other process reclaims pages.)
    let horizon = ActiveSnapshot::latest();
    let (mut merged, mut claims) = (Vec::new(), Vec::new());
    if let Some(staged) = staged {
        let (segment, claim) = staged.store(rel, models, points, Logging::Now)?;
        merged.push(segment);
        claims.push(claim);
    }
    for result in merged.iter_mut().filter(|result| result.factory == plan.factory) {
        result.reason.clone_from(&plan.reason);
    }
    failpoint::reach("merge.copied");
    let lock = IndexLock::acquire(rel, Purpose::Maintenance);
    let mut manifest = read_manifest(rel, &read_meta(rel)?)?;
    let died = died_meanwhile(rel, &manifest, sources)?;
    if let Some(result) = merged.first_mut() {
        let dead = base.as_ref().map(|base| dead_now(rel, &manifest, base)).transpose()?.flatten();
        set_dead(rel, result, &tids, base.as_ref().map_or(0, |base| base.segment.rows()), dead, &died)?;
    }
    if let Some((segment, claim)) = store_rejected(rel, view, rejected, &died)? {
        merged.push(segment);
        claims.push(claim);
    }
    replace(rel, &mut manifest, sources, merged)?;
    drop((claims, lock, horizon));
    Ok(())
}

/// A source's entry in the current manifest.
fn find<'a>(manifest: &'a Manifest, source: &OpenedSegment) -> Result<&'a SegmentRef, IndexError> {
    let id = source.reference.payload.id;
    manifest
        .segments
        .iter()
        .find(|segment| segment.payload.id == id)
        .ok_or_else(|| IndexError::Damaged(format!("segment {id:032x} vanished while it was merged")))
}

/// A source's tombstones in the current manifest.
fn dead_now(rel: Rel, manifest: &Manifest, source: &OpenedSegment) -> Result<Option<Tombstones>, IndexError> {
    segment::tombstones(rel, find(manifest, source)?)
}

/// TIDs that got a tombstone after the merge read the root.
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
        let Some(dead) = dead_now(rel, manifest, source)? else { continue };
        let newly_dead = source.live_positions().filter(|&position| dead.is_dead(position));
        died.extend(newly_dead.map(|position| source.segment.tid(position)));
    }
    Ok(died)
}

/// Sets the result's tombstones: the base's, whose positions it keeps, and those of other rows that died during the
/// merge.
fn set_dead(
    rel: Rel,
    result: &mut SegmentRef,
    tids: &[Tid],
    base_rows: u64,
    base_dead: Option<Tombstones>,
    died: &HashSet<Tid>,
) -> Result<(), IndexError> {
    let rows = tids.len() as u64;
    let mut dead = base_dead.unwrap_or_else(|| Tombstones::none(rows)).resized(rows);
    for position in (base_rows..rows).filter(|&position| died.contains(&tids[position as usize])) {
        dead.mark_dead(position);
    }
    if dead.count() > 0 {
        segment::set_tombstones(rel, result, &dead)?;
    }
    Ok(())
}

/// Rows that the result cannot represent go to a Flat segment of their own.
fn store_rejected(
    rel: Rel,
    view: &IndexView,
    (tids, rows): (Vec<Tid>, Vec<f32>),
    died: &HashSet<Tid>,
) -> Result<Option<(SegmentRef, Option<Claim>)>, IndexError> {
    let (mut live_tids, mut live_rows) = (Vec::new(), Vec::new());
    for (tid, row) in tids.iter().zip(rows.chunks_exact(view.dims())) {
        if !died.contains(tid) {
            live_tids.push(*tid);
            live_rows.extend_from_slice(row);
        }
    }
    if live_tids.is_empty() {
        return Ok(None);
    }
    let mut builder = Builder::new(UNTRAINED_FACTORY, view.dims(), view.metric)?;
    builder.reserve(live_tids.len() as u64)?;
    builder.add(&live_rows)?;
    let (cache, key) = (segment::cache(), segment::file_key(rel, blob::random_id()?));
    let (metric, factory) = (view.metric, UNTRAINED_FACTORY);
    let staged = segment::stage(&cache, key, &builder, metric, factory, &live_tids, SyncAt::Writing)?;
    staged.store(rel, Models::None, Vec::new(), Logging::Now).map(Some)
}

/// Publishes the manifest with the result in place of the sources, and releases the sources' pages and files. Notifies
/// the sessions that have the files mapped, so that the disk space is freed soon.
fn replace(
    rel: Rel,
    manifest: &mut Manifest,
    sources: &[Arc<OpenedSegment>],
    merged: Vec<SegmentRef>,
) -> Result<(), IndexError> {
    let is_source =
        |segment: &SegmentRef| sources.iter().any(|source| source.reference.payload.id == segment.payload.id);
    let (replaced, kept): (Vec<_>, Vec<_>) = manifest.segments.drain(..).partition(is_source);
    manifest.segments = merged.into_iter().chain(kept).collect();
    failpoint::reach("merge.stored");
    publish(rel, manifest, None)?;
    failpoint::reach("merge.published");
    let old = Manifest { segments: replaced };
    free_pages::retire(rel, old.blobs().flat_map(BlobRef::blocks));
    failpoint::reach("merge.retired");
    let cache = segment::cache();
    for segment in &old.segments {
        cache.remove(&segment::file_key(rel, segment.payload.id));
    }
    invalidation::announce(rel);
    Ok(())
}
