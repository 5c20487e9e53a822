//! Pages under a buffer lock, and the allocation of new pages.

use std::ops::Deref;

use pgrx::pg_sys;

use super::relation::Rel;
use super::wal::CriticalSection;
use super::{extension, free_space, xid};
use crate::page::{NO_BLOCK, PAGE_BYTES, PAGE_HEADER_BYTES, PageKind, PageTag, TAG_BYTES};

const _: () =
    assert!(PAGE_BYTES == pg_sys::BLCKSZ as usize, "only PostgreSQL's default block size is supported");

/// Offsets in PageHeaderData (storage/bufpage.h).
const PD_LOWER: usize = 12;
const PD_UPPER: usize = 14;
const TAG_AT: usize = PAGE_BYTES - TAG_BYTES;

/// The bytes of a page.
pub struct PageView<'a>(&'a [u8]);

impl<'a> PageView<'a> {
    /// Whether the page was never written: PostgreSQL's `PageIsNew`.
    pub fn is_new(&self) -> bool {
        self.0[PD_UPPER..PD_UPPER + 2] == [0, 0]
    }

    pub fn tag(&self) -> Option<PageTag> {
        self.0.last_chunk::<TAG_BYTES>().and_then(PageTag::from_bytes)
    }

    /// The bytes between the header and the hole.
    pub fn body(&self) -> &'a [u8] {
        self.0.get(PAGE_HEADER_BYTES..self.lower()).unwrap_or(&[])
    }

    /// Start of the hole; on a damaged page, clamped to the start of the special space.
    fn lower(&self) -> usize {
        usize::from(u16::from_le_bytes([self.0[PD_LOWER], self.0[PD_LOWER + 1]])).min(TAG_AT)
    }

    /// Of a heap page: whether each line pointer is used, by offset - 1 (ItemIdIsUsed, storage/itemid.h).
    pub fn line_pointers(&self) -> Vec<bool> {
        let (pointers, _) = self.body().as_chunks::<4>();
        pointers.iter().map(|pointer| u32::from_le_bytes(*pointer) >> 15 & 3 != pg_sys::LP_UNUSED).collect()
    }

    /// The body, if the page's tag has this owner, kind and chunk. A retired page keeps its tag's owner and its content
    /// until it is reused, and then gets another owner.
    pub fn body_of(&self, owner: u128, kind: PageKind, chunk: u32) -> Option<&'a [u8]> {
        let tag = self.tag()?;
        let is_kind = tag.kind == kind || tag.kind == PageKind::Retired;
        (tag.owner == owner && is_kind && tag.chunk == chunk).then(|| self.body())
    }
}

/// Offsets of a page's parts, for writing.
pub(super) struct PageBytes;

impl PageBytes {
    pub const LOWER_AT: usize = PD_LOWER;
    pub const BODY_AT: usize = PAGE_HEADER_BYTES;
    pub const TAG_AT: usize = TAG_AT;

    /// pd_lower of a page with a body of this many bytes. Everything after it counts as hole and is not logged.
    pub fn lower(body_bytes: usize) -> u16 {
        let lower = PAGE_HEADER_BYTES + body_bytes;
        assert!(lower <= TAG_AT, "a page body overflows");
        lower as u16
    }
}

/// The bytes of a page in a buffer, for writing.
pub(super) struct PageMut<'a>(&'a mut [u8]);

impl PageMut<'_> {
    /// # Safety
    /// `page` points to a page that nobody else reads or writes for 'a.
    pub unsafe fn new(page: pg_sys::Page) -> Self {
        // SAFETY: pages are BLCKSZ long; exclusiveness is the caller's promise.
        PageMut(unsafe { core::slice::from_raw_parts_mut(page.cast::<u8>(), PAGE_BYTES) })
    }

    /// Makes it an empty page with this tag.
    pub fn init(&mut self, tag: PageTag) {
        let page = self.0.as_mut_ptr().cast::<core::ffi::c_char>();
        // SAFETY: the slice is a whole page.
        unsafe { pg_sys::PageInit(page, PAGE_BYTES, TAG_BYTES) };
        self.0[TAG_AT..].copy_from_slice(&tag.to_bytes());
    }

    /// Sets the body of an empty page.
    pub fn set_body(&mut self, body: &[u8]) {
        let lower = PageBytes::lower(body.len());
        self.0[PAGE_HEADER_BYTES..usize::from(lower)].copy_from_slice(body);
        self.0[PD_LOWER..PD_LOWER + 2].copy_from_slice(&lower.to_le_bytes());
    }

    /// Overwrites bytes at the given offsets, and zeroes the remainder of a body that became shorter.
    pub fn apply<'a>(&mut self, fragments: impl Iterator<Item = (usize, &'a [u8])>) {
        let old_lower = PageView(self.0).lower();
        for (at, bytes) in fragments {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let lower = PageView(self.0).lower();
        if lower < old_lower {
            self.0[lower..old_lower].fill(0);
        }
    }

    /// PostgreSQL's `PageSetLSN`: the high half comes first.
    pub fn set_lsn(&mut self, lsn: pg_sys::XLogRecPtr) {
        self.0[0..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        self.0[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
    }
}

/// A buffer that is pinned and share-locked, or locked exclusively by `ExclusivePageLock`. Dropping it releases both.
pub struct PageLock {
    buffer: pg_sys::Buffer,
}

impl PageLock {
    pub fn share(rel: Rel, block: u32) -> Self {
        Self::acquire(rel, block, pg_sys::BUFFER_LOCK_SHARE)
    }

    fn acquire(rel: Rel, block: u32, mode: u32) -> Self {
        // ReadBuffer takes this number as "extend the relation"; a damaged pointer must not do that.
        assert!(block != NO_BLOCK, "a page pointer is damaged");
        let buffer = read(rel, pg_sys::ForkNumber::MAIN_FORKNUM, block);
        // SAFETY: the buffer is pinned.
        unsafe { pg_sys::LockBuffer(buffer, mode as i32) };
        PageLock { buffer }
    }

    pub fn block(&self) -> u32 {
        // SAFETY: the buffer is pinned.
        unsafe { pg_sys::BufferGetBlockNumber(self.buffer) }
    }

    pub fn view(&self) -> PageView<'_> {
        // SAFETY: pinned and locked, so the page's bytes stay and do not change while `self` is borrowed.
        PageView(unsafe { core::slice::from_raw_parts(self.page().cast::<u8>(), PAGE_BYTES) })
    }

    /// Where the page lies, for as long as the lock is held.
    #[inline]
    pub(super) fn page(&self) -> pg_sys::Page {
        // SAFETY: the buffer is pinned.
        unsafe { pg_sys::BufferGetPage(self.buffer) }
    }

    /// Whether the page was never used, or retired so long ago that no scan can still read it (invariant 5).
    fn is_free(&self) -> bool {
        let view = self.view();
        view.is_new()
            || view
                .tag()
                .is_some_and(|tag| tag.kind == PageKind::Retired && tag.full_xid < xid::oldest_running())
    }

    pub(super) fn buffer(&self) -> pg_sys::Buffer {
        self.buffer
    }
}

impl Drop for PageLock {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pinned and locked since construction.
            unsafe { pg_sys::UnlockReleaseBuffer(self.buffer) };
        }
    }
}

/// A buffer that is pinned and locked exclusively. Only such a page can be written.
pub struct ExclusivePageLock(PageLock);

impl Deref for ExclusivePageLock {
    type Target = PageLock;

    fn deref(&self) -> &PageLock {
        &self.0
    }
}

impl ExclusivePageLock {
    pub fn lock(rel: Rel, block: u32) -> Self {
        ExclusivePageLock(PageLock::acquire(rel, block, pg_sys::BUFFER_LOCK_EXCLUSIVE))
    }

    /// Allocates a page for new content: a free page that the free space map offers, or else a new page at the
    /// relation's end.
    pub fn allocate(rel: Rel) -> Self {
        Self::reuse(rel).unwrap_or_else(|| Self::extend(rel))
    }

    /// A page from the free space map, if its tag says that it is free.
    pub fn reuse(rel: Rel) -> Option<Self> {
        loop {
            let block = free_space::take(rel)?;
            let buffer = read(rel, pg_sys::ForkNumber::MAIN_FORKNUM, block);
            // SAFETY: the buffer is pinned.
            if unsafe { pg_sys::ConditionalLockBuffer(buffer) } {
                let page = ExclusivePageLock(PageLock { buffer });
                if page.is_free() {
                    return Some(page);
                }
            } else {
                // SAFETY: pinned above and not locked.
                unsafe { pg_sys::ReleaseBuffer(buffer) };
            }
        }
    }

    /// Adds a page at the relation's end, and sometimes more for the free space map. Before the new page is locked,
    /// another backend can find it as a zero page that is free and use it; the loop then adds another one.
    fn extend(rel: Rel) -> Self {
        loop {
            let mut blocks = extension::add_empty_pages(rel);
            let first = blocks.next();
            free_space::offer_all(rel, blocks);
            if let Some(page) = first.map(|block| Self::lock(rel, block)).filter(|page| page.view().is_new())
            {
                return page;
            }
        }
    }

    /// The next page of a fork that no other process uses yet.
    pub fn create(rel: Rel, fork: pg_sys::ForkNumber::Type) -> Self {
        let buffer = read(rel, fork, NO_BLOCK);
        // SAFETY: the buffer is pinned.
        unsafe { pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32) };
        ExclusivePageLock(PageLock { buffer })
    }

    /// Writes without WAL, for relations that are logged as a whole before they become visible.
    pub fn write_unlogged(&mut self, tag: PageTag, parts: &[&[u8]]) {
        // SAFETY: `self` is the exclusive lock.
        let mut page = unsafe { PageMut::new(self.page()) };
        page.init(tag);
        page.set_body(&parts.concat());
        // SAFETY: pinned and exclusively locked.
        unsafe { pg_sys::MarkBufferDirty(self.buffer) };
    }

    /// As `write_unlogged`, then logs the whole page even if the relation is unlogged, because its init fork must
    /// survive a crash.
    pub fn write_init_fork(&mut self, tag: PageTag, parts: &[&[u8]]) {
        self.write_unlogged(tag, parts);
        let critical = CriticalSection::begin();
        // SAFETY: exclusively locked and dirty, in a critical section, as log_newpage_buffer wants.
        unsafe { pg_sys::log_newpage_buffer(self.buffer, true) };
        critical.end();
    }
}

fn read(rel: Rel, fork: pg_sys::ForkNumber::Type, block: u32) -> pg_sys::Buffer {
    let mode = pg_sys::ReadBufferMode::RBM_NORMAL;
    // SAFETY: the relation is open; no strategy.
    unsafe { pg_sys::ReadBufferExtended(rel.as_ptr(), fork, block, mode, core::ptr::null_mut()) }
}
