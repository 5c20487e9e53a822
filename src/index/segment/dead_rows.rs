//! Tombstones of a segment, stored as a blob that is written anew when more rows die.

use crate::index::error::IndexError;
use crate::index::format::{SegmentRef, Tombstones};
use crate::index::storage::blob::{self, Logging};
use crate::pg::relation::Rel;

/// None: no row of the segment is dead.
pub fn tombstones(rel: Rel, segment: &SegmentRef) -> Result<Option<Tombstones>, IndexError> {
    let Some(blob) = &segment.tombstones else { return Ok(None) };
    Ok(Some(Tombstones::decode(blob::read_to_vec(rel, blob)?, segment.rows)?))
}

/// Stores what rows are dead now. The pages of an older bitmap are the caller's to retire.
pub fn set_tombstones(rel: Rel, segment: &mut SegmentRef, tombstones: &Tombstones) -> Result<(), IndexError> {
    segment.dead_rows = tombstones.count();
    segment.tombstones = Some(blob::write(rel, blob::random_id()?, tombstones, Logging::Now)?);
    Ok(())
}
