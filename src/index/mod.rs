//! The index's state in the relation's pages: a small log-structured store of segments, tombstones and a delta.
//!
//! The formats are in `format`, the invariants in `src/README.md` (cited here by number).
//!
//! * A search reads the meta page once and owns that picture (`Snapshot::open`): the manifest and all it points to are
//!   immutable, and the delta chain that starts there only loses dead entries and gains new ones.
//! * The root changes in one WAL record, `publish`, after all it points to is logged (invariant 4). If we die before,
//!   the old root stands and the new pages are orphans; after, the new root stands and the old pages are.
//!   `storage::free_pages` finds both.
//! * Lock order (invariant 7): heavyweight locks (`pg::lock`), meta page, delta page, its successor, blob pages, the
//!   extension lock. A new page that nothing points to yet may be locked before all of them. FAISS runs under none.

pub mod build;
pub mod check;
pub mod compact;
pub mod delta;
pub mod error;
pub mod export;
pub mod format;
pub mod interruptible;
pub mod search;
pub mod segment;
pub mod storage;
pub mod table;
pub mod train;
pub mod vacuum;

use std::sync::Arc;

use error::IndexError;
use format::{BlobRef, DeltaHead, FIRST_DELTA_BLOCK, META_BLOCK, Manifest, Meta, PageKind, PageTag};
use segment::{OpenedSegment, session};
use storage::{blob, free_pages};

use crate::engine::Metric;
use crate::failpoint;
use crate::pg::buffer::{ExclusivePageLock, PageLock};
use crate::pg::relation::Rel;
use crate::pg::wal::WalRecord;
use crate::pg::xid;

/// How often a reader starts over when pages are reused under it. Each time, whoever reused them made progress; that
/// this happens so often means that a page is damaged.
const READ_ATTEMPTS: usize = 100;

/// What an index is about; fixed at its build.
#[derive(Debug, Clone)]
pub struct Definition {
    pub dims: usize,
    pub metric: Metric,
    /// The `factory` option.
    pub factory: String,
    /// The recall that is asked of it, up to 1.
    pub recall: f64,
}

/// A picture of the index that a search owns.
pub struct Snapshot {
    pub meta: Meta,
    pub metric: Metric,
    pub segments: Vec<Arc<OpenedSegment>>,
}

impl Snapshot {
    /// Reads the root and opens its segments, from the cache folder where they are there.
    pub fn open(rel: Rel) -> Result<Self, IndexError> {
        retry(|| Self::try_open(rel))
    }

    /// As `open`, for those who start over from here when they meet a page that was used again.
    pub fn try_open(rel: Rel) -> Result<Self, IndexError> {
        let meta = read_meta(rel)?;
        let metric = metric_of(&meta)?;
        failpoint::reach("search.root_read");
        let segments = session::segments(rel, &meta)?;
        Ok(Snapshot { meta, metric, segments })
    }

    pub fn dims(&self) -> usize {
        self.meta.dims as usize
    }
}

/// Runs a read that starts over from the root when it meets a page that was used again.
pub fn retry<T>(mut read: impl FnMut() -> Result<T, IndexError>) -> Result<T, IndexError> {
    for _ in 1..READ_ATTEMPTS {
        match read() {
            Err(IndexError::Stale) => {
                pgrx::check_for_interrupts!();
            }
            other => return other,
        }
    }
    read()
}

pub fn read_meta(rel: Rel) -> Result<Meta, IndexError> {
    if rel.blocks() == 0 {
        return Err(IndexError::Damaged("the index has no pages".into()));
    }
    root_on(rel, &PageLock::share(rel, META_BLOCK))
}

/// The root on the meta page, which is locked.
fn root_on(rel: Rel, page: &PageLock) -> Result<Meta, IndexError> {
    let meta = Meta::decode(page.view().body())?;
    meta.check_room(rel.blocks())?;
    Ok(meta)
}

pub fn metric_of(meta: &Meta) -> Result<Metric, IndexError> {
    Metric::from_code(meta.metric)
        .ok_or_else(|| IndexError::Damaged(format!("metric {} is unknown", meta.metric)))
}

/// The manifest that the root points to; empty if there is none yet.
pub fn read_manifest(rel: Rel, meta: &Meta) -> Result<Manifest, IndexError> {
    match &meta.manifest {
        Some(blob) => {
            let manifest = Manifest::decode(&blob::read_to_vec(rel, blob)?)?;
            manifest.check_room(rel.blocks(), meta.dims)?;
            Ok(manifest)
        }
        None => Ok(Manifest::default()),
    }
}

/// Makes `manifest` the index's state and lets the delta start at `delta_start` if that changes too, in one WAL record;
/// then retires the old manifest's pages. The caller holds the maintenance lock.
pub fn publish(rel: Rel, manifest: &Manifest, delta_start: Option<delta::Place>) -> Result<(), IndexError> {
    let blob = blob::write(rel, blob::random_id()?, &manifest.encode(), blob::Logging::Now)?;
    failpoint::reach("publish.manifest_written");
    let page = ExclusivePageLock::lock(rel, META_BLOCK);
    let mut meta = root_on(rel, &page)?;
    let replaced = meta.manifest.replace(blob);
    meta.generation += 1;
    if let Some(start) = delta_start {
        (meta.delta_head, meta.delta_head_chunk) = (start.block, start.chunk);
    }
    if !meta.fits() {
        return Err(IndexError::Fragmented);
    }
    let mut record = WalRecord::start(rel);
    record.edit(&page, |page| page.set_body(&[&meta.encode()]));
    failpoint::reach("publish.before_root");
    record.commit();
    failpoint::reach("publish.root_written");
    drop(page);
    free_pages::retire(rel, replaced.iter().flat_map(BlobRef::blocks));
    Ok(())
}

/// The first two pages of an index without rows: `(tag, body)` of the meta page and of the first delta page.
fn first_pages(definition: &Definition) -> Result<(Meta, [PageTag; 2]), IndexError> {
    let meta = Meta {
        index_id: blob::random_id()?,
        dims: definition.dims as u32,
        metric: definition.metric.code(),
        factory: definition.factory.clone(),
        generation: 0,
        manifest: None,
        delta_head: FIRST_DELTA_BLOCK,
        delta_head_chunk: 0,
        delta_tail: FIRST_DELTA_BLOCK,
        delta_next_chunk: 1,
    };
    let tag = |kind| PageTag { owner: meta.index_id, full_xid: xid::next(), chunk: 0, kind };
    let tags = [tag(PageKind::Meta), tag(PageKind::Delta)];
    Ok((meta, tags))
}

/// Writes an index without rows to the init fork, from which an unlogged table starts after a crash.
pub fn create_init_fork(rel: Rel, definition: &Definition) -> Result<(), IndexError> {
    let (meta, [meta_tag, delta_tag]) = first_pages(definition)?;
    let fork = pgrx::pg_sys::ForkNumber::INIT_FORKNUM;
    ExclusivePageLock::create(rel, fork).write_init_fork(meta_tag, &[&meta.encode()]);
    ExclusivePageLock::create(rel, fork).write_init_fork(delta_tag, &[&DeltaHead::EMPTY.to_bytes()]);
    Ok(())
}

/// Adds the rows of one statement. What it has read of the root holds for so long: dimensions and metric never change,
/// and where the delta ends is a guess that its pages confirm.
pub struct Inserter {
    dims: usize,
    metric: Metric,
    tail: delta::Tail,
    /// The row in the form that is indexed.
    row: Vec<f32>,
}

impl Inserter {
    pub fn open(rel: Rel) -> Result<Self, IndexError> {
        let meta = read_meta(rel)?;
        let (dims, metric, tail) = (meta.dims as usize, metric_of(&meta)?, delta::Tail::of(&meta));
        Ok(Inserter { dims, metric, tail, row: Vec::with_capacity(dims) })
    }

    /// Adds a row. One that has no indexed form (a zero vector under cosine) stays out of the index. Returns the bytes
    /// that the delta has grown to if it took a new page.
    pub fn insert(&mut self, rel: Rel, tid: format::Tid, vector: &[f32]) -> Result<Option<u64>, IndexError> {
        if vector.len() != self.dims {
            return Err(IndexError::Dimensions { expected: self.dims, found: vector.len() });
        }
        self.row.clear();
        self.row.extend_from_slice(vector);
        if self.metric.prepare(&mut self.row) {
            delta::append(rel, &mut self.tail, tid, &self.row)
        } else {
            Ok(None)
        }
    }
}
