//! The meta page's body.

use serde::{Deserialize, Serialize};

use super::{
    BODY_BYTES, BlobRef, DeltaLayout, FORMAT_VERSION, FormatError, META_BLOCK, PAGE_BYTES, array, decode,
    encode,
};
use crate::engine::{MAX_DIMS, Metric};

const META_MAGIC: [u8; 4] = *b"VKTR";
/// Magic, version, two zero bytes, and CRC-32C of the encoded root.
const META_PREFIX_BYTES: usize = 12;
/// Bit of [`Meta::rows_code`] for rows of halves.
const HALVES: u8 = 0x80;

/// The root (invariant 4): changes in one WAL record, after everything it points to is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Random for each build, so that pages of an older build are recognised as such.
    pub index_id: u128,
    pub dims: u32,
    /// See [`Meta::rows_code`].
    pub rows_code: u8,
    /// The `factory` option at build time.
    #[serde(deserialize_with = "super::string")]
    pub factory: String,
    /// Number of manifests published so far.
    pub generation: u64,
    pub manifest: Option<BlobRef>,
    /// First page of the delta and its chunk number; sealing advances them.
    pub delta_head: u32,
    pub delta_head_chunk: u32,
    /// The last page of the chain, where a statement first looks for room.
    pub delta_tail: u32,
    /// Chunk number of the next delta page.
    pub delta_next_chunk: u32,
}

impl Meta {
    /// What the rows are, in a byte: the metric under which they are compared, and whether every value of them is one
    /// of IEEE's 16-bit floats, so that codes of these lose nothing.
    pub fn rows_code(metric: Metric, are_halves: bool) -> u8 {
        metric.code() | if are_halves { HALVES } else { 0 }
    }

    /// `engine::Metric::code`.
    pub fn metric_code(&self) -> u8 {
        self.rows_code & !HALVES
    }

    pub fn are_halves(&self) -> bool {
        self.rows_code & HALVES != 0
    }

    /// The body of block 0. `fits` must be checked first: a manifest with too many extents does not fit.
    pub fn encode(&self) -> Vec<u8> {
        let encoded = encode(self);
        let mut body = META_MAGIC.to_vec();
        body.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        body.extend_from_slice(&[0, 0]);
        body.extend_from_slice(&crc32c::crc32c(&encoded).to_le_bytes());
        body.extend_from_slice(&encoded);
        body
    }

    pub fn fits(&self) -> bool {
        self.encode().len() <= BODY_BYTES
    }

    /// Size of the delta in bytes of pages, as if VACUUM had unlinked none and all were full.
    pub fn delta_bytes(&self) -> u64 {
        self.link_bytes(self.delta_links())
    }

    /// Bytes that inserts have added to the delta since the root was `earlier`; counted as in `delta_bytes`.
    pub fn inserted_bytes_since(&self, earlier: &Meta) -> u64 {
        self.link_bytes(self.delta_next_chunk.saturating_sub(earlier.delta_next_chunk))
    }

    fn link_bytes(&self, links: u32) -> u64 {
        let pages_per_link = 1 + DeltaLayout::new(self.dims as usize).overflow_pages as u64;
        u64::from(links) * pages_per_link * PAGE_BYTES as u64
    }

    /// Number of pages in the delta's chain, including those that VACUUM unlinked.
    pub fn delta_links(&self) -> u32 {
        self.delta_next_chunk.saturating_sub(self.delta_head_chunk)
    }

    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        if body.len() < META_PREFIX_BYTES || body[0..4] != META_MAGIC {
            return Err(FormatError::Damaged("the first page is not a meta page"));
        }
        let version = u16::from_le_bytes([body[4], body[5]]);
        if version != FORMAT_VERSION {
            return Err(FormatError::Version(version));
        }
        let (prefix, encoded) = body.split_at(META_PREFIX_BYTES);
        if crc32c::crc32c(encoded) != u32::from_le_bytes(array(&prefix[8..12])) {
            return Err(FormatError::Damaged("the meta page's checksum is wrong"));
        }
        decode(encoded, "the meta page cannot be decoded")
    }

    /// Err if an index of this many blocks cannot have this root.
    pub fn check_room(&self, blocks: u32) -> Result<(), FormatError> {
        if !(1..=MAX_DIMS).contains(&(self.dims as usize)) {
            return Err(FormatError::Damaged("the meta page's number of dimensions is impossible"));
        }
        let is_delta = |block: u32| block != META_BLOCK && block < blocks;
        if !is_delta(self.delta_head) || !is_delta(self.delta_tail) {
            return Err(FormatError::Damaged("the meta page points behind the end of the index"));
        }
        match &self.manifest {
            Some(manifest) if !manifest.fits(blocks) => {
                Err(FormatError::Damaged("the manifest is not as long as its pages"))
            }
            _ => Ok(()),
        }
    }
}
