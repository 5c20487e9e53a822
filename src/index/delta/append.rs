//! Appends a row to the delta: finds its page, and links new pages into the chain.

use crate::failpoint;
use crate::index::error::IndexError;
use crate::index::format::{
    DELTA_ENTRY_HEAD_BYTES, DeltaHead, DeltaLayout, META_BLOCK, Meta, NO_BLOCK, OVERFLOW_ELEMENTS, PageKind,
    PageTag, TID_BYTES, Tid, overflow_head,
};
use crate::index::storage::blob;
use crate::index::{read_meta, root_on};
use crate::pg::buffer::{ExclusivePageLock, PageView};
use crate::pg::free_space;
use crate::pg::relation::Rel;
use crate::pg::wal::WalRecord;
use crate::pg::xid;

/// Limit on retries of an insert. Each retry means that another backend has appended a page, so reaching the limit
/// means that the page is damaged.
const APPEND_ATTEMPTS: usize = 1000;
/// After inserting this many rows, a statement appends to pages of its own. At most one of them stays half empty.
const SHARING_ROWS: u32 = 16;

/// The entry to append, split as pages store it.
struct NewEntry<'a> {
    layout: DeltaLayout,
    tid: [u8; DELTA_ENTRY_HEAD_BYTES],
    head: &'a [u8],
    /// First overflow page and the owner id of all of them.
    overflow: (u32, u128),
}

impl NewEntry<'_> {
    fn counted(&self, head: DeltaHead) -> DeltaHead {
        let (overflow_block, overflow_id) = self.overflow;
        DeltaHead { entries: head.entries + 1, overflow_block, overflow_id, ..head }
    }
}

/// Appends a row in its indexed form (`Metric::prepare`). `tail` is the page of the statement's previous row, or the
/// end of the chain as the root had it; it is updated. One WAL record makes the row visible; the overflow pages of a
/// long row are logged before it. Returns the delta's new size in bytes if a page was added.
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
    tid_head[..TID_BYTES].copy_from_slice(&tid.to_bytes());
    let entry = NewEntry { layout, tid: tid_head, head, overflow: write_overflow(rel, rest)? };
    failpoint::reach("insert.started");

    tail.rows = tail.rows.saturating_add(1);
    for _ in 0..APPEND_ATTEMPTS {
        pgrx::check_for_interrupts!();
        if append_to(rel, tail, &entry)? {
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
        if let Some((block, bytes)) =
            append_page(rel, ExclusivePageLock::allocate(rel), Some(&entry), tail.shares())?
        {
            tail.block = block;
            return Ok(Some(bytes));
        }
    }
    Err(IndexError::Damaged(format!("block {} is not the last delta page", tail.block)))
}

/// Appends the entry to a page of the chain. False if the page is full or closed, or no longer a page of the delta.
fn append_to(rel: Rel, tail: &Tail, entry: &NewEntry) -> Result<bool, IndexError> {
    let page = ExclusivePageLock::lock(rel, tail.block);
    let head = head_of(&page.view(), tail.index_id, entry.layout)?;
    let Some(head) = head.filter(|head| head.has_room(entry.layout)) else {
        return Ok(false);
    };
    let mut record = WalRecord::start(rel);
    record.edit(&page, |page| {
        page.patch_body(0, &entry.counted(head).to_bytes());
        page.extend_body(&[&entry.tid, entry.head]);
    });
    failpoint::reach("insert.before_append");
    record.commit();
    failpoint::reach("insert.appended");
    Ok(true)
}

/// Where a statement appends its rows. A guess: the page was in the chain of this index when last seen, and its tag is
/// checked under the lock.
pub struct Tail {
    index_id: u128,
    block: u32,
    /// Number of rows the statement has inserted.
    rows: u32,
    /// The last row in its stored form.
    bytes: Vec<u8>,
}

impl Tail {
    pub fn of(meta: &Meta) -> Self {
        let (index_id, block) = (meta.index_id, meta.delta_tail);
        Tail { index_id, block, rows: 0, bytes: Vec::new() }
    }

    /// Whether the statement looks for room in pages that other backends have appended.
    fn shares(&self) -> bool {
        self.rows <= SHARING_ROWS
    }
}

/// The head of a delta page of this index; None if the page is not, or no longer, one.
fn head_of(view: &PageView, index_id: u128, layout: DeltaLayout) -> Result<Option<DeltaHead>, IndexError> {
    let is_delta = view.tag().is_some_and(|tag| tag.owner == index_id && tag.kind == PageKind::Delta);
    if !is_delta {
        return Ok(None);
    }
    let (head, _) = DeltaHead::split(view.body(), layout)?;
    Ok(Some(head))
}

/// Appends an empty page, so that all rows up to now are before the last page and can be sealed.
pub fn roll(rel: Rel) -> Result<(), IndexError> {
    append_page(rel, ExclusivePageLock::allocate(rel), None, true).map(|_| ())
}

/// Links `fresh` as the last page, with `entry` if given. Meta page, old tail and new page change in one record. None
/// if the old tail still has room for a statement that shares pages, because another backend was faster or a rolled
/// tail is still empty. Returns the page and the delta's size in bytes.
fn append_page(
    rel: Rel,
    fresh: ExclusivePageLock,
    entry: Option<&NewEntry>,
    shares: bool,
) -> Result<Option<(u32, u64)>, IndexError> {
    failpoint::reach("insert.page_allocated");
    let meta_page = ExclusivePageLock::lock(rel, META_BLOCK);
    let mut meta = root_on(rel, &meta_page)?;
    let tail = ExclusivePageLock::lock(rel, meta.delta_tail);
    let head = head_of(&tail.view(), meta.index_id, DeltaLayout::new(meta.dims as usize))?
        .filter(|head| head.next_block == NO_BLOCK)
        .ok_or_else(|| IndexError::Damaged("the meta page does not point to the last delta page".into()))?;
    if shares && entry.map_or(head.entries == 0, |entry| head.has_room(entry.layout)) {
        let block = fresh.block();
        drop((tail, meta_page, fresh));
        free_space::offer(rel, block);
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

/// Writes the overflow part of a row, last page first, so that each page can link to its successor. Returns the first
/// page and the owner id, or `(NO_BLOCK, 0)`.
fn write_overflow(rel: Rel, rest: &[u8]) -> Result<(u32, u128), IndexError> {
    if rest.is_empty() {
        return Ok((NO_BLOCK, 0));
    }
    let owner = blob::random_id()?;
    let mut next = NO_BLOCK;
    for (chunk, part) in rest.chunks(4 * OVERFLOW_ELEMENTS).enumerate().rev() {
        let page = ExclusivePageLock::allocate(rel);
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
