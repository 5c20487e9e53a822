//! Segments sealed in place: the delta's pages remain, and the payload is assembled from them.
//!
//! A seal logs a manifest and no rows, and each row is stored once. The payload is byte for byte the one FAISS would
//! write for a Flat index, so readers of the cache file need no special case.

use std::io::Write;

use super::cache_file;
use crate::cache::{Claim, SyncAt};
use crate::engine::{self, Metric};
use crate::index::delta::{Chain, Frozen, Walker};
use crate::index::error::IndexError;
use crate::index::format::{
    BlobRef, DeltaRun, Extent, Meta, SEGMENT_HEAD_BYTES, SegmentHead, SegmentRef, TID_BYTES, Tid,
};
use crate::index::storage::blob::{self, Visit};
use crate::pg::relation::Rel;

/// Sealed rows become a Flat index: it needs no training and can represent every row.
const FACTORY: &str = "Flat";
/// Approximate size of the parts passed to `visit`.
const PART_BYTES: usize = 256 << 10;

/// Makes the segment of the delta's frozen part by writing its cache file. The caller keeps the claim on the file until
/// a manifest names the segment.
pub fn segment(
    rel: Rel,
    meta: &Meta,
    frozen: Frozen,
    sync: SyncAt,
) -> Result<(SegmentRef, Claim), IndexError> {
    let (id, rows) = (blob::random_id()?, frozen.tids.len() as u64);
    let run = DeltaRun {
        index_id: meta.index_id,
        dims: meta.dims,
        metric: meta.metric_code(),
        start_block: meta.delta_head,
        start_chunk: meta.delta_head_chunk,
        end_chunk: frozen.rest.chunk,
        tids_crc32c: cache_file::checksum(&frozen.tids),
    };
    let payload = SealedPayload::new(id, rows, &run)?;
    let (cache, bytes) = (cache_file::cache(), payload.head.payload_bytes());
    let mut file = cache.create(cache_file::file_key(rel, id), bytes).map_err(IndexError::Cache)?;
    let mut start = payload.head.encode()?.to_vec();
    start.extend(frozen.tids.iter().copied().flat_map(Tid::to_bytes));
    payload.begin_rows(&mut start);
    let mut crc32c = 0;
    for part in [start, frozen.rows] {
        crc32c = crc32c::crc32c_append(crc32c, &part);
        file.write_all(&part).map_err(IndexError::Cache)?;
    }
    let (_, claim) = file.publish(sync).map_err(IndexError::Cache)?;
    let mut blocks = frozen.blocks;
    // Other backends may have appended pages in between. Sorted block numbers need the fewest extents.
    blocks.sort_unstable();
    let reference = SegmentRef {
        payload: BlobRef { id, bytes, crc32c, extents: Extent::cover(&blocks) },
        run: Some(run),
        rows,
        dead_rows: 0,
        tombstones: None,
        factory: FACTORY.to_string(),
        trained_rows: 0,
        trained_imbalance_percent: 0,
        points: Vec::new(),
        reason: String::new(),
    };
    Ok((reference, claim))
}

/// The payload of a segment sealed in place.
pub struct SealedPayload {
    chain: Chain,
    pub head: SegmentHead,
    /// FAISS's bytes before the rows.
    faiss_head: Vec<u8>,
}

impl SealedPayload {
    /// `rows`: number of rows in the run's pages.
    pub fn new(id: u128, rows: u64, run: &DeltaRun) -> Result<Self, IndexError> {
        let metric = Metric::from_code(run.metric)
            .ok_or_else(|| IndexError::Damaged(format!("metric {} is unknown", run.metric)))?;
        let faiss_head = engine::flat_head(run.dims as usize, metric, rows)?;
        let row_bytes = u64::from(run.dims) * size_of::<f32>() as u64;
        let mut head = SegmentHead {
            id,
            rows,
            dims: run.dims,
            metric: run.metric,
            tids_crc32c: run.tids_crc32c,
            tids_at: 0,
            faiss_at: 0,
            faiss_bytes: faiss_head.len() as u64 + rows * row_bytes,
            factory: FACTORY.to_string(),
        };
        head.place(faiss_head.len() as u64);
        Ok(SealedPayload { chain: Chain::of_run(run), head, faiss_head })
    }

    /// Calls `visit` with parts of the payload until it returns false: first header and TIDs, then the rows, which
    /// needs a second pass over the pages. `Stale` if a page was reused. The caller verifies the checksum.
    pub fn for_each_part(&self, rel: Rel, visit: Visit) -> Result<(), IndexError> {
        if !visit(&self.head.encode()?)? {
            return Ok(());
        }
        let layout = self.chain.layout();
        let mut part = Vec::with_capacity(PART_BYTES);
        let mut pages = Walker::new(rel, self.chain);
        while let Some(page) = pages.next_page()? {
            part.extend(page.tids(layout).flat_map(Tid::to_bytes));
            if !show_if_full(&mut part, visit)? {
                return Ok(());
            }
        }
        self.begin_rows(&mut part);
        let mut pages = Walker::new(rel, self.chain);
        while let Some(page) = pages.next_page()? {
            page.read_row_bytes(rel, layout, &mut part)?;
            if !show_if_full(&mut part, visit)? {
                return Ok(());
            }
        }
        visit(&part).map(drop)
    }

    /// Appends the bytes between the TIDs and the rows.
    fn begin_rows(&self, part: &mut Vec<u8>) {
        let gap = self.head.faiss_at - SEGMENT_HEAD_BYTES as u64 - self.head.rows * TID_BYTES as u64;
        part.resize(part.len() + gap as usize, 0);
        part.extend_from_slice(&self.faiss_head);
    }
}

/// False if `visit` wants no more parts.
fn show_if_full(part: &mut Vec<u8>, visit: Visit) -> Result<bool, IndexError> {
    if part.len() < PART_BYTES {
        return Ok(true);
    }
    let should_continue = visit(part)?;
    part.clear();
    Ok(should_continue)
}
