//! Tombstones: the dead rows of a segment.

use std::ops::Deref;

use super::FormatError;

/// One bit for each position of a segment, least significant bit first, 1 = dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstones(Vec<u8>);

impl Tombstones {
    /// A bitmap without dead rows.
    pub fn none(rows: u64) -> Self {
        Tombstones(vec![0; bytes_for(rows)])
    }

    /// Decodes the stored bitmap of a segment with `rows` rows.
    pub fn decode(bytes: Vec<u8>, rows: u64) -> Result<Self, FormatError> {
        if bytes.len() != bytes_for(rows) {
            return Err(FormatError::Damaged("a tombstone bitmap is not as long as its segment"));
        }
        Ok(Tombstones(bytes))
    }

    pub fn is_dead(&self, position: u64) -> bool {
        self.0[(position / 8) as usize] >> (position % 8) & 1 == 1
    }

    pub fn mark_dead(&mut self, position: u64) {
        self.0[(position / 8) as usize] |= 1 << (position % 8);
    }

    pub fn count(&self) -> u64 {
        self.0.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// Whether a bit beyond the last of `rows` rows is set, which is damage.
    pub fn reach_beyond(&self, rows: u64) -> bool {
        let beyond = 8 * self.0.len() as u64 - rows;
        self.0.last().is_some_and(|last| u64::from(last.leading_zeros()) < beyond)
    }

    /// The same dead rows in a segment of `rows` rows.
    pub fn resized(mut self, rows: u64) -> Self {
        self.0.resize(bytes_for(rows), 0);
        self
    }
}

/// The bytes as they are stored and as FAISS reads them.
impl Deref for Tombstones {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

fn bytes_for(rows: u64) -> usize {
    rows.div_ceil(8) as usize
}
