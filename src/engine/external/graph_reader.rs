//! Reads HNSW graphs and checks each link.

use std::ops::Range;

use super::code_reader::ExternalCodec;
use super::external_index::StoredRows;
use super::index_reader::{IndexReader, ParsedIndex, check_same, header};
use super::serial_bytes::{ByteReader, ReadResult, check_interrupts, require};

/// The longest queue for searches and insertions; longer ones in a file are reduced to it.
const MAX_QUEUE: i32 = 1 << 12;
/// The most links on all levels of a row; graphs of the engine have fewer.
const MAX_LINKS: i32 = 1 << 16;
/// Rows of a graph between two polls of the interrupt flag.
const CHECKED_ROWS: usize = 1 << 16;

impl IndexReader<'_> {
    pub(super) fn graph(&mut self, fourcc: [u8; 4]) -> ReadResult<(ParsedIndex, ExternalCodec)> {
        let head = header(&mut self.reader)?;
        let _probabilities = self.reader.vector(8)?;
        let (per_level, levels) = self.reader.vector(4)?;
        let per_level: Vec<i32> = self.reader.i32s(per_level).collect();
        require(
            levels >= 2
                && per_level[0] == 0
                && per_level.is_sorted()
                && per_level.iter().all(|&links| links <= MAX_LINKS),
            "its graph has no levels",
        )?;
        let row_levels = self.reader.vector_of(4, head.rows, "levels")?;
        let offsets = self.reader.vector_of(8, head.rows + 1, "places of links")?;
        let (links, count) = self.reader.vector(4)?;
        let graph = GraphArrays { rows: head.rows, per_level: &per_level, row_levels, offsets, links };
        graph.check(&self.reader, count)?;
        let (entry, top) = (self.reader.i32()?, self.reader.i32()?);
        graph.check_entry(&self.reader, entry, top)?;
        for least in [8, 1] {
            let at = self.reader.at();
            let queue = self.reader.i32()?.clamp(least, MAX_QUEUE);
            self.patch(at, queue.to_le_bytes());
        }
        let _ = self.reader.i32()?;
        let storage = self.codes()?;
        check_same(head, storage.header)?;
        let is_known = matches!(
            (&fourcc, &storage.codec),
            (b"IHNf", ExternalCodec::Flat)
                | (b"IHNp", ExternalCodec::Product { .. })
                | (b"IHNs", ExternalCodec::Scalar { .. })
        );
        require(is_known, "its graph stands over codes of another type")?;
        let (factory, stored) = match &storage.codec {
            ExternalCodec::Flat => (format!("HNSW{}", per_level[1] / 2), StoredRows::At(storage.place.start)),
            codec => (format!("HNSW{}_{}", per_level[1] / 2, codec.name()), StoredRows::No),
        };
        Ok((ParsedIndex { header: head, factory, stored, lists: None }, storage.codec))
    }
}

/// The arrays of a graph, as faiss/impl/HNSW.h describes them.
struct GraphArrays<'a> {
    rows: usize,
    /// Cumulative number of links up to each level.
    per_level: &'a [i32],
    row_levels: Range<usize>,
    offsets: Range<usize>,
    links: Range<usize>,
}

impl GraphArrays<'_> {
    /// Checks that each row's links are where its levels put them, and lead to rows on the same level.
    fn check(&self, reader: &ByteReader, count: usize) -> ReadResult<()> {
        const PLACES: &str = "its graph has links out of place";
        let levels_of = |row: usize| reader.i32_at(&self.row_levels, row);
        let highest = self.per_level.len() as i32 - 1;
        let mut at = 0u64;
        for row in 0..self.rows {
            if row % CHECKED_ROWS == 0 {
                check_interrupts()?;
            }
            let levels = levels_of(row);
            require((1..=highest).contains(&levels), "its graph has an impossible level")?;
            let links = self.per_level[levels as usize] as u64;
            require(reader.u64_at(&self.offsets, row) == at && at + links <= count as u64, PLACES)?;
            for level in 0..levels {
                let (from, to) = (self.per_level[level as usize], self.per_level[level as usize + 1]);
                for link in from..to {
                    let neighbour = reader.i32_at(&self.links, at as usize + link as usize);
                    let is_there = neighbour == -1
                        || usize::try_from(neighbour)
                            .is_ok_and(|neighbour| neighbour < self.rows && levels_of(neighbour) > level);
                    require(is_there, "its graph has links to rows that are not there")?;
                }
            }
            at += links;
        }
        require(reader.u64_at(&self.offsets, self.rows) == at && at == count as u64, PLACES)
    }

    /// Checks that the entry point is a row on the highest level.
    fn check_entry(&self, reader: &ByteReader, entry: i32, top: i32) -> ReadResult<()> {
        let highest = reader.i32s(self.row_levels.clone()).max().unwrap_or(0);
        let is_entry = match usize::try_from(entry) {
            Ok(row) => {
                row < self.rows && top == highest - 1 && reader.i32_at(&self.row_levels, row) == highest
            }
            Err(_) => self.rows == 0 && entry == -1 && top == -1,
        };
        require(is_entry, "its graph has no entry on its highest level")
    }
}
