//! Checks the delta (the chain of pages, their entries and rows) and the segments that were sealed in place from it.

use super::{Check, IndexEntry};
use crate::index::delta::ChainPage;
use crate::index::error::IndexError;
use crate::index::format::{
    DELTA_ENTRY_HEAD_BYTES, DELTA_HEAD_BYTES, DeltaHead, DeltaLayout, DeltaRun, Extent, META_BLOCK, Meta,
    NO_BLOCK, PageKind, SegmentRef, Tid, split_overflow,
};
use crate::index::segment;
use crate::pg::buffer::PageLock;

impl Check {
    pub(super) fn check_delta(&mut self, meta: &Meta) -> Result<(), IndexError> {
        let layout = DeltaLayout::new(meta.dims as usize);
        let mut place = ChainPage { block: meta.delta_head, chunk: meta.delta_head_chunk };
        let mut has_tail = false;
        loop {
            has_tail |= place.block == meta.delta_tail;
            let Some(head) = self.check_delta_page(meta, layout, place)? else {
                self.is_complete = false;
                return Ok(());
            };
            if head.next_block == NO_BLOCK {
                break;
            }
            if head.next_chunk <= place.chunk {
                self.is_complete = false;
                self.error(page_name(place.block), format!("links back to page {}", head.next_block));
                return Ok(());
            }
            place = ChainPage { block: head.next_block, chunk: head.next_chunk };
        }
        if !has_tail {
            self.error(
                "delta",
                format!("page {}, where inserts begin, is not in the chain", meta.delta_tail),
            );
        }
        // Inserts may have appended pages since the root was read.
        let now = Meta::decode(PageLock::share(self.rel, META_BLOCK).view().body())?;
        if place.chunk >= now.delta_next_chunk {
            self.error(
                "delta",
                format!("the next page's number, {}, is in use already", now.delta_next_chunk),
            );
        }
        Ok(())
    }

    /// None if the chain cannot be followed further.
    fn check_delta_page(
        &mut self,
        meta: &Meta,
        layout: DeltaLayout,
        ChainPage { block, chunk }: ChainPage,
    ) -> Result<Option<DeltaHead>, IndexError> {
        let place = page_name(block);
        let Some(body) = self.page(&place, block, meta.index_id, PageKind::Delta, chunk) else {
            return Ok(None);
        };
        self.use_extents(&place, &[Extent { start: block, blocks: 1 }]);
        let Ok(head) = DeltaHead::from_body(&body) else {
            self.error(place, "the page is cut short");
            return Ok(None);
        };
        let entries = &body[DELTA_HEAD_BYTES..];
        let count = usize::from(head.entries);
        if count > layout.entries_per_page || entries.len() != count * layout.entry_bytes() {
            self.error(place, format!("{count} entries do not take {} bytes", entries.len()));
            return Ok(Some(head));
        }
        for entry in entries.chunks_exact(layout.entry_bytes()) {
            let mut row = entry[DELTA_ENTRY_HEAD_BYTES..].to_vec();
            self.read_overflow(&place, &head, &mut row);
            if row.len() != 4 * meta.dims as usize {
                self.error(&place, format!("a row has {} bytes instead of {}", row.len(), 4 * meta.dims));
            } else if !is_finite(&row) {
                self.error(&place, "a row has values that are not finite");
            }
            self.add_entry(IndexEntry {
                tid: Tid::from_bytes(entry),
                row_crc32c: Some(crc32c::crc32c(&row)),
            })?;
        }
        Ok(Some(head))
    }

    /// Appends the overflow part of a long row, as far as it can be read.
    fn read_overflow(&mut self, place: &str, head: &DeltaHead, row: &mut Vec<u8>) {
        self.is_complete &= self.for_each_overflow_page(place, head, &mut |check, block, body| {
            check.use_extents(place, &[Extent { start: block, blocks: 1 }]);
            row.extend_from_slice(body);
        });
    }

    /// Calls `visit` with the block and bytes of each overflow page; false if the chain of pages is incomplete.
    fn for_each_overflow_page(
        &mut self,
        place: &str,
        head: &DeltaHead,
        visit: &mut dyn FnMut(&mut Self, u32, &[u8]),
    ) -> bool {
        let (mut block, mut chunk) = (head.overflow_block, 0);
        while block != NO_BLOCK && head.entries > 0 {
            let Some(body) = self.page(place, block, head.overflow_id, PageKind::DeltaOverflow, chunk) else {
                return false;
            };
            let Ok((next, bytes)) = split_overflow(&body) else {
                self.error(place, format!("block {block} is cut short"));
                return false;
            };
            visit(self, block, bytes);
            (block, chunk) = (next, chunk + 1);
        }
        true
    }

    /// Whether all pages of an in-place segment are intact.
    pub(super) fn check_run(
        &mut self,
        place: &str,
        reference: &SegmentRef,
        run: &DeltaRun,
    ) -> Result<bool, IndexError> {
        self.use_extents(place, &reference.payload.extents);
        let mut blocks: Vec<u32> = Vec::new();
        let mut at = ChainPage { block: run.start_block, chunk: run.start_chunk };
        loop {
            let Some(body) = self.page(place, at.block, run.index_id, PageKind::Delta, at.chunk) else {
                return Ok(false);
            };
            blocks.push(at.block);
            let Ok(head) = DeltaHead::from_body(&body) else {
                self.error(place, format!("block {} is cut short", at.block));
                return Ok(false);
            };
            if !self.for_each_overflow_page(place, &head, &mut |_, block, _| blocks.push(block)) {
                return Ok(false);
            }
            if head.next_chunk >= run.end_chunk {
                break;
            }
            if head.next_block == NO_BLOCK || head.next_chunk <= at.chunk {
                self.error(place, format!("its pages end at block {}", at.block));
                return Ok(false);
            }
            at = ChainPage { block: head.next_block, chunk: head.next_chunk };
        }
        blocks.sort_unstable();
        if Extent::cover(&blocks) != reference.payload.extents {
            self.error(place, "its pages are not those that the manifest lists");
            return Ok(false);
        }
        let read = segment::read_payload(self.rel, reference, &mut std::io::sink());
        Ok(self.believe(place, read)?.is_some())
    }
}

fn page_name(block: u32) -> String {
    format!("delta page {block}")
}

fn is_finite(row: &[u8]) -> bool {
    let (elements, _) = row.as_chunks::<4>();
    elements.iter().all(|element| f32::from_le_bytes(*element).is_finite())
}
