//! Rows that a filtered search is confined to: heap TIDs, by page.

use super::error::IndexError;
use super::format::{TID_OFFSET_BITS, Tid, tid_block};
use super::opened::OpenedSegment;

const WORD_BITS: usize = u64::BITS as usize;

/// The TIDs of some rows. Among them are all rows that the search is to find; others do no harm, as they are looked at
/// again in the table.
#[derive(Debug, Default)]
pub struct Candidates {
    /// By block.
    pages: Vec<Page>,
    words: Vec<u64>,
}

#[derive(Debug)]
struct Page {
    block: u32,
    /// Its bitmap of offsets, in `words`; None: every row.
    words: Option<(u32, u32)>,
}

impl Candidates {
    /// Adds the rows of a page, by offset; None: all of them. Pages come in ascending order, each once.
    pub fn add_page(&mut self, block: u32, offsets: Option<&[u16]>) -> Result<(), IndexError> {
        debug_assert!(self.pages.last().is_none_or(|last| last.block < block));
        self.pages.try_reserve(1)?;
        let words = match offsets {
            None => None,
            Some(offsets) => {
                let count = offsets.iter().max().map_or(0, |&offset| usize::from(offset) / WORD_BITS + 1);
                let first = self.words.len();
                self.words.try_reserve(count)?;
                self.words.resize(first + count, 0);
                for offset in offsets.iter().map(|&offset| usize::from(offset)) {
                    self.words[first + offset / WORD_BITS] |= 1 << (offset % WORD_BITS);
                }
                Some((first as u32, count as u32))
            }
        };
        self.pages.push(Page { block, words });
        Ok(())
    }

    pub fn lookup(&self) -> Lookup<'_> {
        Lookup { candidates: self, at: 0, block: None, words: Some(&[]) }
    }

    /// The live rows of a segment that are among these.
    pub fn among(&self, opened: &OpenedSegment) -> Result<Among, IndexError> {
        let mut positions = Vec::new();
        let mut lookup = self.lookup();
        let mut look_at = |position: u64, tid| -> Result<(), IndexError> {
            if lookup.contains(tid) && !opened.is_dead(position) {
                positions.try_reserve(1)?;
                positions.push(position);
            }
            Ok(())
        };
        let segment = &opened.segment;
        if segment.tids_ascend() {
            let mut position = 0;
            for page in &self.pages {
                let block = u64::from(page.block);
                position = segment.first_from(position, block << TID_OFFSET_BITS);
                let end = (block + 1) << TID_OFFSET_BITS;
                while let Some(tid) = segment.tid_at(position).filter(|tid| *tid < end) {
                    look_at(position, tid)?;
                    position += 1;
                }
            }
        } else {
            for (position, tid) in segment.tids().enumerate() {
                look_at(position as u64, tid)?;
            }
        }
        Ok(Among { positions, others: None })
    }
}

/// Rows of a segment.
pub struct Among {
    /// Ascending.
    pub positions: Vec<u64>,
    others: Option<Vec<u8>>,
}

impl Among {
    /// Bitmap by position of all other rows of the segment, which has `rows`, least significant bit first.
    pub fn others(&mut self, rows: u64) -> Result<&[u8], IndexError> {
        let bitmap = match self.others.take() {
            Some(bitmap) => bitmap,
            None => {
                let bytes = rows.div_ceil(8) as usize;
                let mut bitmap = Vec::new();
                bitmap.try_reserve_exact(bytes)?;
                bitmap.resize(bytes, u8::MAX);
                for position in &self.positions {
                    bitmap[(position / 8) as usize] &= !(1 << (position % 8));
                }
                bitmap
            }
        };
        Ok(self.others.insert(bitmap))
    }
}

/// Looks TIDs up; quickest where they ascend, as they mostly do in a segment.
pub struct Lookup<'a> {
    candidates: &'a Candidates,
    /// The first page that is not before `block`.
    at: usize,
    block: Option<u32>,
    /// Of `block`; None: every row.
    words: Option<&'a [u64]>,
}

impl Lookup<'_> {
    #[inline]
    pub fn contains(&mut self, tid: Tid) -> bool {
        let block = tid_block(tid);
        if self.block != Some(block) {
            self.turn_to(block);
        }
        let offset = usize::from(tid as u16);
        self.words.is_none_or(|words| {
            words.get(offset / WORD_BITS).is_some_and(|word| word >> (offset % WORD_BITS) & 1 == 1)
        })
    }

    fn turn_to(&mut self, block: u32) {
        let Candidates { pages, words } = self.candidates;
        let start = if self.block.is_some_and(|last| last < block) { self.at } else { 0 };
        let rest = &pages[start..];
        // Most often it is the next page; else each step doubles.
        let mut reach = 1;
        while reach < rest.len() && rest[reach - 1].block < block {
            reach *= 2;
        }
        let reach = reach.min(rest.len());
        self.at = start + rest[..reach].partition_point(|page| page.block < block);
        self.block = Some(block);
        self.words = match pages.get(self.at).filter(|page| page.block == block) {
            None => Some(&[]),
            Some(page) => page.words.map(|(first, count)| &words[first as usize..][..count as usize]),
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn tid(block: u32, offset: u16) -> Tid {
        u64::from(block) << 16 | u64::from(offset)
    }

    #[test]
    fn a_candidate_is_found_in_whatever_order_it_is_asked_for() {
        let mut candidates = Candidates::default();
        let mut expected = std::collections::HashSet::new();
        for block in (0..1000u32).filter(|block| block % 7 != 3) {
            let offsets: Vec<u16> =
                (1..=290).filter(|offset| (u32::from(*offset) * block) % 11 == 1).collect();
            if block % 50 == 0 {
                candidates.add_page(block, None).unwrap();
                expected.extend((1..=290).map(|offset| tid(block, offset)));
            } else {
                candidates.add_page(block, Some(&offsets)).unwrap();
                expected.extend(offsets.iter().map(|&offset| tid(block, offset)));
            }
        }
        let all: Vec<Tid> =
            (0..1010).flat_map(|block| (1..=290).map(move |offset| tid(block, offset))).collect();
        let mut lookup = candidates.lookup();
        assert!(all.iter().all(|tid| lookup.contains(*tid) == expected.contains(tid)), "ascending");
        assert!(all.iter().rev().all(|tid| lookup.contains(*tid) == expected.contains(tid)), "descending");
        let mixed = (0..all.len()).map(|at| all[at * 7919 % all.len()]);
        assert!(mixed.into_iter().all(|tid| lookup.contains(tid) == expected.contains(&tid)), "mixed");
    }

    #[test]
    fn nothing_is_among_no_candidates() {
        assert!(!Candidates::default().lookup().contains(tid(0, 1)));
    }
}
