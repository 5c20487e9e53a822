//! The TIDs that a filtered search is restricted to, by heap page.

use std::ops::Range;

use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::segment::OpenedSegment;

const WORD_BITS: usize = u64::BITS as usize;
/// Cost of searching for the rows of one page, in units of looking at one row of a sequential scan.
const ROWS_PER_PAGE_SEARCH: u64 = 16;

/// A set of TIDs that contains every row the search may return. It may contain others: the query checks the rows in the
/// table again.
#[derive(Debug, Default)]
pub struct Candidates {
    /// In ascending order of blocks.
    pages: Vec<Page>,
    words: Vec<u64>,
}

#[derive(Debug)]
struct Page {
    block: u32,
    /// The page's bitmap of offsets, as a range of `words`; None: every row.
    words: Option<(u32, u32)>,
}

impl Candidates {
    /// Adds the rows of a page, by offset; None: every row. Pages must be added once each, in ascending order.
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

    /// The live rows of a segment that are in this set.
    pub fn among(&self, opened: &OpenedSegment) -> Result<Among, IndexError> {
        let segment = &opened.segment;
        let mut positions = Vec::new();
        let mut add = |position: u64| -> Result<(), IndexError> {
            if !opened.is_dead(position) {
                positions.try_reserve(1)?;
                positions.push(position);
            }
            Ok(())
        };
        match segment.ascending_runs() {
            Some(runs) => {
                for run in runs {
                    self.each_in_run(run, |position| segment.tid(position), &mut add)?;
                }
            }
            None => {
                let mut lookup = self.lookup();
                for (position, _) in (0..).zip(segment.tids()).filter(|(_, tid)| lookup.contains(*tid)) {
                    add(position)?;
                }
            }
        }
        Ok(Among { positions, others: None })
    }

    /// Calls `visit` with the positions of these rows within `run`, a range with ascending TIDs.
    fn each_in_run(
        &self,
        run: &Range<u64>,
        tid: impl Fn(u64) -> Tid,
        visit: &mut impl FnMut(u64) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let rows = run.end - run.start;
        if rows / ROWS_PER_PAGE_SEARCH < self.pages.len() as u64 {
            let mut lookup = self.lookup();
            return run.clone().filter(|&position| lookup.contains(tid(position))).try_for_each(visit);
        }
        let (first, last) = (tid(run.start).block(), tid(run.end - 1).block());
        let rows_per_block = rows as f64 / f64::from(last - first + 1);
        let (mut position, mut block) = (run.start, first);
        for page in self.pages.iter().filter(|page| (first..=last).contains(&page.block)) {
            let start = Tid::new(page.block, 0);
            let ahead = (f64::from(page.block - block) * rows_per_block) as u64;
            position = first_from(position..run.end, position + ahead, |position| tid(position) < start);
            let words = self.words_of(page);
            while position < run.end && tid(position).block() == page.block {
                if holds(words, tid(position)) {
                    visit(position)?;
                }
                position += 1;
            }
            block = page.block + 1;
        }
        Ok(())
    }

    /// A page's bitmap of offsets; None: every row.
    fn words_of(&self, page: &Page) -> Option<&[u64]> {
        page.words.map(|(first, count)| &self.words[first as usize..][..count as usize])
    }
}

/// Whether a page's bitmap of offsets contains the row.
#[inline]
fn holds(words: Option<&[u64]>, tid: Tid) -> bool {
    let offset = usize::from(tid.offset());
    words.is_none_or(|words| {
        words.get(offset / WORD_BITS).is_some_and(|word| word >> (offset % WORD_BITS) & 1 == 1)
    })
}

/// The first of `positions` for which `is_before` is false, or their end; those for which it is true come first. Fast
/// if `guess` is near it.
fn first_from(positions: Range<u64>, guess: u64, is_before: impl Fn(u64) -> bool) -> u64 {
    let Range { start: mut low, end: mut high } = positions;
    let mut step = 1;
    if guess < high && is_before(guess) {
        low = guess + 1;
        while low + step <= high {
            let probe = low + step - 1;
            if !is_before(probe) {
                high = probe;
                break;
            }
            low = probe + 1;
            step *= 2;
        }
    } else {
        high = guess.min(high);
        while low + step <= high {
            let probe = high - step;
            if is_before(probe) {
                low = probe + 1;
                break;
            }
            high = probe;
            step *= 2;
        }
    }
    while low < high {
        let middle = low + (high - low) / 2;
        if is_before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Some rows of a segment.
pub struct Among {
    /// In ascending order.
    pub positions: Vec<u64>,
    others: Option<Vec<u8>>,
}

impl Among {
    /// Bitmap by position of all other rows of the segment, least significant bit first. The segment has `rows` rows.
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

/// Looks up TIDs. Fastest in ascending order, which most TIDs of a segment have.
pub struct Lookup<'a> {
    candidates: &'a Candidates,
    /// The first page whose block is not before `block`.
    at: usize,
    block: Option<u32>,
    /// The bitmap of `block`; None: every row.
    words: Option<&'a [u64]>,
}

impl Lookup<'_> {
    #[inline]
    pub fn contains(&mut self, tid: Tid) -> bool {
        let block = tid.block();
        if self.block != Some(block) {
            self.turn_to(block);
        }
        holds(self.words, tid)
    }

    fn turn_to(&mut self, block: u32) {
        let pages = &self.candidates.pages;
        let start = if self.block.is_some_and(|last| last < block) { self.at } else { 0 };
        let rest = &pages[start..];
        // Galloping search: most often it is the next page; otherwise the step doubles each time.
        let mut reach = 1;
        while reach < rest.len() && rest[reach - 1].block < block {
            reach *= 2;
        }
        let reach = reach.min(rest.len());
        self.at = start + rest[..reach].partition_point(|page| page.block < block);
        self.block = Some(block);
        self.words = match pages.get(self.at).filter(|page| page.block == block) {
            None => Some(&[]),
            Some(page) => self.candidates.words_of(page),
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn tid(block: u32, offset: u16) -> Tid {
        Tid::new(block, offset)
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
    fn the_rows_of_an_ascending_run_are_found_however_they_are_spread() {
        let tids: Vec<Tid> = (0..4000u32)
            .filter(|block| !(1000..2500).contains(block))
            .flat_map(|block| (1..=1 + (block * 37 % 9) as u16).map(move |offset| tid(block, offset)))
            .collect();
        for (every, run) in
            [(1, 0..tids.len()), (2, 5..tids.len()), (97, 0..tids.len()), (97, 700..12_000), (3999, 1..2)]
        {
            let mut candidates = Candidates::default();
            for block in (3..4500u32).step_by(every) {
                let offsets = [1, (block % 9) as u16 + 2];
                candidates.add_page(block, (block % 5 > 0).then_some(&offsets[..])).unwrap();
            }
            let mut lookup = candidates.lookup();
            let positions = run.start as u64..run.end as u64;
            let expected: Vec<u64> =
                positions.clone().filter(|&position| lookup.contains(tids[position as usize])).collect();
            let mut found = Vec::new();
            let mut visit = |position| {
                found.push(position);
                Ok(())
            };
            candidates.each_in_run(&positions, |position| tids[position as usize], &mut visit).unwrap();
            assert_eq!(found, expected, "every {every}");
        }
    }

    #[test]
    fn first_from_is_right_whatever_the_guess() {
        for (start, end) in [(0, 0), (0, 1), (3, 40)] {
            for answer in start..=end {
                for guess in 0..50 {
                    assert_eq!(
                        first_from(start..end, guess.max(start), |position| position < answer),
                        answer
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_is_among_no_candidates() {
        assert!(!Candidates::default().lookup().contains(tid(0, 1)));
    }
}
