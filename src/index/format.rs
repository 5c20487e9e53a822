//! The on-disk formats: every byte of the index relation's pages that vekter writes, and nothing of PostgreSQL.
//!
//! ```text
//! page         0 ─────── 24 ─────────────────────── pd_lower ── hole ── 8160 ───────── 8192
//!              │ header  │ body                      │                  │ PageTag       │
//!
//! block 0      Meta       magic, version, then the root: what a search reads once and owns
//! others       Delta (a new index: block 1), DeltaOverflow, Blob (segment, tombstones, manifest), Retired, or all
//!              zero (never used)
//!
//! Delta page   DeltaHead(32) │ entry │ entry │ …      entry = tid(6) pad(2) float32[dims]
//! Overflow     next(4) pad(4) │ float32…              the rest of an entry that is longer than a page
//! ```
//!
//! A *blob* is an immutable byte string in pages that lie in a list of extents. Whoever points to it holds its random
//! 128-bit id, length and CRC-32C, so a reader always knows whether the pages it met are the ones that were meant.
//! The payload of a segment that was sealed where it lay is the exception: no page has its bytes, they are made of the
//! delta's pages (`DeltaRun`).
//! Integers are little-endian. Versioned from the first release: an unknown version is refused, never guessed at.

use serde::{Deserialize, Serialize};

/// Size of a page; PostgreSQL's default block size, the only one supported.
pub const PAGE_BYTES: usize = 8192;
/// PostgreSQL's page header (`SizeOfPageHeaderData`).
pub const PAGE_HEADER_BYTES: usize = 24;
/// The tag in the special space of each page.
pub const TAG_BYTES: usize = 32;
/// What a page holds beside its header and its tag.
pub const BODY_BYTES: usize = PAGE_BYTES - PAGE_HEADER_BYTES - TAG_BYTES;

/// Version of all formats in this file.
pub const FORMAT_VERSION: u16 = 6;
/// "no block": PostgreSQL's `InvalidBlockNumber`.
pub const NO_BLOCK: u32 = u32::MAX;
pub const META_BLOCK: u32 = 0;
/// Where the delta of a new index starts; sealing moves the start on (`Meta::delta_head`).
pub const FIRST_DELTA_BLOCK: u32 = 1;

const TAG_MAGIC: u16 = 0xFA15;
const META_MAGIC: u32 = u32::from_le_bytes(*b"VKTR");

/// What is wrong with bytes that should follow one of these formats.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    #[error("format version {0} is unknown")]
    Version(u16),
    #[error("{0}")]
    Damaged(&'static str),
}

fn bincode_config() -> impl bincode::config::Config {
    bincode::config::standard().with_fixed_int_encoding()
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Plain structs of integers, strings and vectors have no case that bincode refuses; an empty answer would be
    // caught by the decoder of whoever reads it.
    bincode::serde::encode_to_vec(value, bincode_config()).unwrap_or_default()
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8], what: &'static str) -> Result<T, FormatError> {
    bincode::serde::decode_from_slice(bytes, bincode_config())
        .map(|(value, _)| value)
        .map_err(|_| FormatError::Damaged(what))
}

// ---------------------------------------------------------------- page tag

/// What a page is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PageKind {
    Meta = 1,
    Delta = 2,
    DeltaOverflow = 3,
    Blob = 4,
    /// Referenced by nothing any more; `PageTag::full_xid` is the horizon after which it may be used again. Until then
    /// its content stays as it was, for searches that are on their way to it.
    Retired = 5,
}

/// Identity of a page, in its special space: a reader that meets another tag than it expects has met a page that was
/// used again, and starts over from the root (invariant 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageTag {
    /// The blob's id; the index's id for meta and delta pages; `DeltaHead::overflow_id` for overflow pages.
    pub owner: u128,
    /// The next full transaction id when the page was written; of a retired page, when it was retired.
    pub full_xid: u64,
    /// Position in the blob or among an entry's overflow pages; of a delta page its number in the chain.
    pub chunk: u32,
    pub kind: PageKind,
}

impl PageTag {
    pub fn to_bytes(self) -> [u8; TAG_BYTES] {
        let mut bytes = [0u8; TAG_BYTES];
        bytes[0..16].copy_from_slice(&self.owner.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.full_xid.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.chunk.to_le_bytes());
        bytes[28] = self.kind as u8;
        bytes[29] = FORMAT_VERSION as u8;
        bytes[30..32].copy_from_slice(&TAG_MAGIC.to_le_bytes());
        bytes
    }

    /// None: not a page of this format (all zero, torn, or another extension's).
    pub fn from_bytes(bytes: &[u8; TAG_BYTES]) -> Option<Self> {
        if bytes[30..32] != TAG_MAGIC.to_le_bytes() || bytes[29] != FORMAT_VERSION as u8 {
            return None;
        }
        let kind = match bytes[28] {
            1 => PageKind::Meta,
            2 => PageKind::Delta,
            3 => PageKind::DeltaOverflow,
            4 => PageKind::Blob,
            5 => PageKind::Retired,
            _ => return None,
        };
        Some(PageTag {
            owner: u128::from_le_bytes(array(&bytes[0..16])),
            full_xid: u64::from_le_bytes(array(&bytes[16..24])),
            chunk: u32::from_le_bytes(array(&bytes[24..28])),
            kind,
        })
    }
}

/// Copies a slice whose length the caller has fixed into an array.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0u8; N];
    out.copy_from_slice(bytes);
    out
}

// ---------------------------------------------------------------- blobs, manifest, meta

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
    pub factory: String,
    /// Live rows of the index when the segment's quantiser was trained; 0: nothing in it is trained.
    pub trained_rows: u64,
    /// FAISS's imbalance factor of its inverted lists just after training, in percent; 0: it has none.
    pub trained_imbalance_percent: u32,
    /// What its search parameters bring, ascending in recall and cost; empty: it is exact, or that was not measured.
    pub points: Vec<PointRef>,
    /// Why it was built from that factory string, for a person, if the choice was vekter's; empty: it was asked for, or is
    /// what inserts are sealed as.
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

/// The root (invariant 4): it changes in one WAL record, after all it points to is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Random; new with every build, so that nothing of an older build is taken for this one.
    pub index_id: u128,
    pub dims: u32,
    /// `engine::Metric::code`.
    pub metric: u8,
    /// The `factory` option as it was at build.
    pub factory: String,
    /// Counts the changes of the root's manifest.
    pub generation: u64,
    pub manifest: Option<BlobRef>,
    /// First page of the delta and its number in the chain; sealing moves it on.
    pub delta_head: u32,
    pub delta_head_chunk: u32,
    /// The last page of the chain, where a statement looks for room first.
    pub delta_tail: u32,
    /// Number that the next delta page gets.
    pub delta_next_chunk: u32,
}

impl Meta {
    /// The body of block 0. A manifest in too many pieces would not fit: `fits` is asked before it is published.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = META_MAGIC.to_le_bytes().to_vec();
        body.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        body.extend_from_slice(&[0, 0]);
        body.extend_from_slice(&encode(self));
        body
    }

    pub fn fits(&self) -> bool {
        self.encode().len() <= BODY_BYTES
    }

    /// Bytes of the delta's pages, as if VACUUM had unlinked none and each held as many rows as it can.
    pub fn delta_bytes(&self) -> u64 {
        self.link_bytes(self.delta_links())
    }

    /// Bytes that inserts have added to the delta since it was as in `earlier`; as `delta_bytes`.
    pub fn inserted_bytes_since(&self, earlier: &Meta) -> u64 {
        self.link_bytes(self.delta_next_chunk.saturating_sub(earlier.delta_next_chunk))
    }

    fn link_bytes(&self, links: u32) -> u64 {
        let pages_per_link = 1 + DeltaLayout::new(self.dims as usize).overflow_pages as u64;
        u64::from(links) * pages_per_link * PAGE_BYTES as u64
    }

    /// Pages in the delta's chain, those that VACUUM unlinked counted in.
    pub fn delta_links(&self) -> u32 {
        self.delta_next_chunk.saturating_sub(self.delta_head_chunk)
    }

    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        if body.len() < 8 || body[0..4] != META_MAGIC.to_le_bytes() {
            return Err(FormatError::Damaged("the first page is not a meta page"));
        }
        let version = u16::from_le_bytes([body[4], body[5]]);
        if version != FORMAT_VERSION {
            return Err(FormatError::Version(version));
        }
        decode(&body[8..], "the meta page cannot be decoded")
    }
}

// ---------------------------------------------------------------- delta pages

pub const DELTA_HEAD_BYTES: usize = 32;
pub const DELTA_ENTRY_HEAD_BYTES: usize = 8;
pub const OVERFLOW_HEAD_BYTES: usize = 8;
/// Elements that one overflow page takes.
pub const OVERFLOW_ELEMENTS: usize = (BODY_BYTES - OVERFLOW_HEAD_BYTES) / 4;

/// How entries of `dims` elements lie in delta pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaLayout {
    /// Elements of an entry that stand in the delta page itself.
    pub head_elements: usize,
    /// Overflow pages that hold the rest.
    pub overflow_pages: usize,
    /// Entries that one delta page takes; 1 if they overflow.
    pub entries_per_page: usize,
}

impl DeltaLayout {
    pub fn new(dims: usize) -> Self {
        let room = BODY_BYTES - DELTA_HEAD_BYTES;
        let head_elements = dims.min((room - DELTA_ENTRY_HEAD_BYTES) / 4);
        let overflow_pages = (dims - head_elements).div_ceil(OVERFLOW_ELEMENTS);
        DeltaLayout {
            head_elements,
            overflow_pages,
            entries_per_page: if overflow_pages > 0 {
                1
            } else {
                room / (DELTA_ENTRY_HEAD_BYTES + 4 * head_elements)
            },
        }
    }

    /// Bytes of an entry in its delta page.
    pub fn entry_bytes(self) -> usize {
        DELTA_ENTRY_HEAD_BYTES + 4 * self.head_elements
    }
}

/// First bytes of a delta page's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaHead {
    pub next_block: u32,
    /// Number of the next page in the chain; chain numbers only grow, so a reused page is recognised.
    pub next_chunk: u32,
    /// First overflow page of the one entry, or `NO_BLOCK`.
    pub overflow_block: u32,
    pub entries: u16,
    /// Whether it takes no more entries: it is being sealed.
    pub is_closed: bool,
    /// Random owner of the entry's overflow pages; 0 if it has none.
    pub overflow_id: u128,
}

impl DeltaHead {
    pub const EMPTY: DeltaHead = DeltaHead {
        next_block: NO_BLOCK,
        next_chunk: 0,
        overflow_block: NO_BLOCK,
        entries: 0,
        is_closed: false,
        overflow_id: 0,
    };

    /// Whether an entry of this layout can still be appended. One that overflows never goes where another one was: the
    /// head may still be read.
    pub fn takes_more(&self, layout: DeltaLayout) -> bool {
        let has_room = if layout.overflow_pages > 0 {
            self.entries == 0 && self.overflow_block == NO_BLOCK
        } else {
            usize::from(self.entries) < layout.entries_per_page
        };
        has_room && !self.is_closed
    }

    pub fn to_bytes(self) -> [u8; DELTA_HEAD_BYTES] {
        let mut bytes = [0u8; DELTA_HEAD_BYTES];
        bytes[0..4].copy_from_slice(&self.next_block.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.next_chunk.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.overflow_block.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.entries.to_le_bytes());
        bytes[14] = u8::from(self.is_closed);
        bytes[16..32].copy_from_slice(&self.overflow_id.to_le_bytes());
        bytes
    }

    /// `body` is at least `DELTA_HEAD_BYTES` long.
    pub fn from_bytes(body: &[u8]) -> Self {
        DeltaHead {
            next_block: u32::from_le_bytes(array(&body[0..4])),
            next_chunk: u32::from_le_bytes(array(&body[4..8])),
            overflow_block: u32::from_le_bytes(array(&body[8..12])),
            entries: u16::from_le_bytes(array(&body[12..14])),
            is_closed: body[14] != 0,
            overflow_id: u128::from_le_bytes(array(&body[16..32])),
        }
    }
}

/// First bytes of an overflow page's body.
pub fn overflow_head(next_block: u32) -> [u8; OVERFLOW_HEAD_BYTES] {
    let mut bytes = [0u8; OVERFLOW_HEAD_BYTES];
    bytes[0..4].copy_from_slice(&next_block.to_le_bytes());
    bytes
}

/// The next overflow page, or `NO_BLOCK`.
pub fn overflow_next(body: &[u8]) -> u32 {
    u32::from_le_bytes(array(&body[0..4]))
}

// ---------------------------------------------------------------- heap TIDs

/// A heap TID as one number: block << 16 | offset. Ordered as PostgreSQL orders them.
pub type Tid = u64;
pub const TID_OFFSET_BITS: u32 = 16;
/// A TID in pages and segments: block (4), offset (2).
pub const TID_BYTES: usize = 6;

pub fn tid_to_bytes(tid: Tid) -> [u8; TID_BYTES] {
    let mut bytes = [0u8; TID_BYTES];
    bytes[0..4].copy_from_slice(&((tid >> 16) as u32).to_le_bytes());
    bytes[4..6].copy_from_slice(&(tid as u16).to_le_bytes());
    bytes
}

/// The heap block of a TID.
pub fn tid_block(tid: Tid) -> u32 {
    (tid >> 16) as u32
}

pub fn tid_from_bytes(bytes: &[u8]) -> Tid {
    let block = u32::from_le_bytes(array(&bytes[0..4]));
    let offset = u16::from_le_bytes(array(&bytes[4..6]));
    u64::from(block) << 16 | u64::from(offset)
}

// ---------------------------------------------------------------- segment payload

/// ```text
/// payload   │ SegmentHead, padded to 4096 │ tid(6) × rows │ pad │ FAISS's bytes, as faiss.write_index writes them │
/// ```
/// The payload is the same in pages and in the cache file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentHead {
    pub id: u128,
    pub rows: u64,
    pub dims: u32,
    pub metric: u8,
    /// Checksum of the TIDs: VACUUM reads them without the rest.
    pub tids_crc32c: u32,
    /// Offsets in the payload.
    pub tids_at: u64,
    pub faiss_at: u64,
    pub faiss_bytes: u64,
    pub factory: String,
}

pub const SEGMENT_HEAD_BYTES: usize = 4096;
const SEGMENT_MAGIC: [u8; 6] = *b"VKTSEG";
/// Magic, version, length and CRC-32C of the encoded head.
const SEGMENT_PREFIX_BYTES: usize = 16;

impl SegmentHead {
    /// Places the parts of a segment. `faiss_aligned_at` is the offset in FAISS's bytes that should fall on a multiple of
    /// 64 in the payload, so that vector instructions read its largest array aligned.
    pub fn place(&mut self, faiss_aligned_at: u64) {
        self.tids_at = SEGMENT_HEAD_BYTES as u64;
        let tids_end = self.tids_at + self.rows * TID_BYTES as u64;
        let misaligned = (tids_end + faiss_aligned_at) % 64;
        self.faiss_at = tids_end + (64 - misaligned) % 64;
    }

    /// Where FAISS's bytes lie in the payload.
    pub fn faiss_range(&self) -> std::ops::Range<usize> {
        self.faiss_at as usize..(self.faiss_at + self.faiss_bytes) as usize
    }

    pub fn payload_bytes(&self) -> u64 {
        self.faiss_at + self.faiss_bytes
    }

    /// Err: the factory string leaves no room.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let encoded = encode(self);
        if SEGMENT_PREFIX_BYTES + encoded.len() > SEGMENT_HEAD_BYTES {
            return Err(FormatError::Damaged("the factory string is too long for a segment header"));
        }
        let mut head = SEGMENT_MAGIC.to_vec();
        head.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        head.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        head.extend_from_slice(&crc32c::crc32c(&encoded).to_le_bytes());
        head.extend_from_slice(&encoded);
        head.resize(SEGMENT_HEAD_BYTES, 0);
        Ok(head)
    }

    /// `payload`: at least the first `SEGMENT_HEAD_BYTES` of a payload that has `payload_bytes`.
    pub fn decode(payload: &[u8], payload_bytes: u64) -> Result<Self, FormatError> {
        if payload.len() < SEGMENT_HEAD_BYTES || payload[0..6] != SEGMENT_MAGIC {
            return Err(FormatError::Damaged("not a segment"));
        }
        let version = u16::from_le_bytes([payload[6], payload[7]]);
        if version != FORMAT_VERSION {
            return Err(FormatError::Version(version));
        }
        let bytes = u32::from_le_bytes(array(&payload[8..12])) as usize;
        let crc = u32::from_le_bytes(array(&payload[12..16]));
        let encoded = payload
            .get(SEGMENT_PREFIX_BYTES..SEGMENT_PREFIX_BYTES + bytes)
            .filter(|encoded| crc32c::crc32c(encoded) == crc)
            .ok_or(FormatError::Damaged("the segment header's checksum is wrong"))?;
        let head: Self = decode(encoded, "the segment header cannot be decoded")?;
        let tids_end =
            head.rows.checked_mul(TID_BYTES as u64).and_then(|bytes| bytes.checked_add(head.tids_at));
        let end = head.faiss_at.checked_add(head.faiss_bytes);
        if tids_end.is_none_or(|end| end > head.faiss_at) || end != Some(payload_bytes) {
            return Err(FormatError::Damaged("the segment's parts do not fit its length"));
        }
        Ok(head)
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
