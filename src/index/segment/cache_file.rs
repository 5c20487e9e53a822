//! Segments: FAISS indexes with their heap TIDs (`format` draws the payload's layout).
//!
//! A segment is first written to its cache file, to which FAISS can stream, and then copied to the relation's pages. So
//! it is never in memory twice, and the backend that built it already has its cache file. A segment sealed in place
//! already has its pages (`in_place`).

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

/// Minimum interval between sweeps by a backend that writes cache files, and minimum age of the files they remove.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
const SWEEP_MIN_AGE: Duration = Duration::from_secs(600);
/// With more ascending runs than this, the order of TIDs is not used.
const MAX_ASCENDING_RUNS: usize = 64;

/// The cache folder of this server.
pub fn cache() -> Cache {
    // SAFETY: set once at server start, before any backend.
    let directory = unsafe { pgrx::pg_sys::DataDir };
    // SAFETY: set once at server start, before any backend.
    let start = unsafe { pgrx::pg_sys::PgStartTime };
    // SAFETY: a C string that lives as long as the process.
    let directory = unsafe { core::ffi::CStr::from_ptr(directory) };
    let directory: &std::ffi::OsStr = OsStrExt::from_bytes(directory.to_bytes());
    Cache::new(std::path::Path::new(directory), start, crate::guc::cache_limit_bytes())
}

/// Removes cache files of dropped databases and indexes, and those of `rel`'s segments for which `keep` returns false.
/// Spares files that are younger than `min_age` or claimed by their writer. An index whose creation has not committed
/// is recognised by its lock.
pub fn sweep(rel: Rel, min_age: Duration, keep: &mut dyn FnMut(u128) -> bool) {
    let own = file_key(rel, 0);
    cache().sweep(min_age, |key| {
        if key.database != own.database {
            catalogue::database_exists(key.database)
        } else if key.index == own.index {
            keep(key.segment)
        } else {
            // The order matters: when the lock is released, the index is visible or rolled back.
            lock::is_exclusively_locked(key.index) || catalogue::relation_exists(key.index)
        }
    });
}

/// Sweeps after writing a file, so that servers that neither build nor vacuum free space too, for example a standby.
fn sweep_now_and_then(rel: Rel) {
    thread_local! {
        static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    if LAST.get().is_none_or(|last| now.duration_since(last) >= SWEEP_INTERVAL) {
        LAST.set(Some(now));
        // Without a manifest, assume every file is needed; a search will report why it cannot be read.
        sweep(rel, SWEEP_MIN_AGE, &mut |id| {
            let manifest = read_meta(rel).and_then(|meta| read_manifest(rel, &meta));
            manifest.map_or(true, |manifest| manifest.names(id))
        });
    }
}

/// The key of a segment's cache file.
pub fn file_key(rel: Rel, segment: u128) -> FileKey {
    // SAFETY: set at session start.
    let database = unsafe { pgrx::pg_sys::MyDatabaseId };
    FileKey { database: database.to_u32(), index: rel.oid().to_u32(), segment }
}

/// A segment in its mapped cache file. Owns memory, a mapping and a FAISS handle; nothing that must end with a
/// transaction.
pub struct Segment {
    mapping: Arc<Mapping>,
    head: SegmentHead,
    pub index: OpenIndex,
    ascending_runs: OnceLock<Option<Vec<Range<u64>>>>,
}

impl Segment {
    fn open(
        mapping: Arc<Mapping>,
        expected: &SegmentRef,
        metric: Metric,
        are_halves: bool,
    ) -> Result<Self, IndexError> {
        let head = SegmentHead::decode(mapping.bytes(), expected.payload.bytes)?;
        let index = OpenIndex::open(mapping.clone(), head.faiss_range(), metric)?.of_halves(are_halves);
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

    /// The mapping of its cache file.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// FAISS's serialised bytes.
    pub fn serial(&self) -> &[u8] {
        &self.mapping.bytes()[self.head.faiss_range()]
    }

    /// FAISS's imbalance factor of the inverted lists in percent; 0 if there are none.
    pub fn imbalance_percent(&self) -> u32 {
        self.index.imbalance().map_or(0, |factor| (factor * 100.0) as u32)
    }

    /// The heap TIDs by position.
    pub fn tids(&self) -> impl Iterator<Item = Tid> + '_ {
        let at = self.head.tids_at as usize;
        let bytes = &self.mapping.bytes()[at..at + self.head.rows as usize * TID_BYTES];
        bytes.chunks_exact(TID_BYTES).map(Tid::from_bytes)
    }

    /// The ranges of positions with ascending TIDs, if there are few. A build adds rows in table order and the holdout
    /// rows last; a merge does so for each source. Computed once.
    pub fn ascending_runs(&self) -> Option<&[Range<u64>]> {
        self.ascending_runs.get_or_init(|| ascending_runs(self.tids())).as_deref()
    }

    /// The heap TID at a position, which must be less than `rows`.
    pub fn tid(&self, position: u64) -> Tid {
        let at = self.head.tids_at as usize + position as usize * TID_BYTES;
        Tid::from_bytes(&self.mapping.bytes()[at..at + TID_BYTES])
    }
}

/// The ranges with ascending TIDs; None if there are too many.
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

/// Opens a segment from its cache file. If the file is missing or damaged, writes it again from the pages first.
/// `are_halves`: see [`crate::index::format::Meta::rows_code`].
pub fn open(rel: Rel, segment: &SegmentRef, metric: Metric, are_halves: bool) -> Result<Segment, IndexError> {
    let key = file_key(rel, segment.payload.id);
    let (bytes, crc) = (segment.payload.bytes, segment.payload.crc32c);
    let cache = cache();
    let mapping = match cache.open_verified(&key, bytes) {
        Some(mapping) => mapping,
        None => {
            // One backend verifies or writes the file; others wait for it.
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
    Segment::open(mapping, segment, metric, are_halves)
}

/// Copies the payload from the pages to `sink`. Errors are those of `blob::read`.
pub fn read_payload(rel: Rel, segment: &SegmentRef, sink: &mut dyn Write) -> Result<(), IndexError> {
    blob::copy(&segment.payload, sink, |visit| for_each_part(rel, segment, visit))
}

/// Calls `visit` with parts of the payload, read from its pages, until it returns false.
fn for_each_part(rel: Rel, segment: &SegmentRef, visit: Visit) -> Result<(), IndexError> {
    match &segment.run {
        Some(run) => SealedPayload::new(segment.payload.id, segment.rows, run)?.for_each_part(rel, visit),
        None => blob::for_each_part(rel, &segment.payload, visit),
    }
}

/// Calls `visit` with position and TID of each row, in order. Reads only the TIDs' part of the pages, not the cache
/// file. Returns `Damaged`, after the visits, if the TIDs' checksum is wrong.
pub fn for_each_tid(
    rel: Rel,
    segment: &SegmentRef,
    visit: &mut dyn FnMut(u64, Tid),
) -> Result<(), IndexError> {
    let mut head: Option<SegmentHead> = None;
    // Unused bytes of the payload: a TID can span two pages.
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

/// A payload in its cache file, not yet in pages. Removes the file if dropped before `store`.
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

/// Serialises an index and its TIDs (by position) to the cache file. Does not call PostgreSQL, so it may run on a
/// worker thread.
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

/// CRC-32C of TIDs as stored in a payload.
pub fn checksum(tids: &[Tid]) -> u32 {
    tids.iter().fold(0, |crc, &tid| crc32c::crc32c_append(crc, &tid.to_bytes()))
}

/// Writes everything before FAISS's bytes.
fn write_tids(writer: &mut CacheWriter, head: &SegmentHead, tids: &[Tid]) -> std::io::Result<()> {
    let encoded = head.encode().map_err(std::io::Error::other)?;
    writer.write_all(&encoded)?;
    for &tid in tids {
        writer.write_all(&tid.to_bytes())?;
    }
    let written = head.tids_at + (tids.len() * TID_BYTES) as u64;
    writer.write_all(&vec![0; (head.faiss_at - written) as usize])
}

/// The origin of a segment's trained models.
#[derive(Clone, Copy)]
pub enum Models {
    /// There are none.
    None,
    /// Trained on the segment's own rows, when the index had `live_rows`.
    Own { live_rows: u64 },
    /// Inherited from a segment with these properties.
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
    /// Copies the payload to pages. The caller keeps the claim on the cache file until a manifest names the segment.
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
                    Segment::open(self.mapping.clone(), &reference, metric, false)?.imbalance_percent();
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
