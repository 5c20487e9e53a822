//! Heap TIDs.

use std::fmt::{self, Display, Formatter};

use super::array;

/// Bytes of a TID in pages and segments: block (4), offset (2).
pub const TID_BYTES: usize = 6;

/// Location of a row in its table: block and offset. Ordered as PostgreSQL orders them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(u64);

impl Tid {
    /// A TID that no heap row has.
    pub const MAX: Tid = Tid(u64::MAX);

    pub const fn new(block: u32, offset: u16) -> Self {
        Tid((block as u64) << 16 | offset as u64)
    }

    pub const fn block(self) -> u32 {
        (self.0 >> 16) as u32
    }

    pub const fn offset(self) -> u16 {
        self.0 as u16
    }

    pub fn to_bytes(self) -> [u8; TID_BYTES] {
        let mut bytes = [0u8; TID_BYTES];
        bytes[0..4].copy_from_slice(&self.block().to_le_bytes());
        bytes[4..6].copy_from_slice(&self.offset().to_le_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Self {
        Tid::new(u32::from_le_bytes(array(&bytes[0..4])), u16::from_le_bytes(array(&bytes[4..6])))
    }
}

/// Formatted as PostgreSQL prints a ctid.
impl Display for Tid {
    fn fmt(&self, formatter: &mut Formatter) -> fmt::Result {
        write!(formatter, "({},{})", self.block(), self.offset())
    }
}
