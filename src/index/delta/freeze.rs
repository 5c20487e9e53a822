//! Freezes the part of the delta that is to be sealed.

use super::{Chain, ChainPage, Walker, push_blocks};
use crate::failpoint;
use crate::index::error::IndexError;
use crate::index::format::{DeltaHead, Meta, Tid};
use crate::pg::buffer::ExclusivePageLock;
use crate::pg::relation::Rel;
use crate::pg::wal::WalRecord;

/// The oldest part of the delta, as sealing reads it.
pub struct Frozen {
    /// TIDs of its rows, in order.
    pub tids: Vec<Tid>,
    /// The rows in stored form, concatenated: little-endian floats.
    pub rows: Vec<u8>,
    /// All blocks that it uses, overflow pages included.
    pub blocks: Vec<u32>,
    /// The first page of the remaining delta.
    pub rest: ChainPage,
}

/// Freezes the delta from its start up to `max_bytes` of rows, or up to its last page, which is never frozen. Closes
/// pages that still have room. The caller holds the maintenance lock, so VACUUM cannot make room in closed pages.
pub fn freeze(rel: Rel, meta: &Meta, max_bytes: usize) -> Result<Frozen, IndexError> {
    let chain = Chain::of_delta(meta);
    let max_rows = max_bytes.div_ceil(chain.dims * size_of::<f32>());
    let mut frozen = Frozen { tids: Vec::new(), rows: Vec::new(), blocks: Vec::new(), rest: chain.start };
    let mut walker = Walker::new(rel, chain);
    while frozen.tids.len() < max_rows
        && let Some(page) = walker.next_closed_page()?
        && let Some(rest) = page.next()
    {
        frozen.tids.extend(page.tids(chain.layout()));
        page.read_row_bytes(rel, chain.layout(), &mut frozen.rows)?;
        push_blocks(rel, page, &mut frozen.blocks)?;
        frozen.rest = rest;
    }
    Ok(frozen)
}

/// Closes a page: no entry is appended to it any more.
pub(super) fn close(rel: Rel, block: u32) -> Result<(), IndexError> {
    let lock = ExclusivePageLock::lock(rel, block);
    let head = DeltaHead { is_closed: true, ..DeltaHead::from_body(lock.view().body())? };
    let mut record = WalRecord::start(rel);
    record.edit(&lock, |page| page.patch_body(0, &head.to_bytes()));
    record.commit();
    drop(lock);
    failpoint::reach("seal.page_closed");
    Ok(())
}
