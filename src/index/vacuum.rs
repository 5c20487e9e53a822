//! VACUUM: dead rows get tombstones in segments and leave the delta; pages are given back.

use super::error::IndexError;
use super::format::{SegmentRef, Tid};
use super::opened::OpenedSegment;
use super::{Snapshot, blob, delta, publish, read_manifest, read_meta, segment, space};
use crate::failpoint;
use crate::pg::lock::{IndexLock, Purpose};
use crate::pg::relation::Rel;
use crate::pg::vacuum_delay_point;

/// Positions between two looks at the cost limit and at interrupts.
const POSITIONS_PER_BREATH: u64 = 8192;

#[derive(Default)]
pub struct Vacuumed {
    pub rows: u64,
    pub removed_rows: u64,
}

/// Shows `is_dead` every live TID once and makes sure that those it names come out of no scan that starts later, here,
/// on a standby or after a crash (invariants 2 and 3).
pub fn delete(rel: Rel, is_dead: &mut dyn FnMut(Tid) -> bool) -> Result<Vacuumed, IndexError> {
    let _lock = IndexLock::acquire(rel, Purpose::Maintenance);
    // Nobody else publishes now; the segments of this snapshot are those of the manifest that is replaced.
    let snapshot = Snapshot::open(rel)?;
    let mut manifest = read_manifest(rel, &snapshot.meta)?;
    let mut vacuumed = Vacuumed::default();
    let mut changed = false;
    for (opened, reference) in snapshot.segments.iter().zip(&mut manifest.segments) {
        if let Some(tombstones) = find_dead(opened, is_dead) {
            vacuumed.removed_rows += set_tombstones(rel, reference, &tombstones)?;
            failpoint::reach("vacuum.tombstones_written");
            changed = true;
        }
        vacuumed.rows += reference.rows - reference.dead_rows;
    }
    if changed {
        publish(rel, &manifest, None)?;
        failpoint::reach("vacuum.published");
    }
    let in_delta = delta::vacuum(rel, &snapshot.meta, is_dead)?;
    failpoint::reach("vacuum.delta_done");
    vacuumed.rows += in_delta.rows;
    vacuumed.removed_rows += in_delta.removed_rows;
    Ok(vacuumed)
}

/// The segment's bitmap with the newly dead added; None if there are none.
fn find_dead(opened: &OpenedSegment, is_dead: &mut dyn FnMut(Tid) -> bool) -> Option<Vec<u8>> {
    let rows = opened.segment.rows();
    let mut bits = opened.dead.clone().unwrap_or_else(|| vec![0; rows.div_ceil(8) as usize]);
    let mut any = false;
    for position in 0..rows {
        if position % POSITIONS_PER_BREATH == 0 {
            vacuum_delay_point();
        }
        if !opened.is_dead(position) && is_dead(opened.segment.tid(position)) {
            bits[(position / 8) as usize] |= 1 << (position % 8);
            any = true;
        }
    }
    any.then_some(bits)
}

/// Returns how many rows died since the last bitmap.
fn set_tombstones(rel: Rel, reference: &mut SegmentRef, bits: &[u8]) -> Result<u64, IndexError> {
    let dead_rows: u64 = bits.iter().map(|byte| u64::from(byte.count_ones())).sum();
    let newly_dead = dead_rows - reference.dead_rows;
    reference.dead_rows = dead_rows;
    reference.tombstones = Some(blob::write(rel, blob::random_id()?, bits, blob::Logging::Now)?);
    Ok(newly_dead)
}

/// After the last `delete` of a VACUUM, or without any: gives pages and cache files back.
pub fn clean_up(rel: Rel) -> Result<space::Space, IndexError> {
    let _lock = IndexLock::acquire(rel, Purpose::Maintenance);
    space::reclaim(rel)
}

/// Live rows by the manifest and the delta.
pub fn count_rows(rel: Rel) -> Result<u64, IndexError> {
    super::retry(|| {
        let meta = read_meta(rel)?;
        let manifest = read_manifest(rel, &meta)?;
        Ok(manifest.rows() - manifest.dead_rows() + delta::count_rows(rel, &meta)?)
    })
}

/// Removes cache files that no index of this database names, and those of databases that are gone.
pub fn sweep_cache(
    rel: Rel,
    database_exists: impl Fn(u32) -> bool,
    index_exists: impl Fn(u32) -> bool,
) -> Result<(), IndexError> {
    let manifest = read_manifest(rel, &read_meta(rel)?)?;
    let own = segment::file_key(rel, 0);
    segment::cache().sweep(|key| {
        if key.database != own.database {
            database_exists(key.database)
        } else if key.index == own.index {
            manifest.segments.iter().any(|segment| segment.payload.id == key.segment)
        } else {
            index_exists(key.index)
        }
    });
    Ok(())
}
