//! The free space map: which pages of an index are free. A hint, which crashes can falsify: the page itself must say so.

use pgrx::pg_sys;

use super::relation::Rel;
use crate::page::NO_BLOCK;

/// Tells the map of a free page.
pub fn offer(rel: Rel, block: u32) {
    // SAFETY: the relation is open.
    unsafe { pg_sys::RecordFreeIndexPage(rel.as_ptr(), block) };
}

/// Tells the map of free pages, so that they are found at once.
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

/// Lets a search of the map find all that it was told of.
pub fn refresh(rel: Rel) {
    // SAFETY: the relation is open.
    unsafe { pg_sys::IndexFreeSpaceMapVacuum(rel.as_ptr()) };
}

/// Takes a page out of the map.
pub fn take(rel: Rel) -> Option<u32> {
    // SAFETY: the relation is open.
    let block = unsafe { pg_sys::GetFreeIndexPage(rel.as_ptr()) };
    (block != NO_BLOCK).then_some(block)
}

/// Makes room in the map for what it will have to say of pages up to this one. Whoever deletes rows because the disk is
/// full needs it to give pages back, and it cannot grow then.
pub fn prepare(rel: Rel, block: u32) {
    // SAFETY: the relation is open.
    unsafe { pg_sys::RecordUsedIndexPage(rel.as_ptr(), block) };
}

/// Whether the map knows of this page.
pub fn has(rel: Rel, block: u32) -> bool {
    // SAFETY: the relation is open.
    unsafe { pg_sys::GetRecordedFreeSpace(rel.as_ptr(), block) > 0 }
}

/// Whether the map knows of any page.
pub fn has_any(rel: Rel) -> bool {
    // SAFETY: the relation is open. A free page is recorded as one with BLCKSZ - 1 bytes (storage/freespace/indexfsm.c).
    unsafe { pg_sys::GetPageWithFreeSpace(rel.as_ptr(), pg_sys::BLCKSZ as pg_sys::Size / 2) != NO_BLOCK }
}
