//! Segments: sealed FAISS indexes with their heap TIDs (the payload's layout is in `format`).
//!
//! A segment is written to its cache file first, which FAISS can stream to, and copied from there to the relation's
//! pages, so that it is never twice in memory and the backend that built it finds it materialised. What was sealed has its
//! pages already (`in_place`).

use std::cell::Cell;
use std::io::Write;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::in_place::SealedPayload;
use crate::cache::{Cache, CacheWriter, Claim, FileKey, Mapping, SyncAt};
use crate::engine::{Builder, MappedBytes, Metric, OpenIndex};
use crate::failpoint;
use crate::index::error::IndexError;
use crate::index::format::{PointRef, SEGMENT_HEAD_BYTES, SegmentHead, SegmentRef, TID_BYTES, Tid};
use crate::index::storage::blob::{self, Logging, Visit};
use crate::index::{read_manifest, read_meta};
use crate::pg::catalogue;
use crate::pg::lock::{self, IndexLock, Purpose};
use crate::pg::relation::Rel;

/// A backend that writes cache files sweeps the folder at most so often, and leaves younger files alone.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);
const SWEEP_MIN_AGE: Duration = Duration::from_secs(600);
/// More ascending runs than this are no order to go by.
const MAX_ASCENDING_RUNS: usize = 64;

/// This server's cache folder.
pub fn cache() -> Cache {
    // SAFETY: set once at server start, before any backend.
    let (directory, start) = unsafe { (pgrx::pg_sys::DataDir, pgrx::pg_sys::PgStartTime) };
    // SAFETY: a C string that lives as long as the process.
    let directory = unsafe { core::ffi::CStr::from_ptr(directory) };
    let directory: &std::ffi::OsStr = OsStrExt::from_bytes(directory.to_bytes());
    Cache::new(std::path::Path::new(directory), start, crate::guc::cache_limit_bytes())
}

/// Removes cache files of databases and indexes that are gone, and those of `rel` that `keep` does not want at the moment
/// at which it is asked, by segment; but none that is younger than `min_age`, or that somebody writes who has not told yet.
/// An index that its creator has not committed is locked.
pub fn sweep(rel: Rel, min_age: Duration, keep: &mut dyn FnMut(u128) -> bool) {
    let own = file_key(rel, 0);
    cache().sweep(min_age, |key| {
        if key.database != own.database {
            catalogue::database_exists(key.database)
        } else if key.index == own.index {
            keep(key.segment)
        } else {
            // In this order: who lets the lock go has made the index visible, or given it up.
            lock::is_exclusively_locked(key.index) || catalogue::relation_exists(key.index)
        }
    });
}

/// Sweeps when a file was written, so that a server that neither builds nor vacuums (a standby, or one whose last faiss
/// index was dropped elsewhere) gives space back too.
fn sweep_now_and_then(rel: Rel) {
    thread_local! {
        static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    if LAST.get().is_none_or(|last| now.duration_since(last) >= SWEEP_PAUSE) {
        LAST.set(Some(now));
        // Without a manifest nothing is known to be unwanted; whoever wants to search will say what is wrong with it.
        sweep(rel, SWEEP_MIN_AGE, &mut |id| {
            let manifest = read_meta(rel).and_then(|meta| read_manifest(rel, &meta));
            manifest.map_or(true, |manifest| manifest.names(id))
        });
    }
}

/// Names the cache file of a segment of `rel`.
pub fn file_key(rel: Rel, segment: u128) -> FileKey {
    // SAFETY: set at session start.
    let database = unsafe { pgrx::pg_sys::MyDatabaseId };
    FileKey { database: database.to_u32(), index: rel.oid().to_u32(), segment }
}

/// A segment over its mapped cache file. Owns memory, a map and a FAISS handle: nothing that a transaction must end.
pub struct Segment {
    mapping: Arc<Mapping>,
    head: SegmentHead,
    pub index: OpenIndex,
    ascending_runs: OnceLock<Option<Vec<Range<u64>>>>,
}

impl Segment {
    fn open(mapping: Arc<Mapping>, expected: &SegmentRef, metric: Metric) -> Result<Self, IndexError> {
        let head = SegmentHead::decode(mapping.bytes(), expected.payload.bytes)?;
        let index = OpenIndex::open(mapping.clone(), head.faiss_range(), metric)?;
        check_head(&head, expected)?;
        if head.metric != metric.code() || index.rows() != expected.rows || head.dims as usize != index.dims()
        {
            return Err(damaged(expected, "FAISS's part is not what its header says"));
        }
        Ok(Segment { mapping, head, index, ascending_runs: OnceLock::new() })
    }

    pub fn rows(&self) -> u64 {
        self.head.rows
    }

    /// The cache file that it is mapped from.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// FAISS's own bytes.
    pub fn serial(&self) -> &[u8] {
        &self.mapping.bytes()[self.head.faiss_range()]
    }

    /// FAISS's imbalance factor of the inverted lists in percent; 0 where there are none.
    pub fn imbalance_percent(&self) -> u32 {
        self.index.imbalance().map_or(0, |factor| (factor * 100.0) as u32)
    }

    /// The heap TIDs by position.
    pub fn tids(&self) -> impl Iterator<Item = Tid> + '_ {
        let at = self.head.tids_at as usize;
        let bytes = &self.mapping.bytes()[at..at + self.head.rows as usize * TID_BYTES];
        bytes.chunks_exact(TID_BYTES).map(Tid::from_bytes)
    }

    /// The ranges of positions in which they ascend, if those are few: a build goes through the table, and adds last what
    /// it held back; a merge does so segment by segment. Found out once.
    pub fn ascending_runs(&self) -> Option<&[Range<u64>]> {
        self.ascending_runs.get_or_init(|| ascending_runs(self.tids())).as_deref()
    }

    /// The heap TID of a position, which is less than `rows`.
    pub fn tid(&self, position: u64) -> Tid {
        let at = self.head.tids_at as usize + position as usize * TID_BYTES;
        Tid::from_bytes(&self.mapping.bytes()[at..at + TID_BYTES])
    }
}

/// The ranges in which TIDs ascend; None if there are many.
fn ascending_runs(tids: impl Iterator<Item = impl Ord + Copy>) -> Option<Vec<Range<u64>>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut last = None;
    for (position, tid) in (0..).zip(tids) {
        if last < Some(tid)
            && let Some(run) = runs.last_mut()
        {
            run.end = position + 1;
        } else if runs.len() < MAX_ASCENDING_RUNS {
            runs.push(position..position + 1);
        } else {
            return None;
        }
        last = Some(tid);
    }
    Some(runs)
}

/// Opens a segment from its cache file, after writing that file from the pages if it is not there or not right.
pub fn open(rel: Rel, segment: &SegmentRef, metric: Metric) -> Result<Segment, IndexError> {
    let key = file_key(rel, segment.payload.id);
    let (bytes, crc) = (segment.payload.bytes, segment.payload.crc32c);
    let cache = cache();
    let mapping = match cache.open_verified(&key, bytes) {
        Some(mapping) => mapping,
        None => {
            // One backend verifies or writes; the others wait, and find it done.
            let _lock = IndexLock::acquire(rel, Purpose::Materialise);
            failpoint::reach("materialise.started");
            match cache.open(&key, bytes, crc, &mut crate::pg::take_interrupts) {
                Some(mapping) => mapping,
                None => {
                    let mut writer = cache.create(key, bytes).map_err(IndexError::Cache)?;
                    read_payload(rel, segment, &mut writer)?;
                    failpoint::reach("materialise.copied");
                    let (mapping, _) = writer.publish(SyncAt::Writing).map_err(IndexError::Cache)?;
                    sweep_now_and_then(rel);
                    mapping
                }
            }
        }
    };
    Segment::open(mapping, segment, metric)
}

/// Copies the payload from the pages to `sink`. Errors are those of `blob::read`.
pub fn read_payload(rel: Rel, segment: &SegmentRef, sink: &mut dyn Write) -> Result<(), IndexError> {
    blob::copy(&segment.payload, sink, |visit| for_each_part(rel, segment, visit))
}

/// Shows `visit` the payload as its pages have it, until it returns false.
fn for_each_part(rel: Rel, segment: &SegmentRef, visit: Visit) -> Result<(), IndexError> {
    match &segment.run {
        Some(run) => SealedPayload::new(segment.payload.id, segment.rows, run)?.for_each_part(rel, visit),
        None => blob::for_each_part(rel, &segment.payload, visit),
    }
}

/// Shows `visit` position and TID of each row, in order. They come from the pages: VACUUM needs neither the cache file
/// nor the rest of the segment. `Damaged`, after the visits, if the TIDs are not those that were sealed.
pub fn for_each_tid(
    rel: Rel,
    segment: &SegmentRef,
    visit: &mut dyn FnMut(u64, Tid),
) -> Result<(), IndexError> {
    let mut head: Option<SegmentHead> = None;
    // Bytes of the payload that were not used yet: a TID can lie in two pages.
    let mut rest: Vec<u8> = Vec::new();
    let (mut position, mut crc) = (0, 0);
    for_each_part(rel, segment, &mut |part| {
        rest.extend_from_slice(part);
        if head.is_none() {
            if rest.len() < SEGMENT_HEAD_BYTES {
                return Ok(true);
            }
            let decoded = SegmentHead::decode(&rest, segment.payload.bytes)?;
            check_head(&decoded, segment)?;
            rest.drain(..SEGMENT_HEAD_BYTES);
            head = Some(decoded);
        }
        let wanted = (segment.rows - position).min((rest.len() / TID_BYTES) as u64);
        let used = wanted as usize * TID_BYTES;
        crc = crc32c::crc32c_append(crc, &rest[..used]);
        for tid in rest[..used].chunks_exact(TID_BYTES) {
            visit(position, Tid::from_bytes(tid));
            position += 1;
        }
        rest.drain(..used);
        Ok(position < segment.rows)
    })?;
    let is_whole = head.is_some_and(|head| position == head.rows && crc == head.tids_crc32c);
    if is_whole { Ok(()) } else { Err(damaged(segment, "the checksum of its row pointers is wrong")) }
}

fn check_head(head: &SegmentHead, expected: &SegmentRef) -> Result<(), IndexError> {
    let same = head.id == expected.payload.id
        && head.rows == expected.rows
        && head.factory == expected.factory
        && head.tids_at == SEGMENT_HEAD_BYTES as u64;
    if same { Ok(()) } else { Err(damaged(expected, "its header is another segment's")) }
}

fn damaged(segment: &SegmentRef, what: &str) -> IndexError {
    IndexError::Damaged(format!("segment {:032x}: {what}", segment.payload.id))
}

/// A payload in its cache file, not yet in pages. Dropped before it is stored, it leaves no file.
pub struct Staged {
    mapping: Arc<Mapping>,
    claim: Option<Claim>,
    head: SegmentHead,
    cache: Cache,
    key: FileKey,
    is_stored: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_stored {
            self.cache.remove(&self.key);
        }
    }
}

/// Serialises an index and its TIDs (by position) to the cache file. Calls nothing of PostgreSQL: it may run beside
/// the main thread.
pub fn stage(
    cache: &Cache,
    key: FileKey,
    builder: &Builder,
    metric: Metric,
    factory: &str,
    tids: &[Tid],
    sync: SyncAt,
) -> Result<Staged, IndexError> {
    let layout = builder.layout()?;
    let mut head = SegmentHead {
        id: key.segment,
        rows: tids.len() as u64,
        dims: builder.dims() as u32,
        metric: metric.code(),
        tids_crc32c: checksum(tids),
        tids_at: 0,
        faiss_at: 0,
        faiss_bytes: layout.bytes,
        factory: factory.to_string(),
    };
    head.place(layout.aligned_at);
    let mut writer = cache.create(key, head.payload_bytes()).map_err(IndexError::Cache)?;
    write_tids(&mut writer, &head, tids).map_err(IndexError::Cache)?;
    builder.write(&mut writer)?;
    let (mapping, claim) = writer.publish(sync).map_err(IndexError::Cache)?;
    Ok(Staged { mapping, claim: Some(claim), head, cache: cache.clone(), key, is_stored: false })
}

/// CRC-32C of TIDs as they lie in a payload.
pub fn checksum(tids: &[Tid]) -> u32 {
    tids.iter().fold(0, |crc, &tid| crc32c::crc32c_append(crc, &tid.to_bytes()))
}

/// Everything before FAISS's bytes.
fn write_tids(writer: &mut CacheWriter, head: &SegmentHead, tids: &[Tid]) -> std::io::Result<()> {
    let encoded = head.encode().map_err(std::io::Error::other)?;
    writer.write_all(&encoded)?;
    for &tid in tids {
        writer.write_all(&tid.to_bytes())?;
    }
    let written = head.tids_at + (tids.len() * TID_BYTES) as u64;
    writer.write_all(&vec![0; (head.faiss_at - written) as usize])
}

/// Where a segment's trained models come from.
#[derive(Clone, Copy)]
pub enum Models {
    /// It has none.
    None,
    /// Trained on its own rows, when the index had so many live rows.
    Own { live_rows: u64 },
    /// Taken over from a segment with these records.
    Inherited { trained_rows: u64, trained_imbalance_percent: u32 },
}

impl Models {
    pub fn of(donor: &SegmentRef) -> Self {
        Models::Inherited {
            trained_rows: donor.trained_rows,
            trained_imbalance_percent: donor.trained_imbalance_percent,
        }
    }
}

impl Staged {
    /// Copies the payload to pages. The claim on the cache file ends when a manifest names the segment.
    pub fn store(
        mut self,
        rel: Rel,
        models: Models,
        points: Vec<PointRef>,
        logging: Logging,
    ) -> Result<(SegmentRef, Option<Claim>), IndexError> {
        let payload = blob::write(rel, self.head.id, self.mapping.bytes(), logging)?;
        let mut reference = SegmentRef {
            payload,
            run: None,
            rows: self.head.rows,
            dead_rows: 0,
            tombstones: None,
            factory: self.head.factory.clone(),
            trained_rows: 0,
            trained_imbalance_percent: 0,
            points,
            reason: String::new(),
        };
        match (models, Metric::from_code(self.head.metric)) {
            (Models::Own { live_rows }, Some(metric)) => {
                reference.trained_rows = live_rows;
                reference.trained_imbalance_percent =
                    Segment::open(self.mapping.clone(), &reference, metric)?.imbalance_percent();
            }
            (Models::Inherited { trained_rows, trained_imbalance_percent }, _) => {
                reference.trained_rows = trained_rows;
                reference.trained_imbalance_percent = trained_imbalance_percent;
            }
            _ => {}
        }
        self.is_stored = true;
        Ok((reference, self.claim.take()))
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_ASCENDING_RUNS, ascending_runs};

    #[test]
    fn a_build_and_a_merge_have_a_few_ascending_runs() {
        assert_eq!(ascending_runs([0u64; 0].into_iter()), Some(vec![]));
        assert_eq!(ascending_runs([4, 5, 9, 9].into_iter()), Some(vec![0..3, 3..4]));
        assert_eq!(ascending_runs([4, 5, 9, 6, 8, 1].into_iter()), Some(vec![0..3, 3..5, 5..6]));
        let descending = |count: usize| (0..count as u64).rev();
        assert_eq!(
            ascending_runs(descending(MAX_ASCENDING_RUNS)).map(|runs| runs.len()),
            Some(MAX_ASCENDING_RUNS)
        );
        assert_eq!(ascending_runs(descending(MAX_ASCENDING_RUNS + 1)), None);
    }
}
