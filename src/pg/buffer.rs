//! Pages under a buffer lock, and how new ones are had.

use std::ops::Deref;

use pgrx::pg_sys;

use super::relation::Rel;
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
    /// A page that was never written: PostgreSQL's `PageIsNew`.
    pub fn is_new(&self) -> bool {
        self.0[PD_UPPER..PD_UPPER + 2] == [0, 0]
    }

    pub fn tag(&self) -> Option<PageTag> {
        self.0.last_chunk::<TAG_BYTES>().and_then(PageTag::from_bytes)
    }

    /// What was written between header and hole.
    pub fn body(&self) -> &'a [u8] {
        self.0.get(PAGE_HEADER_BYTES..self.lower()).unwrap_or(&[])
    }

    /// Where the hole begins; on a damaged page, at most where it ends.
    fn lower(&self) -> usize {
        usize::from(u16::from_le_bytes([self.0[PD_LOWER], self.0[PD_LOWER + 1]])).min(TAG_AT)
    }

    /// Of a heap page: which line pointers are taken, by offset, the first being 1 (ItemIdIsUsed, storage/itemid.h).
    pub fn line_pointers(&self) -> Vec<bool> {
        let (pointers, _) = self.body().as_chunks::<4>();
        pointers.iter().map(|pointer| u32::from_le_bytes(*pointer) >> 15 & 3 != pg_sys::LP_UNUSED).collect()
    }

    /// The body, if this is the page that is meant: same owner, kind and chunk. A page that was retired meanwhile keeps
    /// its content until it is used again, and then it has another owner.
    pub fn body_of(&self, owner: u128, kind: PageKind, chunk: u32) -> Option<&'a [u8]> {
        let tag = self.tag()?;
        let is_kind = tag.kind == kind || tag.kind == PageKind::Retired;
        (tag.owner == owner && is_kind && tag.chunk == chunk).then(|| self.body())
    }
}

/// Where the parts of a page lie, for those who write them.
pub(super) struct PageBytes;

impl PageBytes {
    pub const LOWER_AT: usize = PD_LOWER;
    pub const BODY_AT: usize = PAGE_HEADER_BYTES;
    pub const TAG_AT: usize = TAG_AT;

    /// pd_lower of a page whose body has so many bytes; all behind it counts as a hole and is not logged.
    pub fn lower(body_bytes: usize) -> u16 {
        let lower = PAGE_HEADER_BYTES + body_bytes;
        assert!(lower <= TAG_AT, "a page body overflows");
        lower as u16
    }
}

/// A buffer's own bytes, to be written.
pub(super) struct PageMut<'a>(&'a mut [u8]);

impl PageMut<'_> {
    /// # Safety
    /// `page` points to a page that nobody else reads or writes for 'a.
    pub unsafe fn new(page: pg_sys::Page) -> Self {
        // SAFETY: pages are BLCKSZ long; exclusiveness is the caller's promise.
        PageMut(unsafe { core::slice::from_raw_parts_mut(page.cast::<u8>(), PAGE_BYTES) })
    }

    /// Makes it an empty page of this format.
    pub fn init(&mut self, tag: PageTag) {
        let page = self.0.as_mut_ptr().cast::<core::ffi::c_char>();
        // SAFETY: the slice is a whole page.
        unsafe { pg_sys::PageInit(page, PAGE_BYTES, TAG_BYTES) };
        self.0[TAG_AT..].copy_from_slice(&tag.to_bytes());
    }

    /// Fills an empty page.
    pub fn set_body(&mut self, body: &[u8]) {
        let lower = PageBytes::lower(body.len());
        self.0[PAGE_HEADER_BYTES..usize::from(lower)].copy_from_slice(body);
        self.0[PD_LOWER..PD_LOWER + 2].copy_from_slice(&lower.to_le_bytes());
    }

    /// Overwrites bytes at these offsets, and zeroes what a shorter body leaves behind.
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

/// A buffer that is pinned, and locked at least against those who write; both end with the value.
pub struct PageLock {
    buffer: pg_sys::Buffer,
}

impl PageLock {
    pub fn share(rel: Rel, block: u32) -> Self {
        Self::acquire(rel, block, pg_sys::BUFFER_LOCK_SHARE)
    }

    fn acquire(rel: Rel, block: u32, mode: u32) -> Self {
        // The same number means "extend the relation" to ReadBuffer: a damaged pointer must not do that.
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
        unsafe {
            let page = pg_sys::BufferGetPage(self.buffer);
            PageView(core::slice::from_raw_parts(page.cast::<u8>(), PAGE_BYTES))
        }
    }

    /// Never used, or retired so long ago that no scan can still read it (invariant 5).
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

/// A buffer that is pinned and locked against everybody else. Only such a page can be written.
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

    /// A page for new content, one that the free space map offers and that really is free, or
    /// else a new one at the relation's end.
    pub fn allocate(rel: Rel) -> Self {
        Self::reuse(rel).unwrap_or_else(|| Self::extend(rel))
    }

    /// A page that the free space map offers, if it says itself that it is free.
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

    /// A new page at the relation's end, and now and then some more for the free space map. Between the moment that it is
    /// there and the moment that it is locked, another backend can come upon it as a zero page that is free for use: then it
    /// is theirs.
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

    /// The next page of a fork that nobody else knows yet.
    pub fn create(rel: Rel, fork: pg_sys::ForkNumber::Type) -> Self {
        let buffer = read(rel, fork, NO_BLOCK);
        // SAFETY: the buffer is pinned.
        unsafe { pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32) };
        ExclusivePageLock(PageLock { buffer })
    }

    /// Writes without WAL, for relations that are logged as a whole before they can be seen.
    pub fn write_unlogged(&mut self, tag: PageTag, parts: &[&[u8]]) {
        // SAFETY: `self` is the exclusive lock.
        unsafe {
            let mut page = PageMut::new(pg_sys::BufferGetPage(self.buffer));
            page.init(tag);
            page.set_body(&parts.concat());
            pg_sys::MarkBufferDirty(self.buffer);
        }
    }

    /// As `write_unlogged`, then logs the whole page even if the relation is unlogged: its init fork must survive.
    pub fn write_init_fork(&mut self, tag: PageTag, parts: &[&[u8]]) {
        self.write_unlogged(tag, parts);
        // SAFETY: exclusively locked and dirty, as log_newpage_buffer wants; the critical section makes an error
        // between the two a restart, not an unlogged page.
        unsafe {
            pg_sys::CritSectionCount += 1;
            pg_sys::log_newpage_buffer(self.buffer, true);
            pg_sys::CritSectionCount -= 1;
        }
    }
}

fn read(rel: Rel, fork: pg_sys::ForkNumber::Type, block: u32) -> pg_sys::Buffer {
    let mode = pg_sys::ReadBufferMode::RBM_NORMAL;
    // SAFETY: the relation is open; no strategy.
    unsafe { pg_sys::ReadBufferExtended(rel.as_ptr(), fork, block, mode, core::ptr::null_mut()) }
}
