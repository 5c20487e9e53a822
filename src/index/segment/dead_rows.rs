//! Reads and writes a segment's tombstones: a blob that is replaced when more rows die.

use crate::index::error::IndexError;
use crate::index::format::{SegmentRef, Tombstones};
use crate::index::storage::blob::{self, Logging};
use crate::pg::relation::Rel;

/// None if no row of the segment is dead.
pub fn tombstones(rel: Rel, segment: &SegmentRef) -> Result<Option<Tombstones>, IndexError> {
    let Some(blob) = &segment.tombstones else { return Ok(None) };
    Ok(Some(Tombstones::decode(blob::read_to_vec(rel, blob)?, segment.rows)?))
}

/// Stores the bitmap. The caller retires the pages of the previous one.
pub fn set_tombstones(rel: Rel, segment: &mut SegmentRef, tombstones: &Tombstones) -> Result<(), IndexError> {
    segment.dead_rows = tombstones.count();
    segment.tombstones = Some(blob::write(rel, blob::random_id()?, tombstones, Logging::Now)?);
    Ok(())
}
