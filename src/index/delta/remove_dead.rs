//! VACUUM of the delta: removes dead entries, and unlinks pages that became empty.

use super::{Chain, Walker};
use crate::failpoint;
use crate::index::error::IndexError;
use crate::index::format::{DeltaHead, DeltaLayout, Meta, NO_BLOCK, PageKind, PageTag, Tid};
use crate::pg::buffer::ExclusivePageLock;
use crate::pg::relation::Rel;
use crate::pg::wal::WalRecord;
use crate::pg::xid;

/// Counts of one VACUUM of the delta.
#[derive(Default)]
pub struct DeltaVacuum {
    pub rows: u64,
    pub removed_rows: u64,
}

/// Calls `is_dead` once for every entry and removes those for which it is true. The caller holds the maintenance lock,
/// so no other process removes entries; entries appended meanwhile are live.
pub fn vacuum(
    rel: Rel,
    meta: &Meta,
    is_dead: &mut dyn FnMut(Tid) -> bool,
) -> Result<DeltaVacuum, IndexError> {
    let layout = DeltaLayout::new(meta.dims as usize);
    let mut found = DeltaVacuum::default();
    let (mut last_kept, mut walker) = (None, Walker::new(rel, Chain::of_delta(meta)));
    while let Some(page) = walker.next_page()? {
        crate::pg::vacuum_delay_point();
        let dead: Vec<Tid> = page.tids(layout).filter(|&tid| is_dead(tid)).collect();
        let kept_rows = page.tids(layout).count() - dead.len();
        found.rows += kept_rows as u64;
        found.removed_rows += dead.len() as u64;
        if !dead.is_empty() {
            remove_entries(rel, page.block, layout, &dead)?;
            failpoint::reach("vacuum.entries_removed");
        }
        let unlinked = match last_kept {
            Some(previous) if kept_rows == 0 => unlink_if_empty(rel, previous, page.block)?,
            _ => false,
        };
        if !unlinked {
            last_kept = Some(page.block);
        }
    }
    Ok(found)
}

fn remove_entries(rel: Rel, block: u32, layout: DeltaLayout, dead: &[Tid]) -> Result<(), IndexError> {
    let lock = ExclusivePageLock::lock(rel, block);
    let view = lock.view();
    let (mut head, entries) = DeltaHead::split(view.body(), layout)?;
    let kept: Vec<&[u8]> = entries
        .chunks_exact(layout.entry_bytes())
        .filter(|entry| !dead.contains(&Tid::from_bytes(entry)))
        .collect();
    head.entries = kept.len() as u16;
    let kept = kept.concat();
    let mut record = WalRecord::start(rel);
    record.edit(&lock, |page| page.set_body(&[&head.to_bytes(), &kept]));
    record.commit();
    Ok(())
}

/// Unlinks an empty page between two others, in one record. The page keeps its own link for readers that are on it.
fn unlink_if_empty(rel: Rel, previous: u32, block: u32) -> Result<bool, IndexError> {
    let before = ExclusivePageLock::lock(rel, previous);
    let lock = ExclusivePageLock::lock(rel, block);
    let head = DeltaHead::from_body(lock.view().body())?;
    let Some(tag) = lock.view().tag() else {
        return Ok(false);
    };
    if head.entries > 0 || head.next_block == NO_BLOCK {
        return Ok(false);
    }
    let link = DeltaHead {
        next_block: head.next_block,
        next_chunk: head.next_chunk,
        ..DeltaHead::from_body(before.view().body())?
    };
    let mut record = WalRecord::start(rel);
    record.edit(&before, |page| page.patch_body(0, &link.to_bytes()));
    let retired = PageTag { kind: PageKind::Retired, full_xid: xid::next(), ..tag };
    record.edit(&lock, |page| page.set_tag(retired));
    failpoint::reach("vacuum.before_unlink");
    record.commit();
    failpoint::reach("vacuum.page_unlinked");
    Ok(true)
}
