//! The on-disk formats: every byte of the index relation's pages that vekter writes, and nothing of PostgreSQL.
//!
//! ```text
//! page         0 ─────── 24 ─────────────────────── pd_lower ── hole ── 8160 ───────── 8192
//!              │ header  │ body                      │                  │ PageTag       │
//!
//! block 0      Meta       magic, version, CRC-32C, then the root: what a search reads once and owns
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
//! No length in these bytes is believed before it was compared with the bytes or the blocks that are there.
//! Integers are little-endian. Versioned from the first release: an unknown version is refused, never guessed at.

mod delta_page;
mod manifest;
mod meta_page;
mod segment_head;
mod tid;
mod tombstones;

use serde::{Deserialize, Serialize};

pub use delta_page::{
    DELTA_ENTRY_HEAD_BYTES, DELTA_HEAD_BYTES, DeltaHead, DeltaLayout, OVERFLOW_ELEMENTS, overflow_head,
    split_overflow,
};
pub use manifest::{BlobRef, DeltaRun, Extent, Manifest, PointRef, SMALL_SEGMENT_ROWS, SegmentRef, Tiers};
pub use meta_page::Meta;
pub use segment_head::{SEGMENT_HEAD_BYTES, SegmentHead};
pub use tid::{TID_BYTES, Tid};
pub use tombstones::Tombstones;

/// Size of a page; PostgreSQL's default block size, the only one supported.
pub const PAGE_BYTES: usize = 8192;
/// PostgreSQL's page header (`SizeOfPageHeaderData`).
pub const PAGE_HEADER_BYTES: usize = 24;
/// The tag in the special space of each page.
pub const TAG_BYTES: usize = 32;
/// What a page holds beside its header and its tag.
pub const BODY_BYTES: usize = PAGE_BYTES - PAGE_HEADER_BYTES - TAG_BYTES;

/// Version of all formats in this folder.
pub const FORMAT_VERSION: u16 = 7;
/// "no block": PostgreSQL's `InvalidBlockNumber`.
pub const NO_BLOCK: u32 = u32::MAX;
pub const META_BLOCK: u32 = 0;
/// Where the delta of a new index starts; sealing moves the start on (`Meta::delta_head`).
pub const FIRST_DELTA_BLOCK: u32 = 1;

const TAG_MAGIC: u16 = 0xFA15;

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

/// `bytes`: the encoded value and nothing behind it. Strings are to be read by `string`.
fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &'static str) -> Result<T, FormatError> {
    match bincode::serde::borrow_decode_from_slice(bytes, bincode_config()) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        _ => Err(FormatError::Damaged(what)),
    }
}

/// Reads a string as a part of the bytes first: bincode allocates for an owned one whatever its length says. (Of a list,
/// serde allocates a megabyte at most before it has seen the elements.)
fn string<'de, D: serde::Deserializer<'de>>(decoder: D) -> Result<String, D::Error> {
    <&str>::deserialize(decoder).map(str::to_owned)
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

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
