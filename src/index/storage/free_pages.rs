//! Pages that nothing refers to: found, stamped with the horizon of their last readers, and given back.
//!
//! Whoever changes the root retires the pages that it no longer reaches, or dies before that, or dies before it changes
//! the root and leaves new pages. `reclaim` finds them all in the same way: every page that the root does not reach is
//! either in the making or garbage, or was never used. A page carries the transaction horizon of its writing
//! (`PageTag::full_xid`), and a writer is in a transaction that is older; so once all those transactions were over *before*
//! the reachable pages were listed, an unlisted page is garbage. It is stamped as retired first and offered to the free
//! space map in a later VACUUM, when no scan is left that could have been on its way to it (invariant 5).

use crate::failpoint;
use crate::index::error::IndexError;
use crate::index::format::{Extent, META_BLOCK, PageKind, PageTag};
use crate::index::{delta, read_manifest, read_meta};
use crate::pg::buffer::ExclusivePageLock;
use crate::pg::relation::Rel;
use crate::pg::wal::WalRecord;
use crate::pg::{extension, free_space, take_interrupts, vacuum_delay_point, xid};

/// Stamps pages that the root no longer reaches, so that the next `reclaim` can give them back. Their content stays for
/// searches that are on their way to them.
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

/// Whom to believe that a page is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The page alone. A crash can leave a page in the map that was in use again, and is garbage by now.
    Page,
    /// The map: cheaper than to read each free page, for those who come often.
    FreeSpaceMap,
}

/// What VACUUM reports about pages.
#[derive(Default)]
pub struct Space {
    /// Retired by this run.
    pub newly_retired: u32,
    /// Retired, by this run or an earlier one, but perhaps still read by some scan.
    pub retired: u32,
    /// Free to be used again.
    pub free: u32,
}

/// Lists what the root reaches and deals with the rest. The caller holds the maintenance lock.
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

/// True: the page is free. Stamps garbage as retired: a page of a writer that may still be at work is not garbage, and
/// each has a transaction id below the page's, or a snapshot that keeps the horizon from passing it.
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

/// In extents, since there are as many blocks as the index has.
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
