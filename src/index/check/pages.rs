//! Checks pages: the meta page, blob pages, and pages that nothing refers to.

use super::Check;
use crate::engine::MAX_DIMS;
use crate::index::format::{BlobRef, Extent, META_BLOCK, Meta, PAGE_BYTES, PageKind, PageTag};
use crate::pg::buffer::PageLock;
use crate::pg::{is_in_recovery, take_interrupts, xid};

impl Check {
    /// Records `extents` as used by `place`.
    pub(super) fn use_extents(&mut self, place: &str, extents: &[Extent]) {
        self.places.push(place.to_string());
        self.used.extend(extents.iter().map(|extent| (*extent, self.places.len() - 1)));
    }

    /// None if the root cannot be read.
    pub(super) fn check_meta(&mut self) -> Option<Meta> {
        const PLACE: &str = "meta page";
        if self.end == 0 {
            self.error(PLACE, "the index has no pages");
            return None;
        }
        let (tag, decoded) = {
            let page = PageLock::share(self.rel, META_BLOCK);
            let view = page.view();
            (view.tag(), Meta::decode(view.body()))
        };
        let meta = match decoded {
            Ok(meta) => meta,
            Err(error) => {
                self.error(PLACE, error);
                return None;
            }
        };
        if !tag.is_some_and(|tag| tag.kind == PageKind::Meta && tag.owner == meta.index_id) {
            self.error(PLACE, "the page's tag is not that of a meta page");
        }
        if !(1..=MAX_DIMS).contains(&(meta.dims as usize)) {
            self.error(PLACE, format!("an index has no {} dimensions", meta.dims));
            return None;
        }
        Some(meta)
    }

    /// Copies `block` if its tag is the expected one; otherwise records a finding.
    pub(super) fn page(
        &mut self,
        place: &str,
        block: u32,
        owner: u128,
        kind: PageKind,
        chunk: u32,
    ) -> Option<Vec<u8>> {
        take_interrupts();
        // Inserts can extend the relation during the check.
        if block >= self.end.max(self.rel.blocks()) {
            self.error(place, format!("block {block} lies behind the end of the index"));
            return None;
        }
        let (tag, body) = {
            let page = PageLock::share(self.rel, block);
            let view = page.view();
            (view.tag(), view.body().to_vec())
        };
        let problem = match tag {
            Some(PageTag { kind: PageKind::Retired, .. }) => "is marked as free",
            Some(tag) if (tag.owner, tag.kind, tag.chunk) != (owner, kind, chunk) => {
                "belongs to something else"
            }
            Some(_) => return Some(body),
            None => "is not a page of a faiss index",
        };
        self.error(place, format!("block {block} {problem}"));
        None
    }

    /// Whether the blob's pages and checksum are intact. Appends its bytes to `copy`, if given.
    pub(super) fn check_blob(&mut self, place: &str, blob: &BlobRef, mut copy: Option<&mut Vec<u8>>) -> bool {
        self.use_extents(place, &blob.extents);
        let found_before = self.findings.len();
        let (mut crc, mut bytes) = (0, 0);
        for (chunk, block) in blob.blocks().enumerate() {
            let Some(body) = self.page(place, block, blob.id, PageKind::Blob, chunk as u32) else {
                // A damaged extent can claim billions of blocks; stop at the end of the relation.
                if block >= self.end {
                    return false;
                }
                continue;
            };
            crc = crc32c::crc32c_append(crc, &body);
            bytes += body.len() as u64;
            if let Some(copy) = &mut copy {
                copy.extend_from_slice(&body);
            }
        }
        if self.findings.len() > found_before {
            return false;
        }
        if bytes != blob.bytes {
            self.error(place, format!("{bytes} bytes are stored where {} should be", blob.bytes));
        } else if crc != blob.crc32c {
            self.error(place, "the checksum is wrong");
        }
        self.findings.len() == found_before
    }

    /// Reports blocks that are used twice.
    pub(super) fn check_overlaps(&mut self) {
        self.used.sort_unstable_by_key(|(extent, place)| (extent.start, *place));
        let mut shared = Vec::new();
        // The extent with the highest end so far.
        let mut last: Option<(Extent, usize)> = None;
        for &(extent, place) in &self.used {
            if let Some((before, other)) = last
                && extent.start < before.end()
            {
                let both =
                    Extent { start: extent.start, blocks: before.end().min(extent.end()) - extent.start };
                shared.push((both, place, other));
            }
            if last.is_none_or(|(before, _)| extent.end() > before.end()) {
                last = Some((extent, place));
            }
        }
        for (extent, place, other) in shared {
            let (place, other) = (self.places[place].clone(), self.places[other].clone());
            self.error(place, format!("{} also used by {other}", blocks_are(extent)));
        }
    }

    /// Unreachable pages are new, free, being written or garbage (`storage::free_pages`). A standby cannot tell the
    /// last two apart, because it knows neither the writers' snapshots nor the newest transaction ids.
    pub(super) fn check_unused_pages(&mut self) {
        let knows_writers = !is_in_recovery();
        let used = self.used.iter().map(|(extent, _)| *extent).collect();
        let mut garbage: Vec<u32> = Vec::new();
        for block in Extent::gaps(used, self.end).into_iter().flat_map(Extent::iter) {
            take_interrupts();
            let (is_new, tag) = {
                let page = PageLock::share(self.rel, block);
                (page.view().is_new(), page.view().tag())
            };
            match tag {
                _ if is_new => {}
                None => self.error(format!("block {block}"), "is not a page of a faiss index"),
                Some(tag) if tag.kind == PageKind::Meta => {
                    self.error(format!("block {block}"), "is a second meta page")
                }
                Some(_) if !knows_writers => {}
                Some(tag) if tag.full_xid > xid::next() => {
                    self.warn(
                        format!("block {block}"),
                        "was written by a transaction of the future: it stays unused",
                    );
                }
                Some(tag) if tag.kind == PageKind::Retired => {}
                Some(tag) if tag.full_xid < self.horizon => garbage.push(block),
                Some(_) => {}
            }
        }
        for extent in Extent::cover(&garbage) {
            let bytes = extent.blocks as usize * PAGE_BYTES;
            let problem =
                format!("{} reached by nothing ({bytes} bytes); VACUUM gives them back", blocks_are(extent));
            self.warn("free space", problem);
        }
    }
}

/// Formats "block 7 is" or "blocks 7 to 9 are".
fn blocks_are(extent: Extent) -> String {
    match extent.blocks {
        1 => format!("block {} is", extent.start),
        _ => format!("blocks {} to {} are", extent.start, extent.end() - 1),
    }
}
