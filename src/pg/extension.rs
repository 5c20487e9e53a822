//! New pages at a relation's end.
//!
//! Bulk writes bypass the shared buffers (`NewPages`): a page that is extended through a buffer is written twice, first
//! as zeros and later with its content. A segment has many pages, and they are read once at most, to make its cache
//! file.
//!
//! Such pages are written before they are logged. In the opposite order, a checkpoint could begin after the record and
//! end before the page is written: it would not flush the page, and recovery would not replay the record. As it is, a
//! record that recovery does not replay precedes a checkpoint that has flushed the page (`smgrextend` registers it). A
//! crash in between leaves a page that nothing refers to.
//!
//! Pages for appending rows go through buffers (`add_empty_pages`), but no zeros are written: the file system reserves
//! several at once, which takes less time than writing one.

use std::ops::Range;

use pgrx::pg_sys;

use super::buffer::PageMut;
use super::relation::Rel;
use crate::page::{PAGE_BYTES, PageTag};

/// One spare page is added for each of this many pages of the relation.
const PAGES_PER_SPARE_PAGE: u32 = 64;
/// Limit on the spare pages added at once, because other backends wait for the extension lock.
const MAX_SPARE_PAGES: u32 = 64;

/// Adds empty pages at the end of the relation, for any backend to use. Returns their block numbers.
pub fn add_empty_pages(rel: Rel) -> Range<u32> {
    under_extension_lock(rel, |start| {
        let wanted = (start / PAGES_PER_SPARE_PAGE).min(MAX_SPARE_PAGES) + 1;
        // SAFETY: the relation is open, and ends where it did under its extension lock.
        let added = start..start + unsafe { add_zero_blocks(rel, start, wanted) };
        for block in added.clone() {
            let (fork, zero) = (pg_sys::ForkNumber::MAIN_FORKNUM, pg_sys::ReadBufferMode::RBM_ZERO_AND_LOCK);
            // SAFETY: the relation is open. The block is below the limit for other backends (`settled_blocks`), so
            // nobody has written to it and the buffer can be zeroed instead of read.
            let buffer =
                unsafe { pg_sys::ReadBufferExtended(rel.as_ptr(), fork, block, zero, core::ptr::null_mut()) };
            // SAFETY: pinned, and locked by the mode in which it was read.
            unsafe { pg_sys::UnlockReleaseBuffer(buffer) };
        }
        added
    })
}

/// Number of blocks in the main fork, without blocks that are just being added. A search for unused pages must stop
/// here: a new block must not be used before its buffer is initialised.
pub fn settled_blocks(rel: Rel) -> u32 {
    under_extension_lock(rel, |end| end)
}

/// Calls `work` with the number of blocks, under the extension lock.
fn under_extension_lock<T>(rel: Rel, work: impl FnOnce(u32) -> T) -> T {
    let mode = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: the relation is open. An error ends the transaction, and with it the lock.
    unsafe { pg_sys::LockRelationForExtension(rel.as_ptr(), mode) };
    // SAFETY: the storage of an open relation.
    let blocks = unsafe { pg_sys::smgrnblocks(storage(rel), pg_sys::ForkNumber::MAIN_FORKNUM) };
    let result = work(blocks);
    // SAFETY: locked above.
    unsafe { pg_sys::UnlockRelationForExtension(rel.as_ptr(), mode) };
    result
}

/// The relation's storage. An invalidation can close it, so it is asked for anew each time.
fn storage(rel: Rel) -> pg_sys::SMgrRelation {
    // SAFETY: the relation is open.
    unsafe { pg_sys::RelationGetSmgr(rel.as_ptr()) }
}

/// Adds zero blocks at `start`, the relation's end; returns their number. Writes a single block if the file system
/// cannot reserve space.
///
/// # Safety
/// The relation is open, and its extension lock held.
#[cfg(feature = "pg15")]
unsafe fn add_zero_blocks(rel: Rel, start: u32, wanted: u32) -> u32 {
    let added = if reserve(rel, start, wanted).is_ok() { wanted } else { 1 };
    // The last block is written, so that PostgreSQL registers the file for flushing.
    let Image(mut zeros) = Image([0; PAGE_BYTES]);
    // SAFETY: the caller's promise; no buffer holds a block that is new.
    unsafe { append_page(rel, start + added - 1, &mut zeros) };
    added
}

/// Reserves space for blocks at the relation's end, as later versions of PostgreSQL do (`FileFallocate`,
/// storage/file/fd.c). Err if the file system does not support it, or if the range begins or crosses into another
/// segment file.
#[cfg(feature = "pg15")]
fn reserve(rel: Rel, start: u32, blocks: u32) -> std::io::Result<()> {
    let (file, in_file) = (start / pg_sys::RELSEG_SIZE, start % pg_sys::RELSEG_SIZE);
    if in_file == 0 || in_file + blocks > pg_sys::RELSEG_SIZE {
        return Err(std::io::ErrorKind::Unsupported.into());
    }
    let mut path = rel.path();
    if file > 0 {
        path.push_str(&format!(".{file}"));
    }
    let file = std::fs::OpenOptions::new().write(true).open(path)?;
    let bytes = |blocks: u32| u64::from(blocks) * PAGE_BYTES as u64;
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), bytes(in_file), bytes(blocks))?;
    Ok(())
}

/// Adds zero blocks at `start`, the relation's end; returns their number.
///
/// # Safety
/// The relation is open, and its extension lock held.
#[cfg(not(feature = "pg15"))]
unsafe fn add_zero_blocks(rel: Rel, start: u32, wanted: u32) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::smgrzeroextend(storage(rel), pg_sys::ForkNumber::MAIN_FORKNUM, start, wanted as i32, false)
    };
    wanted
}

/// Writes a page at `block`, at or behind the relation's end, and registers the file for flushing.
///
/// # Safety
/// The relation's extension lock is held, and no buffer holds the block.
unsafe fn append_page(rel: Rel, block: u32, page: &mut [u8; PAGE_BYTES]) {
    let (fork, page) = (pg_sys::ForkNumber::MAIN_FORKNUM, page.as_mut_ptr().cast());
    // SAFETY: the relation is open; the caller's promise for the rest.
    unsafe { pg_sys::smgrextend(storage(rel), fork, block, page, false) };
}

/// Aligned for direct I/O (PostgreSQL's `PG_IO_ALIGN_SIZE`).
#[repr(C, align(4096))]
#[derive(Clone, Copy)]
struct Image([u8; PAGE_BYTES]);

/// Page images to be appended, and the blocks they were written to.
pub struct NewPages {
    rel: Rel,
    images: Vec<Image>,
    start: u32,
}

impl NewPages {
    /// Limit on the pages in one WAL record, and thus on the pages written under one extension lock.
    pub const MAX_PAGES: usize = pg_sys::XLR_MAX_BLOCK_ID as usize;

    pub fn new(rel: Rel) -> Self {
        NewPages { rel, images: Vec::new(), start: 0 }
    }

    /// Writes pages with these bodies at the end of the relation, replacing the images of the previous call. Returns
    /// their block numbers.
    pub fn append<'a>(&mut self, pages: impl Iterator<Item = (PageTag, &'a [u8])>) -> Range<u32> {
        const ZERO: Image = Image([0; PAGE_BYTES]);
        self.images.clear();
        for (tag, body) in pages {
            self.images.push(ZERO);
            let Some(Image(bytes)) = self.images.last_mut() else { continue };
            // SAFETY: the image is a page, and borrowed for as long.
            let mut page = unsafe { PageMut::new(bytes.as_mut_ptr().cast()) };
            page.init(tag);
            page.set_body(body);
        }
        let NewPages { rel, images, start } = self;
        under_extension_lock(*rel, |end| {
            *start = end;
            for (block, Image(bytes)) in (end..).zip(images) {
                // SAFETY: the image is a whole page.
                unsafe { pg_sys::PageSetChecksumInplace(bytes.as_mut_ptr().cast(), block) };
                // SAFETY: under the extension lock, block by block from the end. No buffer holds one of them.
                unsafe { append_page(*rel, block, bytes) };
            }
        });
        self.start..self.start + self.images.len() as u32
    }

    /// Logs the pages that were last appended, if the relation needs WAL.
    pub fn log(&mut self) {
        if !self.rel.needs_wal() || self.images.is_empty() {
            return;
        }
        let mut blocks: Vec<pg_sys::BlockNumber> = (self.start..).take(self.images.len()).collect();
        let mut pages: Vec<pg_sys::Page> =
            self.images.iter_mut().map(|Image(bytes)| bytes.as_mut_ptr().cast()).collect();
        let mut locator = self.rel.locator();
        // SAFETY: the relation is open, and blocks and pages are as many as is said. The pages are standard ones.
        unsafe {
            pg_sys::log_newpages(
                &mut locator,
                pg_sys::ForkNumber::MAIN_FORKNUM,
                pages.len() as i32,
                blocks.as_mut_ptr(),
                pages.as_mut_ptr(),
                true,
            );
        }
    }
}
