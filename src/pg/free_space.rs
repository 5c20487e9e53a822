//! The free space map of an index's pages. It is only a hint, which a crash can falsify; a page's tag is authoritative.

use pgrx::pg_sys;

use super::relation::Rel;
use crate::page::NO_BLOCK;

/// Records a free page.
pub fn offer(rel: Rel, block: u32) {
    // SAFETY: the relation is open.
    unsafe { pg_sys::RecordFreeIndexPage(rel.as_ptr(), block) };
}

/// Records free pages and makes them findable at once.
pub fn offer_all(rel: Rel, blocks: impl Iterator<Item = u32>) {
    let (mut first, mut end) = (u32::MAX, 0);
    for block in blocks {
        offer(rel, block);
        (first, end) = (first.min(block), end.max(block + 1));
    }
    if first < end {
        // SAFETY: the relation is open. The map's upper pages follow, by which it is searched.
        unsafe { pg_sys::FreeSpaceMapVacuumRange(rel.as_ptr(), first, end) };
    }
}

/// Updates the map's upper pages, so that searches find everything recorded.
pub fn refresh(rel: Rel) {
    // SAFETY: the relation is open.
    unsafe { pg_sys::IndexFreeSpaceMapVacuum(rel.as_ptr()) };
}

/// Removes a page from the map and returns it.
pub fn take(rel: Rel) -> Option<u32> {
    // SAFETY: the relation is open.
    let block = unsafe { pg_sys::GetFreeIndexPage(rel.as_ptr()) };
    (block != NO_BLOCK).then_some(block)
}

/// Extends the map to cover pages up to this one. VACUUM on a full disk needs the map to free pages, and could not
/// extend it then.
pub fn prepare(rel: Rel, block: u32) {
    // SAFETY: the relation is open.
    unsafe { pg_sys::RecordUsedIndexPage(rel.as_ptr(), block) };
}

/// Whether the map records this page as free.
pub fn has(rel: Rel, block: u32) -> bool {
    // SAFETY: the relation is open.
    unsafe { pg_sys::GetRecordedFreeSpace(rel.as_ptr(), block) > 0 }
}

/// Whether the map records any free page.
pub fn has_any(rel: Rel) -> bool {
    // SAFETY: the relation is open. A free page is recorded as one with BLCKSZ - 1 bytes
    // (storage/freespace/indexfsm.c).
    unsafe { pg_sys::GetPageWithFreeSpace(rel.as_ptr(), pg_sys::BLCKSZ as pg_sys::Size / 2) != NO_BLOCK }
}
