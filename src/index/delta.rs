//! The delta: pages of `(tid, row)` for the rows that came after the last seal. They are searched exactly.
//!
//! A chain of pages from `Meta::delta_head` to `Meta::delta_tail`, whose chunk numbers only grow. Statements begin at the
//! tail; one of many rows goes on with pages of its own, so that such statements need not wait for each other at every
//! row. VACUUM takes dead entries out where they are and unlinks pages that it emptied, all but the first and the last;
//! sealing cuts the oldest pages off (`seal`), after it has closed those that would take more entries. They stay as they
//! are: a segment is made of them (`sealed`).
//!
//! Locks: meta page before delta page, a delta page before its successor. A reader holds one page at a time; it can
//! find itself on a page that was unlinked or cut off meanwhile. Such a page keeps its entries and its link, because
//! it is reused only when nobody who could stand on it is left (invariant 5). Where that does not hold, on a standby,
//! the chunk number tells.

use pgrx::pg_sys;

use super::error::IndexError;
use super::format::{
    DELTA_ENTRY_HEAD_BYTES, DELTA_HEAD_BYTES, DeltaHead, DeltaLayout, DeltaRun, META_BLOCK, Meta, NO_BLOCK,
    OVERFLOW_ELEMENTS, OVERFLOW_HEAD_BYTES, PageKind, PageTag, TID_BYTES, Tid, overflow_head, overflow_next,
    tid_from_bytes, tid_to_bytes,
};
use super::{blob, read_meta};
use crate::failpoint;
use crate::pg::buffer::{PageLock, PageView};
use crate::pg::relation::Rel;
use crate::pg::wal::WalRecord;
use crate::pg::xid;

// ---------------------------------------------------------------- append

/// How often an insert looks for the last page. Each time, another backend has appended one since; that this happens so
/// often means that the page is damaged.
const APPEND_ATTEMPTS: usize = 1000;
/// A statement that has inserted so many rows fills pages of its own: at most one page more is left half empty by it.
const SHARING_ROWS: u32 = 16;
/// A statement that finds no free page takes so many new ones before it looks again.
const PAGES_BETWEEN_LOOKS: u32 = 64;

/// The entry to append, in the pieces that pages take.
struct Entry<'a> {
    layout: DeltaLayout,
    tid: [u8; DELTA_ENTRY_HEAD_BYTES],
    head: &'a [u8],
    /// First overflow page and the owner of all of them.
    overflow: (u32, u128),
}

impl Entry<'_> {
    fn counted(&self, head: DeltaHead) -> DeltaHead {
        let (overflow_block, overflow_id) = self.overflow;
        DeltaHead { entries: head.entries + 1, overflow_block, overflow_id, ..head }
    }
}

/// Appends a row in the form that is indexed (`Metric::prepare`). `tail`: where the statement's last row went, or where
/// the root said that the chain ends; it moves on. One WAL record makes the row visible; the overflow pages of a long one
/// are logged before it. Returns the bytes that the delta has grown to if it took a new page.
pub fn append(rel: Rel, tail: &mut Tail, tid: Tid, row: &[f32]) -> Result<Option<u64>, IndexError> {
    let layout = DeltaLayout::new(row.len());
    let mut bytes = std::mem::take(&mut tail.bytes);
    bytes.clear();
    bytes.extend(row.iter().flat_map(|element| element.to_le_bytes()));
    let outcome = append_bytes(rel, tail, tid, layout, &bytes);
    tail.bytes = bytes;
    outcome
}

fn append_bytes(
    rel: Rel,
    tail: &mut Tail,
    tid: Tid,
    layout: DeltaLayout,
    bytes: &[u8],
) -> Result<Option<u64>, IndexError> {
    let (head, rest) = bytes.split_at(4 * layout.head_elements);
    let mut tid_head = [0u8; DELTA_ENTRY_HEAD_BYTES];
    tid_head[..TID_BYTES].copy_from_slice(&tid_to_bytes(tid));
    let entry = Entry { layout, tid: tid_head, head, overflow: write_overflow(rel, rest)? };
    failpoint::reach("insert.started");

    tail.rows = tail.rows.saturating_add(1);
    for _ in 0..APPEND_ATTEMPTS {
        pgrx::check_for_interrupts!();
        if append_to(rel, tail, &entry) {
            return Ok(None);
        }
        if tail.shares() {
            let last = read_meta(rel)?.delta_tail;
            if last != tail.block {
                // Another backend has appended a page.
                tail.block = last;
                continue;
            }
        }
        let fresh = tail.allocate(rel);
        if let Some((block, bytes)) = append_page(rel, fresh, Some(&entry), tail.shares())? {
            tail.block = block;
            return Ok(Some(bytes));
        }
    }
    Err(IndexError::Damaged(format!("block {} is not the last delta page", tail.block)))
}

/// Appends the entry to a page of the chain. False: the page takes it not, or it is none.
fn append_to(rel: Rel, tail: &Tail, entry: &Entry) -> bool {
    let page = PageLock::exclusive(rel, tail.block);
    let Some(head) = head_of(&page.view(), tail.index_id).filter(|head| head.takes_more(entry.layout)) else {
        return false;
    };
    let mut record = WalRecord::start(rel);
    record.edit(&page, |page| {
        page.patch_body(0, &entry.counted(head).to_bytes());
        page.extend_body(&[&entry.tid, entry.head]);
    });
    failpoint::reach("insert.before_append");
    record.commit();
    failpoint::reach("insert.appended");
    true
}

/// Where a statement puts its rows: a page that is thought to be in the chain, of the index with this id. Only the page
/// itself tells.
pub struct Tail {
    index_id: u128,
    block: u32,
    /// Of the statement so far.
    rows: u32,
    /// New pages that it takes before it looks for a free one.
    pages_until_look: u32,
    /// The last row as it is stored.
    bytes: Vec<u8>,
}

impl Tail {
    pub fn of(meta: &Meta) -> Self {
        let (index_id, block) = (meta.index_id, meta.delta_tail);
        Tail { index_id, block, rows: 0, pages_until_look: 0, bytes: Vec::new() }
    }

    /// As `PageLock::allocate`, but where there was no free page, it does not look for one each time.
    fn allocate(&mut self, rel: Rel) -> PageLock {
        if self.pages_until_look == 0 {
            if let Some(page) = PageLock::reuse(rel) {
                return page;
            }
            self.pages_until_look = PAGES_BETWEEN_LOOKS;
        }
        self.pages_until_look -= 1;
        PageLock::extend(rel, pg_sys::ForkNumber::MAIN_FORKNUM)
    }

    /// Whether it looks for room in pages that others have appended.
    fn shares(&self) -> bool {
        self.rows <= SHARING_ROWS
    }
}

/// The head of a delta page of the index with this id; None if it is none, or not any more.
fn head_of(view: &PageView, index_id: u128) -> Option<DeltaHead> {
    let tag = view.tag()?;
    (tag.owner == index_id && tag.kind == PageKind::Delta).then(|| DeltaHead::from_bytes(view.body()))
}

/// Ends the last page, so that every row so far is in front of it and can be sealed.
pub fn roll(rel: Rel) -> Result<(), IndexError> {
    append_page(rel, PageLock::allocate(rel), None, true).map(|_| ())
}

/// Links `fresh` as the last page, with the entry if there is one: meta page, old tail and new page in one record. None if the
/// old one still does for one that `shares` it: another backend was faster, or it is empty as a rolled tail should be.
/// Returns the page and the delta's bytes.
fn append_page(
    rel: Rel,
    fresh: PageLock,
    entry: Option<&Entry>,
    shares: bool,
) -> Result<Option<(u32, u64)>, IndexError> {
    failpoint::reach("insert.page_allocated");
    let meta_page = PageLock::exclusive(rel, META_BLOCK);
    let mut meta = Meta::decode(meta_page.view().body())?;
    let tail = PageLock::exclusive(rel, meta.delta_tail);
    let head = head_of(&tail.view(), meta.index_id)
        .filter(|head| head.next_block == NO_BLOCK)
        .ok_or_else(|| IndexError::Damaged("the meta page does not point to the last delta page".into()))?;
    if shares && entry.map_or(head.entries == 0, |entry| head.takes_more(entry.layout)) {
        let block = fresh.block();
        drop((tail, meta_page, fresh));
        super::space::offer(rel, block);
        return Ok(None);
    }
    let chunk = meta.delta_next_chunk;
    meta.delta_next_chunk += 1;
    meta.delta_tail = fresh.block();

    let mut record = WalRecord::start(rel);
    let linked = DeltaHead { next_block: fresh.block(), next_chunk: chunk, ..head };
    record.edit(&tail, |page| page.patch_body(0, &linked.to_bytes()));
    let tag = PageTag { owner: meta.index_id, full_xid: xid::next(), chunk, kind: PageKind::Delta };
    match entry {
        Some(entry) => {
            let first = entry.counted(DeltaHead::EMPTY).to_bytes();
            record.create(&fresh, tag, &[&first, &entry.tid, entry.head]);
        }
        None => record.create(&fresh, tag, &[&DeltaHead::EMPTY.to_bytes()]),
    }
    record.edit(&meta_page, |page| page.set_body(&[&meta.encode()]));
    failpoint::reach("insert.before_link");
    record.commit();
    failpoint::reach("insert.linked");
    Ok(Some((meta.delta_tail, meta.delta_bytes())))
}

/// Writes what of a row does not fit its delta page, last page first, so that each knows its successor. Returns the
/// first page and the owner, or `(NO_BLOCK, 0)`.
fn write_overflow(rel: Rel, rest: &[u8]) -> Result<(u32, u128), IndexError> {
    if rest.is_empty() {
        return Ok((NO_BLOCK, 0));
    }
    let owner = blob::random_id()?;
    let mut next = NO_BLOCK;
    for (chunk, part) in rest.chunks(4 * OVERFLOW_ELEMENTS).enumerate().rev() {
        let page = PageLock::allocate(rel);
        let tag =
            PageTag { owner, full_xid: xid::next(), chunk: chunk as u32, kind: PageKind::DeltaOverflow };
        let mut record = WalRecord::start(rel);
        record.create(&page, tag, &[&overflow_head(next), part]);
        record.commit();
        failpoint::reach("insert.overflow_page_written");
        next = page.block();
    }
    Ok((next, owner))
}

// ---------------------------------------------------------------- walk

/// A delta page as a walker sees it: copied, no lock held.
pub struct DeltaPage {
    pub block: u32,
    pub head: DeltaHead,
    /// Body behind the head: whole entries.
    entries: Vec<u8>,
}

impl DeltaPage {
    fn read(&mut self, rel: Rel, index_id: u128, place: Place) -> Result<(), IndexError> {
        let lock = PageLock::share(rel, place.block);
        let body = lock.view().body_of(index_id, PageKind::Delta, place.chunk).ok_or(IndexError::Stale)?;
        if body.len() < DELTA_HEAD_BYTES {
            return Err(IndexError::Damaged(format!("delta page {} is cut short", place.block)));
        }
        let (head, entries) = body.split_at(DELTA_HEAD_BYTES);
        self.block = place.block;
        self.head = DeltaHead::from_bytes(head);
        self.entries.clear();
        self.entries.extend_from_slice(entries);
        Ok(())
    }

    /// The page behind it; None for the tail.
    pub fn next(&self) -> Option<Place> {
        let DeltaHead { next_block, next_chunk, .. } = self.head;
        (next_block != NO_BLOCK).then_some(Place { block: next_block, chunk: next_chunk })
    }

    pub fn tids(&self, layout: DeltaLayout) -> impl Iterator<Item = Tid> + '_ {
        self.entries.chunks_exact(layout.entry_bytes()).map(tid_from_bytes)
    }

    /// Appends the page's rows, one after the other.
    fn read_rows(
        &self,
        rel: Rel,
        dims: usize,
        tids: &mut Vec<Tid>,
        rows: &mut Vec<f32>,
    ) -> Result<(), IndexError> {
        let layout = DeltaLayout::new(dims);
        for entry in self.entries.chunks_exact(layout.entry_bytes()) {
            tids.push(tid_from_bytes(entry));
            push_elements(rows, &entry[DELTA_ENTRY_HEAD_BYTES..]);
            read_overflow(rel, &self.head, dims - layout.head_elements, rows)?;
        }
        Ok(())
    }

    /// Appends the page's rows as they are stored, little-endian floats.
    pub fn read_row_bytes(
        &self,
        rel: Rel,
        layout: DeltaLayout,
        rows: &mut Vec<u8>,
    ) -> Result<(), IndexError> {
        for entry in self.entries.chunks_exact(layout.entry_bytes()) {
            rows.extend_from_slice(&entry[DELTA_ENTRY_HEAD_BYTES..]);
            for_each_overflow_page(rel, &self.head, |_, body| {
                rows.extend_from_slice(&body[OVERFLOW_HEAD_BYTES..]);
            })?;
        }
        Ok(())
    }
}

/// A page of the chain: block and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub block: u32,
    pub chunk: u32,
}

/// Pages that are linked in this order: the delta, or a part of it that was sealed.
#[derive(Debug, Clone, Copy)]
pub struct Chain {
    index_id: u128,
    dims: usize,
    start: Place,
    /// Number of the first page behind it.
    end_chunk: u32,
}

impl Chain {
    fn of_delta(meta: &Meta) -> Self {
        let start = Place { block: meta.delta_head, chunk: meta.delta_head_chunk };
        Chain { index_id: meta.index_id, dims: meta.dims as usize, start, end_chunk: u32::MAX }
    }

    pub fn of_run(run: &DeltaRun) -> Self {
        let start = Place { block: run.start_block, chunk: run.start_chunk };
        Chain { index_id: run.index_id, dims: run.dims as usize, start, end_chunk: run.end_chunk }
    }

    pub fn layout(&self) -> DeltaLayout {
        DeltaLayout::new(self.dims)
    }
}

/// Goes through the pages of a chain in order.
pub struct Walker {
    rel: Rel,
    chain: Chain,
    next: Option<Place>,
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
        self.page.read(self.rel, self.chain.index_id, place)?;
        self.follow(place)
    }

    /// As `next_page`; but for the last one, nobody appends to the page any more. For the holder of the maintenance lock.
    fn next_closed_page(&mut self) -> Result<Option<&DeltaPage>, IndexError> {
        let Some(place) = self.next else {
            return Ok(None);
        };
        self.next_page()?;
        if self.page.next().is_some() && self.page.head.takes_more(self.chain.layout()) {
            close(self.rel, place.block);
            self.page.read(self.rel, self.chain.index_id, place)?;
        }
        self.follow(place)
    }

    /// Goes on from the page at `place`, which was read.
    fn follow(&mut self, place: Place) -> Result<Option<&DeltaPage>, IndexError> {
        self.next = self.page.next().filter(|next| next.chunk < self.chain.end_chunk);
        if self.next.is_some_and(|next| next.chunk <= place.chunk) {
            return Err(IndexError::Damaged(format!("delta page {} links back", place.block)));
        }
        Ok(Some(&self.page))
    }
}

/// Visits every row: `(tids, rows)` in batches, the rows one after the other. The slices are valid for one call.
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

/// The oldest part of the delta, as sealing takes it.
pub struct Frozen {
    /// Of its rows, in order.
    pub tids: Vec<Tid>,
    /// Every page that it uses.
    pub blocks: Vec<u32>,
    /// Where the rest of the delta starts.
    pub rest: Place,
}

/// Takes the delta from its start up to `max_bytes` of rows or up to its last page, which is never frozen. Pages that
/// would take more entries are closed first. The caller holds the maintenance lock, so that nobody makes room in the
/// others.
pub fn freeze(rel: Rel, meta: &Meta, max_bytes: usize) -> Result<Frozen, IndexError> {
    let chain = Chain::of_delta(meta);
    let max_rows = max_bytes.div_ceil(chain.dims * size_of::<f32>());
    let mut frozen = Frozen { tids: Vec::new(), blocks: Vec::new(), rest: chain.start };
    let mut walker = Walker::new(rel, chain);
    while frozen.tids.len() < max_rows
        && let Some(page) = walker.next_closed_page()?
        && let Some(rest) = page.next()
    {
        frozen.tids.extend(page.tids(chain.layout()));
        push_blocks(rel, page, &mut frozen.blocks)?;
        frozen.rest = rest;
    }
    Ok(frozen)
}

/// Lets a page take no more entries.
fn close(rel: Rel, block: u32) {
    let lock = PageLock::exclusive(rel, block);
    let head = DeltaHead { is_closed: true, ..DeltaHead::from_bytes(lock.view().body()) };
    let mut record = WalRecord::start(rel);
    record.edit(&lock, |page| page.patch_body(0, &head.to_bytes()));
    record.commit();
    drop(lock);
    failpoint::reach("seal.page_closed");
}

/// Appends the rest of a long row to `row`.
fn read_overflow(rel: Rel, head: &DeltaHead, elements: usize, row: &mut Vec<f32>) -> Result<(), IndexError> {
    let wanted = row.len() + elements;
    for_each_overflow_page(rel, head, |_, body| push_elements(row, &body[OVERFLOW_HEAD_BYTES..]))?;
    if row.len() != wanted {
        return Err(IndexError::Damaged("a row in the delta is cut short".into()));
    }
    Ok(())
}

/// Visits block and body of each overflow page.
fn for_each_overflow_page(
    rel: Rel,
    head: &DeltaHead,
    mut visit: impl FnMut(u32, &[u8]),
) -> Result<(), IndexError> {
    let (mut block, mut chunk) = (head.overflow_block, 0);
    while block != NO_BLOCK && head.entries > 0 {
        let lock = PageLock::share(rel, block);
        let view = lock.view();
        let body = view.body_of(head.overflow_id, PageKind::DeltaOverflow, chunk).ok_or(IndexError::Stale)?;
        visit(block, body);
        (block, chunk) = (overflow_next(body), chunk + 1);
    }
    Ok(())
}

/// Rows in the delta.
pub fn count_rows(rel: Rel, meta: &Meta) -> Result<u64, IndexError> {
    let layout = DeltaLayout::new(meta.dims as usize);
    let (mut rows, mut walker) = (0, Walker::new(rel, Chain::of_delta(meta)));
    while let Some(page) = walker.next_page()? {
        rows += page.tids(layout).count() as u64;
    }
    Ok(rows)
}

/// Every block that the delta uses.
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

// ---------------------------------------------------------------- VACUUM

/// What VACUUM found in the delta.
#[derive(Default)]
pub struct DeltaVacuum {
    pub rows: u64,
    pub removed_rows: u64,
}

/// Shows `is_dead` every entry once and removes those that it names. The caller holds the maintenance lock, so nobody
/// else removes; entries that are appended meanwhile are live.
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
            remove_entries(rel, page.block, layout, &dead);
            failpoint::reach("vacuum.entries_removed");
        }
        let unlinked =
            kept_rows == 0 && last_kept.is_some_and(|previous| unlink_if_empty(rel, previous, page.block));
        if !unlinked {
            last_kept = Some(page.block);
        }
    }
    Ok(found)
}

fn remove_entries(rel: Rel, block: u32, layout: DeltaLayout, dead: &[Tid]) {
    let lock = PageLock::exclusive(rel, block);
    let view = lock.view();
    let body = view.body();
    let mut head = DeltaHead::from_bytes(body);
    let kept: Vec<&[u8]> = body[DELTA_HEAD_BYTES..]
        .chunks_exact(layout.entry_bytes())
        .filter(|entry| !dead.contains(&tid_from_bytes(entry)))
        .collect();
    head.entries = kept.len() as u16;
    let kept = kept.concat();
    let mut record = WalRecord::start(rel);
    record.edit(&lock, |page| page.set_body(&[&head.to_bytes(), &kept]));
    record.commit();
}

/// Takes an empty page between two others out of the chain, in one record. Its own link stays for those who stand
/// on it.
fn unlink_if_empty(rel: Rel, previous: u32, block: u32) -> bool {
    let before = PageLock::exclusive(rel, previous);
    let lock = PageLock::exclusive(rel, block);
    let head = DeltaHead::from_bytes(lock.view().body());
    let Some(tag) = lock.view().tag() else {
        return false;
    };
    if head.entries > 0 || head.next_block == NO_BLOCK {
        return false;
    }
    let link = DeltaHead {
        next_block: head.next_block,
        next_chunk: head.next_chunk,
        ..DeltaHead::from_bytes(before.view().body())
    };
    let mut record = WalRecord::start(rel);
    record.edit(&before, |page| page.patch_body(0, &link.to_bytes()));
    let retired = PageTag { kind: PageKind::Retired, full_xid: xid::next(), ..tag };
    record.edit(&lock, |page| page.set_tag(retired));
    failpoint::reach("vacuum.before_unlink");
    record.commit();
    failpoint::reach("vacuum.page_unlinked");
    true
}

// ---------------------------------------------------------------- elements and bytes

fn push_elements(row: &mut Vec<f32>, bytes: &[u8]) {
    let (elements, _) = bytes.as_chunks::<4>();
    row.extend(elements.iter().map(|element| f32::from_le_bytes(*element)));
}
