//! Graphs, of which each link is followed.

use std::ops::Range;

use super::code_reader::Codec;
use super::external_index::Stored;
use super::index_reader::{Body, Walk, check_same, header};
use super::serial_bytes::{Cursor, Read, check_interrupts, require};

/// Neighbours that a graph's searches and insertions look at, at most; what the file says is brought down to it.
const MAX_QUEUE: i32 = 1 << 12;
/// No graph of ours has so many links on all levels of a row.
const MAX_LINKS: i32 = 1 << 16;
/// Rows of a graph between two looks at the interrupt flag.
const CHECKED_ROWS: usize = 1 << 16;

impl Walk<'_> {
    pub(super) fn graph(&mut self, fourcc: [u8; 4]) -> Read<(Body, Codec)> {
        let head = header(&mut self.cursor)?;
        let _probabilities = self.cursor.vector(8)?;
        let (per_level, levels) = self.cursor.vector(4)?;
        let per_level: Vec<i32> = self.cursor.i32s(per_level).collect();
        require(
            levels >= 2
                && per_level[0] == 0
                && per_level.is_sorted()
                && per_level.iter().all(|&links| links <= MAX_LINKS),
            "its graph has no levels",
        )?;
        let row_levels = self.cursor.vector_of(4, head.rows, "levels")?;
        let offsets = self.cursor.vector_of(8, head.rows + 1, "places of links")?;
        let (links, count) = self.cursor.vector(4)?;
        let graph = Graph { rows: head.rows, per_level: &per_level, row_levels, offsets, links };
        graph.check(&self.cursor, count)?;
        let (entry, top) = (self.cursor.i32()?, self.cursor.i32()?);
        graph.check_entry(&self.cursor, entry, top)?;
        for least in [8, 1] {
            let at = self.cursor.at();
            let queue = self.cursor.i32()?.clamp(least, MAX_QUEUE);
            self.patch(at, queue.to_le_bytes());
        }
        let _ = self.cursor.i32()?;
        let storage = self.codes()?;
        check_same(head, storage.header)?;
        let is_known = matches!(
            (&fourcc, &storage.codec),
            (b"IHNf", Codec::Flat) | (b"IHNp", Codec::Product { .. }) | (b"IHNs", Codec::Scalar { .. })
        );
        require(is_known, "its graph stands over codes of another type")?;
        let (factory, stored) = match &storage.codec {
            Codec::Flat => (format!("HNSW{}", per_level[1] / 2), Stored::At(storage.place.start)),
            codec => (format!("HNSW{}_{}", per_level[1] / 2, codec.name()), Stored::No),
        };
        Ok((Body { header: head, factory, stored, lists: None }, storage.codec))
    }
}

/// The links of a graph, as faiss/impl/HNSW.h describes them.
struct Graph<'a> {
    rows: usize,
    /// Links up to each level.
    per_level: &'a [i32],
    row_levels: Range<usize>,
    offsets: Range<usize>,
    links: Range<usize>,
}

impl Graph<'_> {
    /// Each row's links are where its levels say, and lead to rows that are on the same level.
    fn check(&self, cursor: &Cursor, count: usize) -> Read<()> {
        const PLACES: &str = "its graph has links out of place";
        let levels_of = |row: usize| cursor.i32_at(&self.row_levels, row);
        let highest = self.per_level.len() as i32 - 1;
        let mut at = 0u64;
        for row in 0..self.rows {
            if row % CHECKED_ROWS == 0 {
                check_interrupts()?;
            }
            let levels = levels_of(row);
            require((1..=highest).contains(&levels), "its graph has an impossible level")?;
            let links = self.per_level[levels as usize] as u64;
            require(cursor.u64_at(&self.offsets, row) == at && at + links <= count as u64, PLACES)?;
            for level in 0..levels {
                let (from, to) = (self.per_level[level as usize], self.per_level[level as usize + 1]);
                for link in from..to {
                    let neighbour = cursor.i32_at(&self.links, at as usize + link as usize);
                    let is_there = neighbour == -1
                        || usize::try_from(neighbour)
                            .is_ok_and(|neighbour| neighbour < self.rows && levels_of(neighbour) > level);
                    require(is_there, "its graph has links to rows that are not there")?;
                }
            }
            at += links;
        }
        require(cursor.u64_at(&self.offsets, self.rows) == at && at == count as u64, PLACES)
    }

    /// Searches begin at a row that is on the highest level of all.
    fn check_entry(&self, cursor: &Cursor, entry: i32, top: i32) -> Read<()> {
        let highest = cursor.i32s(self.row_levels.clone()).max().unwrap_or(0);
        let is_entry = match usize::try_from(entry) {
            Ok(row) => {
                row < self.rows && top == highest - 1 && cursor.i32_at(&self.row_levels, row) == highest
            }
            Err(_) => self.rows == 0 && entry == -1 && top == -1,
        };
        require(is_entry, "its graph has no entry on its highest level")
    }
}
