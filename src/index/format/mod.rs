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
//! A *blob* is an immutable byte string in the pages of a list of extents. A reference to a blob holds its random
//! 128-bit id, length and CRC-32C, so a reader recognises pages of another owner. The payload of a segment that was
//! sealed in place is the exception: no page has its bytes; they are assembled from the delta's pages (`DeltaRun`).
//! Every length is checked against the bytes or blocks that exist before it is used. Integers are little-endian.
//! Formats are versioned; an unknown version is an error.

mod delta_page;
mod manifest;
mod meta_page;
mod point;
mod segment_head;
mod tid;
mod tombstones;

use serde::{Deserialize, Serialize};

use crate::page::array;

pub use crate::page::{
    BODY_BYTES, FORMAT_VERSION, NO_BLOCK, PAGE_BYTES, PAGE_HEADER_BYTES, PageKind, PageTag, TAG_BYTES,
};
pub use delta_page::{
    DELTA_ENTRY_HEAD_BYTES, DELTA_HEAD_BYTES, DeltaHead, DeltaLayout, OVERFLOW_ELEMENTS, overflow_head,
    split_overflow,
};
pub use manifest::{BlobRef, DeltaRun, Extent, Manifest, SMALL_SEGMENT_ROWS, SegmentRef, Tiers};
pub use meta_page::Meta;
pub use point::PointRef;
pub use segment_head::{SEGMENT_HEAD_BYTES, SegmentHead};
pub use tid::{TID_BYTES, Tid};
pub use tombstones::Tombstones;

pub const META_BLOCK: u32 = 0;
/// First block of the delta in a new index; sealing advances the start (`Meta::delta_head`).
pub const FIRST_DELTA_BLOCK: u32 = 1;

/// Why bytes do not follow one of these formats.
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
    // bincode encodes plain structs of integers, strings and vectors without errors; should it fail, the decoder
    // rejects the empty bytes.
    bincode::serde::encode_to_vec(value, bincode_config()).unwrap_or_default()
}

/// Decodes all of `bytes`. String fields must use `string`.
fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &'static str) -> Result<T, FormatError> {
    match bincode::serde::borrow_decode_from_slice(bytes, bincode_config()) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        _ => Err(FormatError::Damaged(what)),
    }
}

/// Deserialises a string by borrowing it first: bincode would allocate an owned string of any length that the bytes
/// claim. (For a list, serde allocates at most a megabyte before it has seen the elements.)
fn string<'de, D: serde::Deserializer<'de>>(decoder: D) -> Result<String, D::Error> {
    <&str>::deserialize(decoder).map(str::to_owned)
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
