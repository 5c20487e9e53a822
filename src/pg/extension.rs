//! New pages at a relation's end.
//!
//! Many are written with their content and past the shared buffers (`NewPages`). A page that comes through a buffer is
//! written as zeros first and with its content later, by whoever needs the buffer for another page. A segment's pages are
//! many and are read once at most, to make its cache file.
//!
//! They are written before they are logged. Were it the other way round, a checkpoint could begin after the record and
//! end before the page is there: it would not wait for the page, and a crash later would not replay the record. As it
//! is, a record that no recovery will replay lies before a checkpoint that has waited for the page (`smgrextend` asks it
//! to). A crash in between leaves a page that nothing refers to.
//!
//! Those that rows are appended to come through buffers (`add_empty_pages`), but no zeros are written: the file system
//! is asked for room for several at once, which takes less time than to write one.

use std::ops::Range;

use pgrx::pg_sys;

use super::buffer::PageMut;
use super::relation::Rel;
use crate::page::{PAGE_BYTES, PageTag};

/// For so many pages that a relation has, one is added before it is needed.
const PAGES_PER_SPARE_PAGE: u32 = 64;
/// The most pages that are added at once before they are needed: others wait meanwhile.
const MAX_SPARE_PAGES: u32 = 64;

/// Adds pages behind the relation's last one, empty and for anybody's use. Returns their numbers.
pub fn add_empty_pages(rel: Rel) -> Range<u32> {
    under_extension_lock(rel, |start| {
        let wanted = (start / PAGES_PER_SPARE_PAGE).min(MAX_SPARE_PAGES) + 1;
        // SAFETY: the relation is open, and ends where it did under its extension lock.
        let added = start..start + unsafe { add_zero_blocks(rel, start, wanted) };
        for block in added.clone() {
            let (fork, zero) = (pg_sys::ForkNumber::MAIN_FORKNUM, pg_sys::ReadBufferMode::RBM_ZERO_AND_LOCK);
            // SAFETY: as above. Nobody has written to the block (`settled_blocks`), so that the buffer can be zeroed in
            // place of being read.
            unsafe {
                let buffer =
                    pg_sys::ReadBufferExtended(rel.as_ptr(), fork, block, zero, core::ptr::null_mut());
                pg_sys::UnlockReleaseBuffer(buffer);
            }
        }
        added
    })
}

/// Blocks of the main fork without those that are being added. Whoever looks for pages that nobody uses looks no further:
/// one that is added must not be used before its buffer is there.
pub fn settled_blocks(rel: Rel) -> u32 {
    under_extension_lock(rel, |end| end)
}

/// Hands `work` the number of blocks, which others do not change meanwhile.
fn under_extension_lock<T>(rel: Rel, work: impl FnOnce(u32) -> T) -> T {
    let mode = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: the relation is open. An error ends the transaction, and with it the lock.
    unsafe {
        pg_sys::LockRelationForExtension(rel.as_ptr(), mode);
        let result = work(pg_sys::smgrnblocks(
            pg_sys::RelationGetSmgr(rel.as_ptr()),
            pg_sys::ForkNumber::MAIN_FORKNUM,
        ));
        pg_sys::UnlockRelationForExtension(rel.as_ptr(), mode);
        result
    }
}

/// Adds zero blocks from `start`, the relation's end, on; returns how many: where room cannot be reserved, one is written.
///
/// # Safety
/// The relation is open, and its extension lock held.
#[cfg(feature = "pg15")]
unsafe fn add_zero_blocks(rel: Rel, start: u32, wanted: u32) -> u32 {
    let added = if reserve(rel, start, wanted).is_ok() { wanted } else { 1 };
    // The last one is written, so that PostgreSQL knows of a file that is to be flushed.
    let Image(mut zeros) = Image([0; PAGE_BYTES]);
    // SAFETY: the caller's promise; the image is a whole page.
    unsafe {
        let (smgr, last) = (pg_sys::RelationGetSmgr(rel.as_ptr()), start + added - 1);
        pg_sys::smgrextend(smgr, pg_sys::ForkNumber::MAIN_FORKNUM, last, zeros.as_mut_ptr().cast(), false);
    }
    added
}

/// Has the file system reserve room for blocks behind the relation's end, as later versions of PostgreSQL do by themselves
/// (`FileFallocate`, storage/file/fd.c). Err: it does not, or they would begin or reach into the next file of a segment.
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

/// Adds zero blocks from `start`, the relation's end, on; returns how many.
///
/// # Safety
/// The relation is open, and its extension lock held.
#[cfg(not(feature = "pg15"))]
unsafe fn add_zero_blocks(rel: Rel, start: u32, wanted: u32) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let smgr = pg_sys::RelationGetSmgr(rel.as_ptr());
        pg_sys::smgrzeroextend(smgr, pg_sys::ForkNumber::MAIN_FORKNUM, start, wanted as i32, false);
    }
    wanted
}

/// As direct I/O wants it (PostgreSQL's `PG_IO_ALIGN_SIZE`).
#[repr(C, align(4096))]
#[derive(Clone, Copy)]
struct Image([u8; PAGE_BYTES]);

/// Images of pages, and where they went.
pub struct NewPages {
    rel: Rel,
    images: Vec<Image>,
    start: u32,
}

impl NewPages {
    /// The most pages of one record, and as many as the extension lock is held for.
    pub const MAX_PAGES: usize = pg_sys::XLR_MAX_BLOCK_ID as usize;

    pub fn new(rel: Rel) -> Self {
        NewPages { rel, images: Vec::new(), start: 0 }
    }

    /// Writes pages with these bodies behind the relation's last one, in place of those of the last call. Returns their
    /// numbers.
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
                let page = bytes.as_mut_ptr();
                // SAFETY: the relation is open. Nobody else adds the blocks behind its end, and no buffer holds one of them.
                // Each image is a whole page.
                unsafe {
                    pg_sys::PageSetChecksumInplace(page.cast(), block);
                    let smgr = pg_sys::RelationGetSmgr(rel.as_ptr());
                    pg_sys::smgrextend(smgr, pg_sys::ForkNumber::MAIN_FORKNUM, block, page.cast(), false);
                }
            }
        });
        self.start..self.start + self.images.len() as u32
    }

    /// Logs what was appended last, where the relation needs it.
    pub fn log(&mut self) {
        if !self.rel.needs_wal() || self.images.is_empty() {
            return;
        }
        let mut blocks: Vec<pg_sys::BlockNumber> = (self.start..).take(self.images.len()).collect();
        let mut pages: Vec<pg_sys::Page> =
            self.images.iter_mut().map(|Image(bytes)| bytes.as_mut_ptr().cast()).collect();
        // SAFETY: the relation is open, and blocks and pages are as many as is said. The pages are standard ones.
        unsafe {
            let mut locator = self.rel.locator();
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
