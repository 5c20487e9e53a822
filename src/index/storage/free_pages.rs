//! Finds unreachable pages, retires them, and returns them to the free space map when no scan can read them.
//!
//! A process that changes the root retires the pages that become unreachable. A crash before that, or before the root
//! changes, leaves unreachable pages behind. `reclaim` finds them all in the same way: a page that the root does not
//! reach is being written, garbage, or new. A page carries the next transaction id at the time it was written
//! (`PageTag::full_xid`), so its writer's transaction is older. If all older transactions were over *before* the
//! reachable pages were listed, an unlisted page is garbage. It is first stamped as retired; a later VACUUM offers it
//! to the free space map, when no scan can still be on its way to it (invariant 5).

use crate::failpoint;
use crate::index::error::IndexError;
use crate::index::format::{Extent, META_BLOCK, PageKind, PageTag};
use crate::index::{delta, read_manifest, read_meta};
use crate::pg::buffer::ExclusivePageLock;
use crate::pg::relation::Rel;
use crate::pg::wal::WalRecord;
use crate::pg::{extension, free_space, take_interrupts, vacuum_delay_point, xid};

/// Stamps unreachable pages as retired, so that a later `reclaim` can free them. They keep their content for searches
/// that are on their way to them.
pub fn retire(rel: Rel, blocks: impl Iterator<Item = u32>) {
    for block in blocks {
        take_interrupts();
        let page = ExclusivePageLock::lock(rel, block);
        let tag = page.view().tag();
        if let Some(tag) = tag.filter(|tag| tag.kind != PageKind::Retired) {
            stamp(rel, &page, tag);
        }
    }
}

fn stamp(rel: Rel, page: &ExclusivePageLock, tag: PageTag) {
    let mut record = WalRecord::start(rel);
    let retired = PageTag { kind: PageKind::Retired, full_xid: xid::next(), ..tag };
    record.edit(page, |page| page.set_tag(retired));
    record.commit();
}

/// The evidence on which a page counts as free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Only the page's tag. After a crash, the map can contain a page that was reused and is garbage now.
    Page,
    /// The free space map: cheaper than reading each free page, for frequent callers.
    FreeSpaceMap,
}

/// Page counts for VACUUM's report.
#[derive(Default)]
pub struct Space {
    /// Retired by this run.
    pub newly_retired: u32,
    /// Retired by this or an earlier run, but some scan may still read them.
    pub retired: u32,
    /// Free for reuse.
    pub free: u32,
}

/// Lists the pages reachable from the root and examines all others. The caller holds the maintenance lock.
pub fn reclaim(rel: Rel, trust: Trust) -> Result<Space, IndexError> {
    let horizon = xid::oldest_running();
    let end = extension::settled_blocks(rel);
    let unreachable = Extent::gaps(reachable_blocks(rel)?, end);
    failpoint::reach("reclaim.listed");
    let mut space = Space::default();
    for block in unreachable.into_iter().flat_map(Extent::iter) {
        vacuum_delay_point();
        if trust == Trust::FreeSpaceMap && free_space::has(rel, block) {
            space.free += 1;
            continue;
        }
        let is_free = examine(rel, block, horizon, &mut space);
        if is_free {
            free_space::offer(rel, block);
            failpoint::reach("reclaim.offered");
            space.free += 1;
        }
    }
    free_space::refresh(rel);
    Ok(space)
}

/// True if the page is free. Retires garbage. A page whose writer may still be active is not garbage: the writer has a
/// transaction id below the page's, or a snapshot that holds the horizon back.
fn examine(rel: Rel, block: u32, horizon: u64, space: &mut Space) -> bool {
    let page = ExclusivePageLock::lock(rel, block);
    if page.view().is_new() {
        return true;
    }
    match page.view().tag() {
        Some(tag) if tag.kind == PageKind::Retired => {
            space.retired += 1;
            tag.full_xid < horizon
        }
        Some(tag) if tag.full_xid < horizon => {
            stamp(rel, &page, tag);
            failpoint::reach("reclaim.retired");
            space.newly_retired += 1;
            space.retired += 1;
            false
        }
        _ => false,
    }
}

/// As extents, because the index may have very many blocks.
fn reachable_blocks(rel: Rel) -> Result<Vec<Extent>, IndexError> {
    let meta = read_meta(rel)?;
    let manifest = read_manifest(rel, &meta)?;
    let mut reachable = Extent::cover(&delta::blocks(rel, &meta)?);
    reachable.push(Extent { start: META_BLOCK, blocks: 1 });
    for blob in manifest.blobs().chain(&meta.manifest) {
        reachable.extend_from_slice(&blob.extents);
    }
    Ok(reachable)
}
