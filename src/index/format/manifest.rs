//! The structures that the root points to: the manifest, its segments and their blobs.

use serde::{Deserialize, Serialize};

use super::{BODY_BYTES, DeltaLayout, FormatError, PointRef, SEGMENT_HEAD_BYTES, TID_BYTES, decode, encode};

/// A range of consecutive blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    pub start: u32,
    pub blocks: u32,
}

impl Extent {
    /// The shortest list of extents that covers `blocks` in the given order.
    pub fn cover(blocks: &[u32]) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for &block in blocks {
            match extents.last_mut() {
                Some(last) if last.start + last.blocks == block => last.blocks += 1,
                _ => extents.push(Extent { start: block, blocks: 1 }),
            }
        }
        extents
    }

    pub fn iter(self) -> impl Iterator<Item = u32> {
        self.start..self.end()
    }

    /// The first block after the extent.
    pub fn end(self) -> u32 {
        self.start.saturating_add(self.blocks)
    }

    /// The gaps that `used` (unordered, may overlap) leaves in `0..end`, in ascending order. Time and memory depend on
    /// the number of extents, not of blocks.
    pub fn gaps(mut used: Vec<Extent>, end: u32) -> Vec<Extent> {
        used.sort_unstable_by_key(|extent| extent.start);
        let (mut gaps, mut next) = (Vec::new(), 0);
        for extent in used.into_iter().chain([Extent { start: end, blocks: 0 }]) {
            let start = extent.start.min(end);
            if start > next {
                gaps.push(Extent { start: next, blocks: start - next });
            }
            next = next.max(extent.end());
        }
        gaps
    }
}

/// A reference to a blob: its pages, and the identity by which a reader recognises them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    pub id: u128,
    pub bytes: u64,
    pub crc32c: u32,
    pub extents: Vec<Extent>,
}

impl BlobRef {
    /// Total blocks of all extents; None if an extent reaches beyond `end`.
    fn blocks_within(&self, end: u32) -> Option<u64> {
        let is_within =
            |extent: &Extent| extent.start.checked_add(extent.blocks).is_some_and(|last| last <= end);
        let blocks = self.extents.iter().map(|extent| u64::from(extent.blocks)).sum();
        self.extents.iter().all(is_within).then_some(blocks)
    }

    /// Whether its extents lie before `end` and have exactly the pages that its length needs.
    pub fn fits(&self, end: u32) -> bool {
        self.blocks_within(end) == Some(self.bytes.div_ceil(BODY_BYTES as u64))
    }

    pub fn blocks(&self) -> impl Iterator<Item = u32> + '_ {
        self.extents.iter().flat_map(|extent| extent.iter())
    }
}

/// Delta pages that were sealed in place, in the order of the chain. They are immutable; the link of the last page
/// still points to the page that the delta started with after the seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaRun {
    /// Owner id in the pages' tags.
    pub index_id: u128,
    pub dims: u32,
    /// `engine::Metric::code`.
    pub metric: u8,
    pub start_block: u32,
    pub start_chunk: u32,
    /// Chunk number of the first page after the run.
    pub end_chunk: u32,
    /// As in `SegmentHead`.
    pub tids_crc32c: u32,
}

/// A segment: its payload, and which of its positions are dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// Its id is also the name of the cache file.
    pub payload: BlobRef,
    /// Set for a segment sealed in place. `payload.extents` then lists the delta pages and their overflow pages in any
    /// order.
    pub run: Option<DeltaRun>,
    /// Number of rows when the segment was written; positions are 0..rows.
    pub rows: u64,
    pub dead_rows: u64,
    /// Bitmap by position, least significant bit first, 1 = dead.
    pub tombstones: Option<BlobRef>,
    /// The factory string of its FAISS index.
    #[serde(deserialize_with = "super::string")]
    pub factory: String,
    /// Live rows in the index when the segment's quantiser was trained; 0 if nothing in it is trained.
    pub trained_rows: u64,
    /// FAISS's imbalance factor of the inverted lists right after training, in percent; 0 if there are none.
    pub trained_imbalance_percent: u32,
    /// Measured operating points, ascending in recall and cost; empty if the segment is exact or was not measured.
    pub points: Vec<PointRef>,
    /// Why `auto` chose this factory string, for the user; empty if it was requested or is that of sealed inserts.
    #[serde(deserialize_with = "super::string")]
    pub reason: String,
}

impl SegmentRef {
    pub fn live_rows(&self) -> u64 {
        self.rows.saturating_sub(self.dead_rows)
    }

    /// Whether the payload is long enough for the segment's rows.
    pub fn has_room_for_rows(&self) -> bool {
        let room = self.payload.bytes.saturating_sub(SEGMENT_HEAD_BYTES as u64);
        self.rows <= room / TID_BYTES as u64
    }

    /// Err if an index of this many blocks and dimensions cannot have such a segment.
    fn check_room(&self, blocks: u32, dims: u32) -> Result<(), FormatError> {
        let has_pages = match &self.run {
            None => self.payload.fits(blocks),
            // A sealed payload is assembled from delta pages; everything in it that is not in them is shorter than a
            // page.
            Some(run) => {
                run.dims == dims
                    && self.payload.blocks_within(blocks).is_some_and(|own| {
                        let layout = DeltaLayout::new(dims as usize);
                        let links = own / (1 + layout.overflow_pages as u64);
                        let row_bytes = (TID_BYTES + 4 * dims as usize) as u64;
                        self.rows <= links * layout.entries_per_page as u64
                            && self.payload.bytes
                                <= SEGMENT_HEAD_BYTES as u64 + self.rows * row_bytes + BODY_BYTES as u64
                    })
            }
        };
        if !has_pages || !self.has_room_for_rows() || self.dead_rows > self.rows {
            return Err(FormatError::Damaged("a segment is not as long as its pages"));
        }
        if self.tombstones.as_ref().is_some_and(|tombstones| !tombstones.fits(blocks)) {
            return Err(FormatError::Damaged("a tombstone bitmap is not as long as its pages"));
        }
        Ok(())
    }
}

/// Segments with fewer live rows are Flat: scanning them is as fast as searching a graph.
pub const SMALL_SEGMENT_ROWS: u64 = 4096;
/// Segments with fewer bytes of floats are in tier 0. It is less than four times what is sealed at a time by default,
/// so that such rows are merged once or twice: half of the 4 MB of pages may be unused.
const SMALL_SEGMENT_BYTES: u64 = 8 << 20;
/// Ratio of the sizes of consecutive tiers.
const TIER_FACTOR: u64 = 4;

/// The tiers of segments by live rows.
#[derive(Debug, Clone, Copy)]
pub struct Tiers {
    /// Segments with fewer live rows are in tier 0.
    small_rows: u64,
}

impl Tiers {
    pub fn of_dims(dims: usize) -> Self {
        let row_bytes = 4 * dims.max(1) as u64;
        Tiers { small_rows: SMALL_SEGMENT_ROWS.min(SMALL_SEGMENT_BYTES / row_bytes).max(1) }
    }

    /// The tier of a segment with this many live rows: 0 if small, one more for each factor of `TIER_FACTOR`.
    pub fn tier(self, live_rows: u64) -> u32 {
        (live_rows / self.small_rows).checked_ilog(TIER_FACTOR).map_or(0, |power| power + 1)
    }
}

/// The list of segments. Each change writes a new manifest; none is changed in place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub segments: Vec<SegmentRef>,
}

impl Manifest {
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        decode(bytes, "the manifest cannot be decoded")
    }

    /// Err if it has a segment that an index of this many blocks and dimensions cannot have.
    pub fn check_room(&self, blocks: u32, dims: u32) -> Result<(), FormatError> {
        self.segments.iter().try_for_each(|segment| segment.check_room(blocks, dims))
    }

    pub fn rows(&self) -> u64 {
        self.segments.iter().map(|segment| segment.rows).sum()
    }

    pub fn dead_rows(&self) -> u64 {
        self.segments.iter().map(|segment| segment.dead_rows).sum()
    }

    /// Whether it contains the segment with this id.
    pub fn names(&self, segment: u128) -> bool {
        self.segments.iter().any(|one| one.payload.id == segment)
    }

    /// All blobs that the manifest refers to.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobRef> {
        self.segments.iter().flat_map(|segment| std::iter::once(&segment.payload).chain(&segment.tombstones))
    }
}
