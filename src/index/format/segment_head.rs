//! The head of a segment's payload.

use serde::{Deserialize, Serialize};

use super::{FORMAT_VERSION, FormatError, TID_BYTES, array, decode, encode};

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
    /// Separate checksum of the TIDs, because VACUUM reads them without the rest.
    pub tids_crc32c: u32,
    /// Offsets in the payload.
    pub tids_at: u64,
    pub faiss_at: u64,
    pub faiss_bytes: u64,
    #[serde(deserialize_with = "super::string")]
    pub factory: String,
}

pub const SEGMENT_HEAD_BYTES: usize = 4096;
const SEGMENT_MAGIC: [u8; 6] = *b"VKTSEG";
/// Magic, version, length and CRC-32C of the encoded head.
const SEGMENT_PREFIX_BYTES: usize = 16;

impl SegmentHead {
    /// Computes the offsets of the segment's parts. `faiss_aligned_at` is the offset within FAISS's bytes that must be
    /// a multiple of 64 in the payload, so that vector instructions read FAISS's largest array aligned.
    pub fn place(&mut self, faiss_aligned_at: u64) {
        self.tids_at = SEGMENT_HEAD_BYTES as u64;
        let tids_end = self.tids_at + self.rows * TID_BYTES as u64;
        let misaligned = (tids_end + faiss_aligned_at) % 64;
        self.faiss_at = tids_end + (64 - misaligned) % 64;
    }

    /// The range of FAISS's bytes in the payload.
    pub fn faiss_range(&self) -> std::ops::Range<usize> {
        self.faiss_at as usize..(self.faiss_at + self.faiss_bytes) as usize
    }

    pub fn payload_bytes(&self) -> u64 {
        self.faiss_at + self.faiss_bytes
    }

    /// Err if the factory string is too long.
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

    /// `payload`: at least the first `SEGMENT_HEAD_BYTES` bytes of a payload of `payload_bytes`.
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
