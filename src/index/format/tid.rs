//! Heap TIDs.

use super::array;

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
