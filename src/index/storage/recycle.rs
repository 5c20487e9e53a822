//! Pages that this process has retired, offered for use again as soon as no scan can read them (invariant 5).
//!
//! VACUUM finds every free page by looking for it, which a seal is not worth; yet each merge retires as many as the
//! rows to come want. So whoever merges remembers its pages, and offers them when it seals. They are only offered here:
//! a page itself says whether it is free when somebody takes it (`ExclusivePageLock::allocate`). Those that are
//! forgotten, at the latest with the process, are found by the next VACUUM.

use std::cell::RefCell;
use std::collections::VecDeque;

use crate::pg::free_space;
use crate::pg::relation::Rel;
use crate::pg::xid;

/// Batches that are remembered, of all indexes together; beyond that the oldest is forgotten.
const MAX_BATCHES: usize = 16;

struct Batch {
    /// Not the relation's number: a rebuilt index has that too, and may be shorter.
    index_id: u128,
    /// What holds for each of its pages: none was retired later.
    retired_before: u64,
    blocks: Vec<u32>,
}

thread_local! {
    static BATCHES: RefCell<VecDeque<Batch>> = RefCell::default();
}

/// Remembers pages that were just retired.
pub fn remember(index_id: u128, blocks: Vec<u32>) {
    let batch = Batch { index_id, retired_before: xid::next(), blocks };
    BATCHES.with_borrow_mut(|batches| {
        batches.push_back(batch);
        if batches.len() > MAX_BATCHES {
            batches.pop_front();
        }
    });
}

/// Offers the pages of `rel` that are free by now. The caller holds the maintenance lock and has read `index_id` under
/// it, so that the pages are still the relation's.
pub fn offer(rel: Rel, index_id: u128) {
    let horizon = xid::oldest_running();
    let is_free = |batch: &Batch| batch.index_id == index_id && batch.retired_before < horizon;
    let free: Vec<Batch> = BATCHES.with_borrow_mut(|batches| {
        let (free, rest) = batches.drain(..).partition(is_free);
        *batches = rest;
        Vec::from(free)
    });
    free_space::offer_all(rel, free.iter().flat_map(|batch| batch.blocks.iter().copied()));
}
