//! The segments that this backend has opened, kept between searches.
//!
//! An entry is valid while the root names the same manifest, whose random id changes with every publish. A segment is
//! opened once and kept as long as manifests name it. PostgreSQL sends an invalidation for every VACUUM and ANALYZE of
//! a table; they change no segment, but they are the occasion to check whether the cache files still exist. A process
//! that replaces a segment or finds an index dropped removes its files, and no mapping should keep their disk space.
//! The entries own only memory, mappings and FAISS handles (invariant 9), so they may outlive transactions and errors.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cache_file::{self, Segment};
use super::dead_rows::tombstones;
use crate::cache::FileKey;
use crate::index::error::IndexError;
use crate::index::format::{Meta, SegmentRef, Tombstones};
use crate::index::{metric_of, read_manifest};
use crate::pg::invalidation::{self, Change};
use crate::pg::relation::Rel;
use crate::pg::transaction::{self, Moment};

/// Limit on the indexes that one backend keeps open; the least recently searched is closed.
const MAX_OPEN_INDEXES: usize = 64;
/// Minimum interval between notes that an index's cache files are in use.
const NOTE_INTERVAL: Duration = Duration::from_secs(60);

/// A segment with its tombstones as of one manifest.
pub struct OpenedSegment {
    pub segment: Arc<Segment>,
    /// None if no row is dead.
    pub dead: Option<Tombstones>,
    pub reference: SegmentRef,
}

impl OpenedSegment {
    pub fn live_rows(&self) -> u64 {
        self.reference.live_rows()
    }

    pub fn live_positions(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.reference.rows).filter(|&position| !self.is_dead(position))
    }

    pub fn is_dead(&self, position: u64) -> bool {
        self.dead.as_ref().is_some_and(|dead| dead.is_dead(position))
    }
}

struct OpenedIndex {
    index_id: u128,
    /// None if only some of its segments are open.
    manifest_id: Option<u128>,
    /// Key of the cache files, except for the segment's id.
    key: FileKey,
    segments: Vec<Arc<OpenedSegment>>,
    last_used: u64,
    /// When the use of its files was last noted.
    noted: Instant,
}

#[derive(Default)]
struct OpenedIndexes {
    by_relation: HashMap<u32, OpenedIndex>,
    clock: u64,
}

thread_local! {
    static OPENED: RefCell<OpenedIndexes> = RefCell::default();
    /// Whether relations have changed since the files were last checked.
    static HAS_CHANGED: Cell<bool> = const { Cell::new(false) };
}

/// Opens the segments that the root names.
pub fn segments(rel: Rel, meta: &Meta) -> Result<Vec<Arc<OpenedSegment>>, IndexError> {
    let Some(manifest) = &meta.manifest else {
        return Ok(Vec::new());
    };
    invalidation::listen(note_change);
    transaction::at(Moment::End, drop_replaced);
    let relation = rel.oid().to_u32();
    let known = OPENED.with_borrow_mut(|opened| opened.find(relation));
    let known = match known {
        Some((index_id, manifest_id, segments)) if index_id == meta.index_id => {
            if manifest_id == Some(manifest.id) {
                note_use(rel, &segments);
                return Ok(segments);
            }
            segments
        }
        _ => Vec::new(),
    };
    let metric = metric_of(meta)?;
    let segments = read_manifest(rel, meta)?
        .segments
        .into_iter()
        .map(|reference| {
            let same = known.iter().find(|one| one.reference.payload.id == reference.payload.id);
            if let Some(same) = same.filter(|one| one.reference == reference) {
                return Ok(same.clone());
            }
            let segment = match same {
                Some(one) => one.segment.clone(),
                None => Arc::new(cache_file::open(rel, &reference, metric, meta.are_halves())?),
            };
            let dead = tombstones(rel, &reference)?;
            Ok(Arc::new(OpenedSegment { segment, dead, reference }))
        })
        .collect::<Result<Vec<_>, IndexError>>()?;
    let index = OpenedIndex {
        index_id: meta.index_id,
        manifest_id: Some(manifest.id),
        key: cache_file::file_key(rel, 0),
        segments: segments.clone(),
        last_used: 0,
        noted: Instant::now(),
    };
    OPENED.with_borrow_mut(|opened| opened.remember(relation, index));
    Ok(segments)
}

/// The manifest's entry for the largest segment: from memory if the segments are open, else from the pages. Opens
/// nothing.
pub fn largest(rel: Rel, meta: &Meta) -> Result<Option<SegmentRef>, IndexError> {
    let known = OPENED.with_borrow(|opened| {
        let index = opened.by_relation.get(&rel.oid().to_u32())?;
        let manifest = meta.manifest.as_ref().filter(|_| index.index_id == meta.index_id)?;
        let references = index.segments.iter().map(|opened| &opened.reference);
        (Some(manifest.id) == index.manifest_id)
            .then(|| references.max_by_key(|one| one.live_rows()).cloned())
    });
    match known {
        Some(largest) => Ok(largest),
        None => Ok(read_manifest(rel, meta)?.segments.into_iter().max_by_key(SegmentRef::live_rows)),
    }
}

/// Periodically notes that the files are in use, if the cache has a limit.
fn note_use(rel: Rel, segments: &[Arc<OpenedSegment>]) {
    let is_due = OPENED.with_borrow_mut(|opened| {
        let index = opened.by_relation.get_mut(&rel.oid().to_u32());
        index.is_some_and(|index| {
            let is_due = index.noted.elapsed() >= NOTE_INTERVAL;
            if is_due {
                index.noted = Instant::now();
            }
            is_due
        })
    });
    if is_due {
        let cache = cache_file::cache();
        for opened in segments {
            cache.note_use(&cache_file::file_key(rel, opened.reference.payload.id));
        }
    }
}

fn note_change(change: Change) {
    if matches!(change, Change::Relation(_) | Change::AnyRelation) {
        HAS_CHANGED.set(true);
    }
}

/// After an invalidation, drops segments whose files were removed or replaced. Checking a file takes a microsecond.
fn drop_replaced() {
    if !HAS_CHANGED.take() {
        return;
    }
    let cache = cache_file::cache();
    OPENED.with_borrow_mut(|opened| {
        opened.by_relation.retain(|_, OpenedIndex { manifest_id, key, segments, .. }| {
            let known = segments.len();
            segments.retain(|opened| {
                let key = FileKey { segment: opened.reference.payload.id, ..*key };
                cache.is_current(&key, opened.segment.mapping())
            });
            if segments.len() < known {
                *manifest_id = None;
            }
            known == 0 || !segments.is_empty()
        });
    });
}

impl OpenedIndexes {
    /// Index id, manifest id and segments as last remembered.
    fn find(&mut self, relation: u32) -> Option<(u128, Option<u128>, Vec<Arc<OpenedSegment>>)> {
        self.clock += 1;
        let index = self.by_relation.get_mut(&relation)?;
        index.last_used = self.clock;
        Some((index.index_id, index.manifest_id, index.segments.clone()))
    }

    fn remember(&mut self, relation: u32, index: OpenedIndex) {
        self.by_relation.insert(relation, OpenedIndex { last_used: self.clock, ..index });
        if self.by_relation.len() > MAX_OPEN_INDEXES {
            let oldest = self.by_relation.iter().min_by_key(|(_, index)| index.last_used);
            let oldest = oldest.map(|(relation, _)| *relation);
            oldest.and_then(|relation| self.by_relation.remove(&relation));
        }
    }
}
