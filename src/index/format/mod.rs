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

use crate::page::array;

pub use crate::page::{
    BODY_BYTES, FORMAT_VERSION, NO_BLOCK, PAGE_BYTES, PAGE_HEADER_BYTES, PageKind, PageTag, TAG_BYTES,
};
pub use delta_page::{
    DELTA_ENTRY_HEAD_BYTES, DELTA_HEAD_BYTES, DeltaHead, DeltaLayout, OVERFLOW_ELEMENTS, overflow_head,
    split_overflow,
};
pub use manifest::{BlobRef, DeltaRun, Extent, Manifest, PointRef, SMALL_SEGMENT_ROWS, SegmentRef, Tiers};
pub use meta_page::Meta;
pub use segment_head::{SEGMENT_HEAD_BYTES, SegmentHead};
pub use tid::{TID_BYTES, Tid};
pub use tombstones::Tombstones;

pub const META_BLOCK: u32 = 0;
/// Where the delta of a new index starts; sealing moves the start on (`Meta::delta_head`).
pub const FIRST_DELTA_BLOCK: u32 = 1;

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

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
