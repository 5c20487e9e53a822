//! What the root leads to: blobs, segments and the list of them.

use serde::{Deserialize, Serialize};

use super::{BODY_BYTES, DeltaLayout, FormatError, SEGMENT_HEAD_BYTES, TID_BYTES, decode, encode};

/// A run of neighbouring blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    pub start: u32,
    pub blocks: u32,
}

impl Extent {
    /// The shortest list of extents that covers `blocks` in their order.
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

    /// The block behind the last one.
    pub fn end(self) -> u32 {
        self.start.saturating_add(self.blocks)
    }

    /// What `used` (in any order, and it may overlap) leaves free of `0..end`, in order. Memory and time go with the
    /// number of extents, not of blocks.
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

/// A reference to a blob: where its pages lie and how to tell that they are its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    pub id: u128,
    pub bytes: u64,
    pub crc32c: u32,
    pub extents: Vec<Extent>,
}

impl BlobRef {
    /// Blocks of all extents; None: not all of them are among the first `end` blocks.
    fn blocks_within(&self, end: u32) -> Option<u64> {
        let is_within =
            |extent: &Extent| extent.start.checked_add(extent.blocks).is_some_and(|last| last <= end);
        let blocks = self.extents.iter().map(|extent| u64::from(extent.blocks)).sum();
        self.extents.iter().all(is_within).then_some(blocks)
    }

    /// Whether it has the pages that its length takes, among the first `end` blocks.
    pub fn fits(&self, end: u32) -> bool {
        self.blocks_within(end) == Some(self.bytes.div_ceil(BODY_BYTES as u64))
    }

    pub fn blocks(&self) -> impl Iterator<Item = u32> + '_ {
        self.extents.iter().flat_map(|extent| extent.iter())
    }
}

/// Pages of the delta that were sealed where they lie, in the order of the chain. Nobody changes them any more; the last
/// one's link still leads to what the delta began with then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaRun {
    /// Owner of the pages.
    pub index_id: u128,
    pub dims: u32,
    /// `engine::Metric::code`.
    pub metric: u8,
    pub start_block: u32,
    pub start_chunk: u32,
    /// Number of the first page behind them.
    pub end_chunk: u32,
    /// As in `SegmentHead`.
    pub tids_crc32c: u32,
}

/// A sealed FAISS index: its payload, and which of its positions are dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// The payload's id names the cache file too.
    pub payload: BlobRef,
    /// Where the payload's pages are the delta's; its extents then list them and their overflow pages in any order.
    pub run: Option<DeltaRun>,
    /// Rows at sealing; positions are 0..rows.
    pub rows: u64,
    pub dead_rows: u64,
    /// A bitmap by position, least significant bit first, 1 = dead.
    pub tombstones: Option<BlobRef>,
    /// The factory string that FAISS built it from.
    #[serde(deserialize_with = "super::string")]
    pub factory: String,
    /// Live rows of the index when the segment's quantiser was trained; 0: nothing in it is trained.
    pub trained_rows: u64,
    /// FAISS's imbalance factor of its inverted lists just after training, in percent; 0: it has none.
    pub trained_imbalance_percent: u32,
    /// What its search parameters bring, ascending in recall and cost; empty: it is exact, or that was not measured.
    pub points: Vec<PointRef>,
    /// Why it was built from that factory string, for a person, if the choice was vekter's; empty: it was asked for, or is
    /// what inserts are sealed as.
    #[serde(deserialize_with = "super::string")]
    pub reason: String,
}

/// Search parameters and what they bring (`engine::OperatingPoint`), in whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointRef {
    /// 0: none, here and below.
    pub nprobe: u32,
    pub ef_search: u32,
    pub k_factor_hundredths: u32,
    pub recall_millionths: u32,
    pub cost_ns: u32,
}

impl SegmentRef {
    pub fn live_rows(&self) -> u64 {
        self.rows.saturating_sub(self.dead_rows)
    }

    /// Whether its payload is long enough for its rows.
    pub fn has_room_for_rows(&self) -> bool {
        let room = self.payload.bytes.saturating_sub(SEGMENT_HEAD_BYTES as u64);
        self.rows <= room / TID_BYTES as u64
    }

    /// Err: an index of so many blocks and dimensions has no such segment.
    fn check_room(&self, blocks: u32, dims: u32) -> Result<(), FormatError> {
        let has_pages = match &self.run {
            None => self.payload.fits(blocks),
            // Their bytes are made of fewer: what is not in them is less than a page.
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

/// A segment of fewer live rows is Flat: to scan it takes no longer than to search a graph.
pub const SMALL_SEGMENT_ROWS: u64 = 4096;
/// Segments of fewer bytes of floats are merged at every turn. Less than four times what is sealed at a time by default,
/// so that such rows are merged once or twice: pages may waste half of the 4 MB.
const SMALL_SEGMENT_BYTES: u64 = 8 << 20;
/// How many times more rows the next tier of segments has.
const TIER_FACTOR: u64 = 4;

/// The tiers of an index's segments by live rows.
#[derive(Debug, Clone, Copy)]
pub struct Tiers {
    /// Those of tier 0 have fewer.
    small_rows: u64,
}

impl Tiers {
    pub fn of_dims(dims: usize) -> Self {
        let row_bytes = 4 * dims.max(1) as u64;
        Tiers { small_rows: SMALL_SEGMENT_ROWS.min(SMALL_SEGMENT_BYTES / row_bytes).max(1) }
    }

    /// Of a segment of so many live rows: 0 for few, one more for each factor of `TIER_FACTOR`.
    pub fn tier(self, live_rows: u64) -> u32 {
        (live_rows / self.small_rows).checked_ilog(TIER_FACTOR).map_or(0, |power| power + 1)
    }
}

/// The list of segments. Written anew for each change and never changed in place.
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

    /// Err: it lists what an index of so many blocks and dimensions cannot have.
    pub fn check_room(&self, blocks: u32, dims: u32) -> Result<(), FormatError> {
        self.segments.iter().try_for_each(|segment| segment.check_room(blocks, dims))
    }

    pub fn rows(&self) -> u64 {
        self.segments.iter().map(|segment| segment.rows).sum()
    }

    pub fn dead_rows(&self) -> u64 {
        self.segments.iter().map(|segment| segment.dead_rows).sum()
    }

    /// Whether a segment of it has this id.
    pub fn names(&self, segment: u128) -> bool {
        self.segments.iter().any(|one| one.payload.id == segment)
    }

    /// Every blob that is reachable from here.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobRef> {
        self.segments.iter().flat_map(|segment| std::iter::once(&segment.payload).chain(&segment.tombstones))
    }
}
