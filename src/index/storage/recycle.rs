//! Offers pages that this process has retired for reuse, as soon as no scan can read them (invariant 5).
//!
//! VACUUM finds free pages by examining every unreachable page, which is too expensive for a seal. Each merge retires
//! about as many pages as the following inserts need. So the process that merged remembers its retired pages and offers
//! them when it seals. This only fills the free space map: whether a page is free is decided by its tag when it is
//! allocated (`ExclusivePageLock::allocate`). Pages forgotten here, at the latest when the process exits, are found by
//! the next VACUUM.

use std::cell::RefCell;
use std::collections::VecDeque;

use crate::pg::free_space;
use crate::pg::relation::Rel;
use crate::pg::xid;

/// Limit on the remembered batches of all indexes; the oldest is dropped.
const MAX_BATCHES: usize = 16;

struct RetiredPages {
    /// Not the relation's oid: a rebuilt index keeps that, and may be shorter.
    index_id: u128,
    /// All pages of the batch were retired before this transaction id.
    retired_before: u64,
    blocks: Vec<u32>,
}

thread_local! {
    static BATCHES: RefCell<VecDeque<RetiredPages>> = RefCell::default();
}

/// Remembers pages that were just retired.
pub fn remember(index_id: u128, blocks: Vec<u32>) {
    let batch = RetiredPages { index_id, retired_before: xid::next(), blocks };
    BATCHES.with_borrow_mut(|batches| {
        batches.push_back(batch);
        if batches.len() > MAX_BATCHES {
            batches.pop_front();
        }
    });
}

/// Offers the pages of `rel` that are free now. The caller holds the maintenance lock and has read `index_id` under it,
/// so the blocks belong to this version of the relation.
pub fn offer(rel: Rel, index_id: u128) {
    let horizon = xid::oldest_running();
    let is_free = |batch: &RetiredPages| batch.index_id == index_id && batch.retired_before < horizon;
    let free: Vec<RetiredPages> = BATCHES.with_borrow_mut(|batches| {
        let (free, rest) = batches.drain(..).partition(is_free);
        *batches = rest;
        Vec::from(free)
    });
    free_space::offer_all(rel, free.iter().flat_map(|batch| batch.blocks.iter().copied()));
}
