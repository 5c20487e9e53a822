//! Many new pages at a relation's end, written with their content and past the shared buffers.
//!
//! A page that comes through a buffer is written as zeros first and with its content later, by whoever needs the buffer
//! for another page. A segment's pages are many and are read once at most, to make its cache file.
//!
//! They are written before they are logged. Were it the other way round, a checkpoint could begin after the record and
//! end before the page is there: it would not wait for the page, and a crash later would not replay the record. As it
//! is, a record that no recovery will replay lies before a checkpoint that has waited for the page (`smgrextend` asks it
//! to). A crash in between leaves a page that nothing refers to.

use std::ops::Range;

use pgrx::pg_sys;

use super::buffer::PageMut;
use super::relation::Rel;
use crate::index::format::{PAGE_BYTES, PageTag};

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
        let (rel, mode) = (self.rel.as_ptr(), pg_sys::ExclusiveLock as pg_sys::LOCKMODE);
        let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
        // SAFETY: the relation is open. Under the extension lock nobody else adds the blocks behind its end, and no
        // buffer holds one of them. Each image is a whole page.
        unsafe {
            pg_sys::LockRelationForExtension(rel, mode);
            self.start = pg_sys::smgrnblocks(pg_sys::RelationGetSmgr(rel), fork);
            for (block, Image(bytes)) in (self.start..).zip(&mut self.images) {
                let page = bytes.as_mut_ptr();
                pg_sys::PageSetChecksumInplace(page.cast(), block);
                pg_sys::smgrextend(pg_sys::RelationGetSmgr(rel), fork, block, page.cast(), false);
            }
            pg_sys::UnlockRelationForExtension(rel, mode);
        }
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
