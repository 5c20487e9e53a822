//! Checks segments: payload, header, TIDs, tombstones and cache file, and that FAISS opens them.

use std::collections::HashSet;

use super::{Check, IndexEntry, checksum};
use crate::cache::Content;
use crate::engine::{EngineError, Metric};
use crate::index::error::IndexError;
use crate::index::format::{Manifest, Meta, SegmentRef, Tombstones};
use crate::index::segment;
use crate::pg::take_interrupts;

/// Rows read back from FAISS at a time.
const BATCH_ROWS: usize = 1024;

impl Check {
    pub(super) fn check_segments(
        &mut self,
        meta: &Meta,
        metric: Metric,
        manifest: &Manifest,
    ) -> Result<(), IndexError> {
        let mut ids = HashSet::new();
        for reference in &manifest.segments {
            let place = format!("segment {:032x}", reference.payload.id);
            if !ids.insert(reference.payload.id) {
                self.error(&place, "the manifest lists it twice");
                continue;
            }
            let (bytes, rows) = (reference.payload.bytes, reference.rows);
            let problem = if !reference.has_room_for_rows() {
                Some(format!("{bytes} bytes are too few for {rows} rows"))
            } else {
                let other = reference.run.map(|run| run.dims).filter(|&dims| dims != meta.dims);
                other.map(|dims| format!("it was sealed of rows of {dims} dimensions"))
            };
            if let Some(problem) = problem {
                self.is_complete = false;
                self.error(&place, problem);
                continue;
            }
            let is_whole = match &reference.run {
                Some(run) => self.check_run(&place, reference, run)?,
                None => self.check_blob(&place, &reference.payload, None),
            };
            let dead = self.check_tombstones(&place, reference);
            if !is_whole {
                self.is_complete = false;
                continue;
            }
            self.check_cache_file(&place, reference);
            let rows = self.check_faiss(&place, reference, meta, metric)?;
            self.check_tids(&place, reference, dead.as_ref(), rows.as_deref())?;
        }
        Ok(())
    }

    /// The tombstone bitmap, if there is a usable one.
    fn check_tombstones(&mut self, segment: &str, reference: &SegmentRef) -> Option<Tombstones> {
        let place = format!("tombstones of {segment}");
        let Some(blob) = &reference.tombstones else {
            if reference.dead_rows > 0 {
                self.is_complete = false;
                self.error(
                    place,
                    format!("{} rows are dead, and there is no bitmap of them", reference.dead_rows),
                );
            }
            return None;
        };
        let mut bits = Vec::new();
        if !self.check_blob(&place, blob, Some(&mut bits)) {
            self.is_complete = false;
            return None;
        }
        let bytes = bits.len();
        let Ok(dead) = Tombstones::decode(bits, reference.rows) else {
            self.is_complete = false;
            self.error(place, format!("{bytes} bytes are stored for {} rows", reference.rows));
            return None;
        };
        if dead.reach_beyond(reference.rows) {
            self.error(&place, "a row behind the last one is dead");
        }
        let dead_rows = dead.count();
        if dead_rows != reference.dead_rows {
            self.error(&place, format!("{dead_rows} rows are dead, {} by the manifest", reference.dead_rows));
        }
        Some(dead)
    }

    /// Adds an entry for each live row. `rows`: checksums of the stored rows, by position.
    fn check_tids(
        &mut self,
        place: &str,
        reference: &SegmentRef,
        dead: Option<&Tombstones>,
        rows: Option<&[u32]>,
    ) -> Result<(), IndexError> {
        let is_dead = |position: u64| dead.is_some_and(|dead| dead.is_dead(position));
        self.entries.try_reserve(reference.live_rows() as usize)?;
        let (rel, entries) = (self.rel, &mut self.entries);
        let read = segment::for_each_tid(rel, reference, &mut |position, tid| {
            if !is_dead(position) {
                let row_crc32c = rows.and_then(|rows| rows.get(position as usize)).copied();
                entries.push(IndexEntry { tid, row_crc32c });
            }
        });
        self.is_complete &= self.believe(place, read)?.is_some();
        Ok(())
    }

    fn check_cache_file(&mut self, place: &str, reference: &SegmentRef) {
        let key = segment::file_key(self.rel, reference.payload.id);
        let (bytes, crc) = (reference.payload.bytes, reference.payload.crc32c);
        match segment::cache().examine(&key, bytes, crc, &mut take_interrupts) {
            Content::Missing | Content::Right => {}
            Content::Wrong => {
                self.warn(place, "its cache file was damaged; it is written again from the index");
                segment::cache().remove(&key);
            }
        }
    }

    /// Opens the segment. Returns the rows' checksums by position, if they are needed and the segment stores rows
    /// uncompressed.
    fn check_faiss(
        &mut self,
        place: &str,
        reference: &SegmentRef,
        meta: &Meta,
        metric: Metric,
    ) -> Result<Option<Vec<u32>>, IndexError> {
        let opened = segment::open(self.rel, reference, metric, meta.are_halves());
        let Some(segment) = self.believe(place, opened)? else {
            return Ok(None);
        };
        if segment.index.dims() != meta.dims as usize {
            let problem = format!("it has {} dimensions, the index {}", segment.index.dims(), meta.dims);
            self.error(place, problem);
        }
        if !self.compares_rows || !segment.index.stores_rows() {
            return Ok(None);
        }
        let mut checksums: Vec<u32> = Vec::new();
        checksums.try_reserve_exact(reference.rows as usize)?;
        checksums.resize(reference.rows as usize, 0);
        let dims = segment.index.dims();
        let read = segment.index.all_rows(BATCH_ROWS, &mut |positions, rows| {
            take_interrupts();
            for (&position, row) in positions.iter().zip(rows.chunks_exact(dims)) {
                checksums[position as usize] = checksum(row);
            }
            true
        });
        Ok(self.believe(place, read.map_err(IndexError::from))?.map(|()| checksums))
    }

    /// Records errors that mean damage. Other errors (out of memory, disk full) end the check.
    pub(super) fn believe<T>(
        &mut self,
        place: &str,
        outcome: Result<T, IndexError>,
    ) -> Result<Option<T>, IndexError> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(
                error @ (IndexError::Stale
                | IndexError::Damaged(_)
                | IndexError::Format(_)
                | IndexError::Engine(EngineError::Corrupt { .. })),
            ) => {
                self.error(place, error);
                Ok(None)
            }
            Err(error) => {
                // If FAISS noticed the interrupt first, raise PostgreSQL's own error instead.
                take_interrupts();
                Err(error)
            }
        }
    }
}
