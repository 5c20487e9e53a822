//! Blobs: immutable byte strings in pages (see `format`). Written once, readable with their reference.

use std::io::Write;

use crate::failpoint;
use crate::index::error::IndexError;
use crate::index::format::{BODY_BYTES, BlobRef, Extent, PageKind, PageTag};
use crate::pg::buffer::{ExclusivePageLock, PageLock};
use crate::pg::extension::NewPages;
use crate::pg::relation::Rel;
use crate::pg::wal::WalRecord;
use crate::pg::xid;

/// When the pages of a blob are logged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Logging {
    /// Page by page, before the root points to them.
    Now,
    /// With the whole relation at the end of its build; no other session sees it before.
    WithRelation,
}

/// Called with consecutive parts of a byte string; false ends the iteration.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8]) -> Result<bool, IndexError>;

/// A random 128-bit id.
pub fn random_id() -> Result<u128, IndexError> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(IndexError::Random)?;
    Ok(u128::from_le_bytes(bytes))
}

/// Writes `bytes` as blob `id` to free pages, then to new ones. A crash before the root points to it leaves unreachable
/// pages for VACUUM.
pub fn write(rel: Rel, id: u128, bytes: &[u8], logging: Logging) -> Result<BlobRef, IndexError> {
    let mut blocks = Vec::with_capacity(bytes.len().div_ceil(BODY_BYTES));
    let full_xid = xid::next();
    let tag = |chunk: usize| PageTag { owner: id, full_xid, chunk: chunk as u32, kind: PageKind::Blob };
    let mut parts = bytes.chunks(BODY_BYTES).enumerate().map(|(chunk, part)| (tag(chunk), part)).peekable();
    if logging == Logging::Now {
        while parts.peek().is_some()
            && let Some(page) = ExclusivePageLock::reuse(rel)
            && let Some((tag, part)) = parts.next()
        {
            pgrx::check_for_interrupts!();
            failpoint::reach("blob.page_allocated");
            let mut record = WalRecord::start(rel);
            record.create(&page, tag, &[part]);
            record.commit();
            failpoint::reach("blob.page_written");
            blocks.push(page.block());
        }
    }
    let mut pages = NewPages::new(rel);
    while parts.peek().is_some() {
        pgrx::check_for_interrupts!();
        let written = pages.append(parts.by_ref().take(NewPages::MAX_PAGES));
        failpoint::reach("blob.page_allocated");
        if logging == Logging::Now {
            pages.log();
        }
        failpoint::reach("blob.page_written");
        blocks.extend(written);
    }
    let crc = crc32c::crc32c(bytes);
    Ok(BlobRef { id, bytes: bytes.len() as u64, crc32c: crc, extents: Extent::cover(&blocks) })
}

/// Calls `visit` with the content of the blob's pages in order, with no lock held, until it returns false. `Stale` if a
/// page was reused. The caller verifies the checksum.
pub fn for_each_part(rel: Rel, blob: &BlobRef, visit: Visit) -> Result<(), IndexError> {
    let end = rel.blocks();
    let mut copy = Vec::with_capacity(BODY_BYTES);
    for (chunk, block) in blob.blocks().enumerate() {
        pgrx::check_for_interrupts!();
        if block >= end {
            return Err(IndexError::Stale);
        }
        copy.clear();
        {
            let page = PageLock::share(rel, block);
            let view = page.view();
            let body = view.body_of(blob.id, PageKind::Blob, chunk as u32).ok_or(IndexError::Stale)?;
            copy.extend_from_slice(body);
        }
        if !visit(&copy)? {
            break;
        }
    }
    Ok(())
}

/// Copies the blob to `sink`. `Stale` if a page was reused; `Damaged` if all pages are the blob's and the checksum is
/// wrong.
pub fn read(rel: Rel, blob: &BlobRef, sink: &mut dyn Write) -> Result<(), IndexError> {
    copy(blob, sink, |visit| for_each_part(rel, blob, visit))
}

/// As `read`, for the bytes that `parts` passes to its visitor.
pub fn copy(
    blob: &BlobRef,
    sink: &mut dyn Write,
    parts: impl FnOnce(Visit) -> Result<(), IndexError>,
) -> Result<(), IndexError> {
    let (mut crc, mut bytes) = (0, 0);
    parts(&mut |part| {
        crc = crc32c::crc32c_append(crc, part);
        bytes += part.len() as u64;
        sink.write_all(part).map_err(IndexError::Cache)?;
        Ok(true)
    })?;
    if bytes != blob.bytes || crc != blob.crc32c {
        return Err(IndexError::Damaged(format!("the checksum of blob {:032x} is wrong", blob.id)));
    }
    Ok(())
}

pub fn read_to_vec(rel: Rel, blob: &BlobRef) -> Result<Vec<u8>, IndexError> {
    if !blob.fits(rel.blocks()) {
        return Err(IndexError::Damaged(format!("blob {:032x} is not as long as its pages", blob.id)));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(blob.bytes as usize)?;
    read(rel, blob, &mut bytes)?;
    Ok(bytes)
}
