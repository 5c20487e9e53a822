//! WAL-logged changes of pages: records of PostgreSQL's generic WAL, each atomic and of at most four pages.
//!
//! PostgreSQL's own writer of such records (access/transam/generic_xlog.c) gives its caller copies of pages and
//! compares all 8 kB of each to find the changes. Our callers know their changes, so the record is built from them, in
//! the same format, and any server replays it without the extension (`generic_redo`). For each page it has a list of
//! fragments (offset 2, length 2, bytes), or a full image. Replay zeroes the hole between pd_lower and pd_upper; here
//! it is always zero.

use pgrx::pg_sys;

use super::buffer::{ExclusivePageLock, PageBytes, PageLock, PageMut};
use super::relation::Rel;
use crate::page::PageTag;

// pgrx's bindings of these functions set up error handling for each call. In a critical section an error ends the
// server instead, so they are called directly (access/xloginsert.h, storage/bufmgr.h).
unsafe extern "C-unwind" {
    fn MarkBufferDirty(buffer: pg_sys::Buffer);
    fn XLogRegisterBuffer(block_id: u8, buffer: pg_sys::Buffer, flags: u8);
    fn XLogInsert(rmid: pg_sys::RmgrId, info: u8) -> pg_sys::XLogRecPtr;
}

/// A section in which an error is a crash, so that no page is ever changed without its record.
pub(super) struct CriticalSection(());

impl CriticalSection {
    pub fn begin() -> Self {
        // SAFETY: a counter of this process.
        unsafe { pg_sys::CritSectionCount += 1 };
        CriticalSection(())
    }

    pub fn end(self) {
        // SAFETY: a counter of this process, raised by `begin`.
        unsafe { pg_sys::CritSectionCount -= 1 };
    }
}

/// PostgreSQL's `MAX_GENERIC_XLOG_PAGES` (access/generic_xlog.h), a limit of the replay.
const MAX_PAGES: usize = 4;

/// A WAL record under construction. `commit` applies and logs all changes together; a record dropped before changes
/// nothing. Relations that need no WAL use the same code, unlogged.
pub struct WalRecord {
    rel: Rel,
    pages: Vec<PageChange>,
}

struct PageChange {
    buffer: pg_sys::Buffer,
    page: pg_sys::Page,
    what: What,
}

enum What {
    Edit(Fragments),
    Create { tag: PageTag, body: Vec<u8> },
}

impl WalRecord {
    pub fn start(rel: Rel) -> Self {
        WalRecord { rel, pages: Vec::with_capacity(MAX_PAGES) }
    }

    /// Edits an existing page, at most once per record. `lock` must outlive `commit`.
    pub fn edit<R>(&mut self, lock: &ExclusivePageLock, change: impl FnOnce(&mut PageEdit) -> R) -> R {
        let mut edit = PageEdit { page: lock, fragments: Fragments(Vec::with_capacity(USUAL_BYTES)) };
        let result = change(&mut edit);
        let fragments = edit.fragments;
        self.push(lock, What::Edit(fragments));
        result
    }

    /// Gives a page new content, logged as a whole.
    pub fn create(&mut self, lock: &ExclusivePageLock, tag: PageTag, parts: &[&[u8]]) {
        self.push(lock, What::Create { tag, body: parts.concat() });
    }

    fn push(&mut self, lock: &ExclusivePageLock, what: What) {
        let buffer = lock.buffer();
        assert!(self.pages.len() < MAX_PAGES, "a WAL record has too many pages");
        assert!(self.pages.iter().all(|page| page.buffer != buffer), "a WAL record names a page twice");
        self.pages.push(PageChange { buffer, page: lock.page(), what });
    }

    /// Applies the changes and logs them as one record. The steps are those that access/transam/README prescribes
    /// ("Write-Ahead Log Coding"): every buffer is exclusively locked by the caller and marked dirty before it is
    /// registered. Nothing after the first change waits or allocates from PostgreSQL.
    #[expect(ffi_unwind_calls, reason = "an error in a critical section ends the server: it does not unwind")]
    pub fn commit(self) {
        let is_logged = self.rel.needs_wal();
        if is_logged {
            // SAFETY: no other record is under construction: none is left between two calls of this function.
            unsafe { pg_sys::XLogBeginInsert() };
        }
        let critical = CriticalSection::begin();
        for (block_id, change) in self.pages.iter().enumerate() {
            // SAFETY: the caller holds the exclusive lock until this function returns.
            unsafe { change.apply() };
            // SAFETY: pinned and exclusively locked.
            unsafe { MarkBufferDirty(change.buffer) };
            if is_logged {
                // SAFETY: the record was begun, the buffer is dirty, and `self` stays until the record is inserted.
                unsafe { change.register(block_id as u8) };
            }
        }
        if is_logged {
            // SAFETY: the record was begun, and names its pages.
            let lsn = unsafe { XLogInsert(pg_sys::RmgrIds::RM_GENERIC_ID as pg_sys::RmgrId, 0) };
            for change in &self.pages {
                // SAFETY: the caller still holds the exclusive lock.
                unsafe { change.page() }.set_lsn(lsn);
            }
        }
        critical.end();
    }
}

impl PageChange {
    /// # Safety
    /// The buffer is exclusively locked, and nobody else looks at the value.
    unsafe fn page(&self) -> PageMut<'_> {
        // SAFETY: the caller's promise.
        unsafe { PageMut::new(self.page) }
    }

    /// # Safety
    /// As `page`.
    unsafe fn apply(&self) {
        // SAFETY: the caller's promise.
        let mut page = unsafe { self.page() };
        match &self.what {
            What::Edit(fragments) => page.apply(fragments.iter()),
            What::Create { tag, body } => {
                page.init(*tag);
                page.set_body(body);
            }
        }
    }

    /// # Safety
    /// A record was begun, the buffer is exclusively locked and dirty, and the value stays until the record is
    /// inserted.
    #[expect(ffi_unwind_calls, reason = "an error in a critical section ends the server: it does not unwind")]
    unsafe fn register(&self, block_id: u8) {
        let whole = match &self.what {
            What::Edit(_) => 0,
            What::Create { .. } => pg_sys::REGBUF_FORCE_IMAGE as u8,
        };
        // SAFETY: the caller's promise.
        unsafe { XLogRegisterBuffer(block_id, self.buffer, pg_sys::REGBUF_STANDARD as u8 | whole) };
        if let What::Edit(Fragments(bytes)) = &self.what {
            let start = bytes.as_ptr().cast_mut().cast();
            // SAFETY: the buffer was just registered, and the bytes stay by the caller's promise.
            unsafe { pg_sys::XLogRegisterBufData(block_id, start, bytes.len() as _) };
        }
    }
}

/// Changes of a page, encoded as in generic WAL.
struct Fragments(Vec<u8>);

/// Initial capacity, enough for most edits, such as a row of the delta.
const USUAL_BYTES: usize = 2048;
/// Bytes of a fragment before its content: offset and length.
const FRAGMENT_HEAD_BYTES: usize = 4;

impl Fragments {
    fn push(&mut self, at: usize, parts: &[&[u8]]) {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        self.0.reserve(FRAGMENT_HEAD_BYTES + bytes);
        self.0.extend_from_slice(&(at as u16).to_ne_bytes());
        self.0.extend_from_slice(&(bytes as u16).to_ne_bytes());
        parts.iter().for_each(|part| self.0.extend_from_slice(part));
    }

    /// Offset in the page, and bytes.
    fn iter(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let (head, behind) = rest.split_at_checked(FRAGMENT_HEAD_BYTES)?;
            let [at, bytes] = [0, 2].map(|at| usize::from(u16::from_ne_bytes([head[at], head[at + 1]])));
            let (content, behind) = behind.split_at(bytes);
            rest = behind;
            Some((at, content))
        })
    }
}

/// Edits of a page in a record. Reads return the page's content before the record.
pub struct PageEdit<'a> {
    page: &'a PageLock,
    fragments: Fragments,
}

impl PageEdit<'_> {
    pub fn set_tag(&mut self, tag: PageTag) {
        self.fragments.push(PageBytes::TAG_AT, &[&tag.to_bytes()]);
    }

    /// Replaces the body. Only the range from the first to the last changed byte is logged.
    pub fn set_body(&mut self, parts: &[&[u8]]) {
        let (old, new) = (self.page.view().body(), parts.concat());
        let start = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
        let mut end = new.len();
        if old.len() == new.len() {
            end -=
                old[start..].iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
        } else {
            self.set_body_bytes(new.len());
        }
        if start < end {
            self.fragments.push(PageBytes::BODY_AT + start, &[&new[start..end]]);
        }
    }

    /// Overwrites body bytes from `at`; they must lie inside the body.
    pub fn patch_body(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.page.view().body().len(), "a patch is beyond its page's body");
        self.fragments.push(PageBytes::BODY_AT + at, &[bytes]);
    }

    /// Appends to the body.
    pub fn extend_body(&mut self, parts: &[&[u8]]) {
        let old_bytes = self.page.view().body().len();
        self.set_body_bytes(old_bytes + parts.iter().map(|part| part.len()).sum::<usize>());
        self.fragments.push(PageBytes::BODY_AT + old_bytes, parts);
    }

    fn set_body_bytes(&mut self, bytes: usize) {
        self.fragments.push(PageBytes::LOWER_AT, &[&PageBytes::lower(bytes).to_le_bytes()]);
    }
}

/// Logs all pages of a new, complete relation. No other session can see it before.
pub fn log_relation(rel: Rel) {
    if rel.needs_wal() {
        // SAFETY: the relation is open and its pages are standard ones with pd_lower set.
        unsafe {
            pg_sys::log_newpage_range(rel.as_ptr(), pg_sys::ForkNumber::MAIN_FORKNUM, 0, rel.blocks(), true)
        };
    }
}
