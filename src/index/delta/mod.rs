//! The delta: pages of `(tid, row)` for rows inserted since the last seal. They are searched exactly.
//!
//! The pages form a chain from `Meta::delta_head` to `Meta::delta_tail` with ascending chunk numbers. A statement
//! starts to insert at the tail; after some rows it continues on pages of its own, so that large statements do not
//! contend for the same page. VACUUM removes dead entries in place and unlinks the pages it emptied, except the first
//! and the last. Sealing closes the oldest pages and cuts them off (`compact::seal`); they keep their content, and a
//! segment is made of them (`segment::in_place`).
//!
//! Locks: meta page before delta page, a delta page before its successor. A reader locks one page at a time, so its
//! page may be unlinked or cut off meanwhile. Such a page keeps its entries and its link, because it is reused only
//! after the last scan that could be on it has ended (invariant 5). A standby does not enforce that; there, the chunk
//! number reveals a reused page.

mod append;
mod freeze;
mod insert;
mod remove_dead;

use super::error::IndexError;
use super::format::{
    DELTA_ENTRY_HEAD_BYTES, DeltaHead, DeltaLayout, DeltaRun, Meta, NO_BLOCK, PageKind, Tid, split_overflow,
};
use crate::pg::buffer::PageLock;
use crate::pg::relation::Rel;

pub use append::{Tail, append, roll};
pub use freeze::{Frozen, freeze};
pub use insert::Inserter;
pub use remove_dead::vacuum;

/// A copy of a delta page, for a reader that holds no lock.
pub struct DeltaPage {
    pub block: u32,
    pub head: DeltaHead,
    /// The body after the head: whole entries.
    entries: Vec<u8>,
}

impl DeltaPage {
    fn read(&mut self, rel: Rel, chain: &Chain, place: ChainPage) -> Result<(), IndexError> {
        let lock = share(rel, place.block)?;
        let body =
            lock.view().body_of(chain.index_id, PageKind::Delta, place.chunk).ok_or(IndexError::Stale)?;
        let (head, entries) = DeltaHead::split(body, chain.layout())?;
        self.block = place.block;
        self.head = head;
        self.entries.clear();
        self.entries.extend_from_slice(entries);
        Ok(())
    }

    /// The next page; None for the tail.
    pub fn next(&self) -> Option<ChainPage> {
        let DeltaHead { next_block, next_chunk, .. } = self.head;
        (next_block != NO_BLOCK).then_some(ChainPage { block: next_block, chunk: next_chunk })
    }

    pub fn tids(&self, layout: DeltaLayout) -> impl Iterator<Item = Tid> + '_ {
        self.entries.chunks_exact(layout.entry_bytes()).map(Tid::from_bytes)
    }

    /// Appends the page's rows to `rows`.
    fn read_rows(
        &self,
        rel: Rel,
        dims: usize,
        tids: &mut Vec<Tid>,
        rows: &mut Vec<f32>,
    ) -> Result<(), IndexError> {
        let layout = DeltaLayout::new(dims);
        for entry in self.entries.chunks_exact(layout.entry_bytes()) {
            tids.push(Tid::from_bytes(entry));
            push_elements(rows, &entry[DELTA_ENTRY_HEAD_BYTES..]);
            read_overflow(rel, &self.head, dims - layout.head_elements, rows)?;
        }
        Ok(())
    }

    /// Appends the page's rows in stored form, little-endian floats.
    pub fn read_row_bytes(
        &self,
        rel: Rel,
        layout: DeltaLayout,
        rows: &mut Vec<u8>,
    ) -> Result<(), IndexError> {
        for entry in self.entries.chunks_exact(layout.entry_bytes()) {
            let end = rows.len() + 4 * layout.dims;
            rows.extend_from_slice(&entry[DELTA_ENTRY_HEAD_BYTES..]);
            for_each_overflow_page(rel, &self.head, |_, bytes| rows.extend_from_slice(bytes))?;
            check_length(rows.len(), end)?;
        }
        Ok(())
    }
}

/// Locks a page that a link or the root points to. The relation never shrinks, so a block past its end is damage.
fn share(rel: Rel, block: u32) -> Result<PageLock, IndexError> {
    if block >= rel.blocks() {
        return Err(IndexError::Damaged(format!(
            "the delta's page {block} lies behind the end of the index"
        )));
    }
    Ok(PageLock::share(rel, block))
}

/// Whether a row ended at the expected length.
fn check_length(end: usize, wanted: usize) -> Result<(), IndexError> {
    if end == wanted { Ok(()) } else { Err(IndexError::Damaged("a row in the delta is cut short".into())) }
}

/// A page of the chain: its block and its chunk number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainPage {
    pub block: u32,
    pub chunk: u32,
}

/// A range of linked pages: the delta, or a part of it that was sealed.
#[derive(Debug, Clone, Copy)]
pub struct Chain {
    index_id: u128,
    dims: usize,
    start: ChainPage,
    /// Chunk number of the first page after the range.
    end_chunk: u32,
}

impl Chain {
    fn of_delta(meta: &Meta) -> Self {
        let start = ChainPage { block: meta.delta_head, chunk: meta.delta_head_chunk };
        Chain { index_id: meta.index_id, dims: meta.dims as usize, start, end_chunk: u32::MAX }
    }

    pub fn of_run(run: &DeltaRun) -> Self {
        let start = ChainPage { block: run.start_block, chunk: run.start_chunk };
        Chain { index_id: run.index_id, dims: run.dims as usize, start, end_chunk: run.end_chunk }
    }

    pub fn layout(&self) -> DeltaLayout {
        DeltaLayout::new(self.dims)
    }
}

/// Iterates over the pages of a chain.
pub struct Walker {
    rel: Rel,
    chain: Chain,
    next: Option<ChainPage>,
    page: DeltaPage,
}

impl Walker {
    pub fn new(rel: Rel, chain: Chain) -> Self {
        let page = DeltaPage { block: chain.start.block, head: DeltaHead::EMPTY, entries: Vec::new() };
        Walker { rel, chain, next: Some(chain.start), page }
    }

    /// The next page; None at the end. `Stale` if a page was reused under the walker.
    pub fn next_page(&mut self) -> Result<Option<&DeltaPage>, IndexError> {
        let Some(place) = self.next else {
            return Ok(None);
        };
        pgrx::check_for_interrupts!();
        self.page.read(self.rel, &self.chain, place)?;
        self.follow(place)
    }

    /// As `next_page`, but closes each page except the last. For the holder of the maintenance lock.
    fn next_closed_page(&mut self) -> Result<Option<&DeltaPage>, IndexError> {
        let Some(place) = self.next else {
            return Ok(None);
        };
        self.next_page()?;
        if self.page.next().is_some() && self.page.head.has_room(self.chain.layout()) {
            freeze::close(self.rel, place.block)?;
            self.page.read(self.rel, &self.chain, place)?;
        }
        self.follow(place)
    }

    /// Continues from the page at `place`, which has been read.
    fn follow(&mut self, place: ChainPage) -> Result<Option<&DeltaPage>, IndexError> {
        self.next = self.page.next().filter(|next| next.chunk < self.chain.end_chunk);
        if self.next.is_some_and(|next| next.chunk <= place.chunk) {
            return Err(IndexError::Damaged(format!("delta page {} links back", place.block)));
        }
        Ok(Some(&self.page))
    }
}

/// Calls `visit` with `(tids, rows)` in batches, the rows concatenated. The slices are valid during the call.
pub fn for_each_row(
    rel: Rel,
    meta: &Meta,
    mut visit: impl FnMut(&[Tid], &[f32]) -> Result<(), IndexError>,
) -> Result<(), IndexError> {
    const BATCH_ELEMENTS: usize = 64 * 1024;
    let (mut tids, mut rows) = (Vec::new(), Vec::new());
    let mut walker = Walker::new(rel, Chain::of_delta(meta));
    while let Some(page) = walker.next_page()? {
        page.read_rows(rel, meta.dims as usize, &mut tids, &mut rows)?;
        if rows.len() >= BATCH_ELEMENTS {
            visit(&tids, &rows)?;
            tids.clear();
            rows.clear();
        }
    }
    if tids.is_empty() { Ok(()) } else { visit(&tids, &rows) }
}

/// Appends the overflow part of a long row to `row`.
fn read_overflow(rel: Rel, head: &DeltaHead, elements: usize, row: &mut Vec<f32>) -> Result<(), IndexError> {
    let wanted = row.len() + elements;
    for_each_overflow_page(rel, head, |_, bytes| push_elements(row, bytes))?;
    check_length(row.len(), wanted)
}

/// Calls `visit` with the block and bytes of each overflow page.
fn for_each_overflow_page(
    rel: Rel,
    head: &DeltaHead,
    mut visit: impl FnMut(u32, &[u8]),
) -> Result<(), IndexError> {
    let (mut block, mut chunk) = (head.overflow_block, 0);
    while block != NO_BLOCK && head.entries > 0 {
        let lock = share(rel, block)?;
        let view = lock.view();
        let body = view.body_of(head.overflow_id, PageKind::DeltaOverflow, chunk).ok_or(IndexError::Stale)?;
        let (next, bytes) = split_overflow(body)?;
        visit(block, bytes);
        (block, chunk) = (next, chunk + 1);
    }
    Ok(())
}

/// Number of rows in the delta.
pub fn count_rows(rel: Rel, meta: &Meta) -> Result<u64, IndexError> {
    let layout = DeltaLayout::new(meta.dims as usize);
    let (mut rows, mut walker) = (0, Walker::new(rel, Chain::of_delta(meta)));
    while let Some(page) = walker.next_page()? {
        rows += page.tids(layout).count() as u64;
    }
    Ok(rows)
}

/// All blocks that the delta uses.
pub fn blocks(rel: Rel, meta: &Meta) -> Result<Vec<u32>, IndexError> {
    let (mut blocks, mut walker) = (Vec::new(), Walker::new(rel, Chain::of_delta(meta)));
    while let Some(page) = walker.next_page()? {
        push_blocks(rel, page, &mut blocks)?;
    }
    Ok(blocks)
}

fn push_blocks(rel: Rel, page: &DeltaPage, blocks: &mut Vec<u32>) -> Result<(), IndexError> {
    blocks.push(page.block);
    for_each_overflow_page(rel, &page.head, |block, _| blocks.push(block))
}

fn push_elements(row: &mut Vec<f32>, bytes: &[u8]) {
    let (elements, _) = bytes.as_chunks::<4>();
    row.extend(elements.iter().map(|element| f32::from_le_bytes(*element)));
}
