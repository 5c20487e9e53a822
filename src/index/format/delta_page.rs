//! Delta pages, their entries, and the overflow pages of long entries.

use super::{BODY_BYTES, FormatError, NO_BLOCK, array};

pub const DELTA_HEAD_BYTES: usize = 32;
pub const DELTA_ENTRY_HEAD_BYTES: usize = 8;
const OVERFLOW_HEAD_BYTES: usize = 8;
/// Elements in one overflow page.
pub const OVERFLOW_ELEMENTS: usize = (BODY_BYTES - OVERFLOW_HEAD_BYTES) / 4;

/// How entries of `dims` elements are laid out in delta pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaLayout {
    pub dims: usize,
    /// Elements of an entry in the delta page itself.
    pub head_elements: usize,
    /// Overflow pages of one entry, for the remaining elements.
    pub overflow_pages: usize,
    /// Entries in one delta page; 1 if they overflow.
    pub entries_per_page: usize,
}

impl DeltaLayout {
    pub fn new(dims: usize) -> Self {
        let room = BODY_BYTES - DELTA_HEAD_BYTES;
        let head_elements = dims.min((room - DELTA_ENTRY_HEAD_BYTES) / 4);
        let overflow_pages = (dims - head_elements).div_ceil(OVERFLOW_ELEMENTS);
        DeltaLayout {
            dims,
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

/// The head of a delta page's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaHead {
    pub next_block: u32,
    /// Chunk number of the next page in the chain. Chunk numbers only grow, so a reused page is recognised.
    pub next_chunk: u32,
    /// First overflow page of the page's only entry, or `NO_BLOCK`.
    pub overflow_block: u32,
    pub entries: u16,
    /// Whether the page is closed to appends because it is being sealed.
    pub is_closed: bool,
    /// Random owner id of the entry's overflow pages; 0 if it has none.
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

    /// Whether another entry can be appended. A page whose entry overflowed is never refilled, because a reader may
    /// still hold the old head.
    pub fn has_room(&self, layout: DeltaLayout) -> bool {
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

    /// Decodes the head of a page with this body.
    pub fn from_body(body: &[u8]) -> Result<Self, FormatError> {
        let Some(body) = body.first_chunk::<DELTA_HEAD_BYTES>() else {
            return Err(FormatError::Damaged("a delta page is cut short"));
        };
        Ok(DeltaHead {
            next_block: u32::from_le_bytes(array(&body[0..4])),
            next_chunk: u32::from_le_bytes(array(&body[4..8])),
            overflow_block: u32::from_le_bytes(array(&body[8..12])),
            entries: u16::from_le_bytes(array(&body[12..14])),
            is_closed: body[14] != 0,
            overflow_id: u128::from_le_bytes(array(&body[16..32])),
        })
    }

    /// Splits a body into the head and the entries that it counts.
    pub fn split(body: &[u8], layout: DeltaLayout) -> Result<(Self, &[u8]), FormatError> {
        let head = Self::from_body(body)?;
        let (count, entries) = (usize::from(head.entries), &body[DELTA_HEAD_BYTES..]);
        if count > layout.entries_per_page || entries.len() != count * layout.entry_bytes() {
            return Err(FormatError::Damaged("a delta page does not have the entries that it should have"));
        }
        Ok((head, entries))
    }
}

/// Encodes the head of an overflow page's body.
pub fn overflow_head(next_block: u32) -> [u8; OVERFLOW_HEAD_BYTES] {
    let mut bytes = [0u8; OVERFLOW_HEAD_BYTES];
    bytes[0..4].copy_from_slice(&next_block.to_le_bytes());
    bytes
}

/// Splits the body of an overflow page into the next block (or `NO_BLOCK`) and its part of the row.
pub fn split_overflow(body: &[u8]) -> Result<(u32, &[u8]), FormatError> {
    let Some((head, rest)) = body.split_first_chunk::<OVERFLOW_HEAD_BYTES>() else {
        return Err(FormatError::Damaged("an overflow page of the delta is cut short"));
    };
    Ok((u32::from_le_bytes(array(&head[0..4])), rest))
}
