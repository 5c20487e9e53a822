//! The frame of every page that vekter writes: PostgreSQL's header, a body, and a tag with the page's identity.

/// Page size; PostgreSQL's default block size, the only one supported.
pub const PAGE_BYTES: usize = 8192;
/// PostgreSQL's page header (`SizeOfPageHeaderData`).
pub const PAGE_HEADER_BYTES: usize = 24;
/// The tag in the special space of each page.
pub const TAG_BYTES: usize = 32;
/// Bytes between header and tag.
pub const BODY_BYTES: usize = PAGE_BYTES - PAGE_HEADER_BYTES - TAG_BYTES;

/// Version of this format and those of `index::format`.
pub const FORMAT_VERSION: u16 = 7;
/// PostgreSQL's `InvalidBlockNumber`.
pub const NO_BLOCK: u32 = u32::MAX;

const TAG_MAGIC: u16 = 0xFA15;

/// The use of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PageKind {
    Meta = 1,
    Delta = 2,
    DeltaOverflow = 3,
    Blob = 4,
    /// Unreachable; may be reused when the horizon has passed `PageTag::full_xid`. Until then it keeps its content for
    /// searches that are on their way to it.
    Retired = 5,
}

/// Identity of a page, in its special space. A reader that finds another tag than expected has met a reused page, and
/// restarts from the root (invariant 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageTag {
    /// The blob's id; for meta and delta pages the index's id; for overflow pages `DeltaHead::overflow_id`.
    pub owner: u128,
    /// The next full transaction id when the page was written, or for a retired page, when it was retired.
    pub full_xid: u64,
    /// Number of the page in its blob or among an entry's overflow pages; for a delta page its number in the chain.
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

    /// None if the page has another format (all zero, torn, or another extension's).
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

/// Copies a slice of known length into an array.
pub fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0u8; N];
    out.copy_from_slice(bytes);
    out
}
