//! The root: the meta page and the manifest it points to. Changed in one WAL record.

use super::{blob, free_pages};
use crate::engine::Metric;
use crate::failpoint;
use crate::index::Definition;
use crate::index::delta::ChainPage;
use crate::index::error::IndexError;
use crate::index::format::{
    BlobRef, DeltaHead, FIRST_DELTA_BLOCK, META_BLOCK, Manifest, Meta, PageKind, PageTag,
};
use crate::pg::buffer::{ExclusivePageLock, PageLock};
use crate::pg::relation::Rel;
use crate::pg::wal::WalRecord;
use crate::pg::xid;

/// Limit on restarts of a read. Each restart means that another process reused pages, so reaching the limit means that
/// a page is damaged.
const READ_ATTEMPTS: usize = 100;

/// Runs a read that restarts from the root when it meets a reused page.
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

/// The root on the locked meta page.
pub fn root_on(rel: Rel, page: &PageLock) -> Result<Meta, IndexError> {
    let meta = Meta::decode(page.view().body())?;
    meta.check_room(rel.blocks())?;
    Ok(meta)
}

pub fn metric_of(meta: &Meta) -> Result<Metric, IndexError> {
    Metric::from_code(meta.metric_code())
        .ok_or_else(|| IndexError::Damaged(format!("metric {} is unknown", meta.metric_code())))
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

/// Makes `manifest` the current one and, if `delta_start` is given, advances the start of the delta, in one WAL record;
/// then retires the old manifest's pages. The caller holds the maintenance lock.
pub fn publish(rel: Rel, manifest: &Manifest, delta_start: Option<ChainPage>) -> Result<(), IndexError> {
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

/// The first two pages of an empty index: tags of the meta page and the first delta page.
pub fn first_pages(definition: &Definition) -> Result<(Meta, [PageTag; 2]), IndexError> {
    let meta = Meta {
        index_id: blob::random_id()?,
        dims: definition.dims as u32,
        rows_code: Meta::rows_code(definition.metric, definition.are_halves),
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

/// Writes an empty index to the init fork, which replaces an unlogged index after a crash.
pub fn create_init_fork(rel: Rel, definition: &Definition) -> Result<(), IndexError> {
    let (meta, [meta_tag, delta_tag]) = first_pages(definition)?;
    let fork = pgrx::pg_sys::ForkNumber::INIT_FORKNUM;
    ExclusivePageLock::create(rel, fork).write_init_fork(meta_tag, &[&meta.encode()]);
    ExclusivePageLock::create(rel, fork).write_init_fork(delta_tag, &[&DeltaHead::EMPTY.to_bytes()]);
    Ok(())
}
