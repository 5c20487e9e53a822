//! VACUUM: sets tombstones in segments, removes dead rows from the delta, and frees pages.

use std::time::Duration;

use super::error::IndexError;
use super::format::{BlobRef, SegmentRef, Tid, Tombstones};
use super::storage::free_pages;
use super::{delta, publish, read_manifest, read_meta, segment};
use crate::failpoint;
use crate::pg::free_space;
use crate::pg::lock::{IndexLock, Purpose};
use crate::pg::relation::Rel;
use crate::pg::vacuum_delay_point;

/// Positions between two checks of the cost limit and of interrupts.
const POSITIONS_PER_DELAY_POINT: u64 = 8192;

#[derive(Default)]
pub struct Vacuumed {
    pub rows: u64,
    pub removed_rows: u64,
}

/// Calls `is_dead` once for every live TID, and ensures that no later scan returns a TID for which it is true: on this
/// server, on a standby and after a crash (invariants 2 and 3).
pub fn delete(rel: Rel, is_dead: &mut dyn FnMut(Tid) -> bool) -> Result<Vacuumed, IndexError> {
    let _lock = IndexLock::acquire(rel, Purpose::Maintenance);
    // VACUUM must succeed on a full disk: it writes bitmaps and a manifest before it frees any space, so find free
    // pages first.
    if !free_space::has_any(rel) {
        free_pages::reclaim(rel, free_pages::Trust::FreeSpaceMap)?;
    }
    // Under the maintenance lock, no other process publishes.
    let meta = read_meta(rel)?;
    let mut manifest = read_manifest(rel, &meta)?;
    let mut vacuumed = Vacuumed::default();
    let (mut changed, mut replaced) = (false, Vec::new());
    for reference in &mut manifest.segments {
        let old = reference.tombstones.clone();
        let newly_dead = mark_dead(rel, reference, is_dead)?;
        failpoint::reach("vacuum.tombstones_written");
        vacuumed.removed_rows += newly_dead;
        vacuumed.rows += reference.live_rows();
        if newly_dead > 0 {
            changed = true;
            replaced.extend(old);
        }
    }
    if changed {
        publish(rel, &manifest, None)?;
        failpoint::reach("vacuum.published");
        free_pages::retire(rel, replaced.iter().flat_map(BlobRef::blocks));
    }
    let in_delta = delta::vacuum(rel, &meta, is_dead)?;
    failpoint::reach("vacuum.delta_done");
    vacuumed.rows += in_delta.rows;
    vacuumed.removed_rows += in_delta.removed_rows;
    Ok(vacuumed)
}

/// Replaces the segment's bitmap if more of its rows are dead; returns how many. Reads only its TIDs.
fn mark_dead(
    rel: Rel,
    reference: &mut SegmentRef,
    is_dead: &mut dyn FnMut(Tid) -> bool,
) -> Result<u64, IndexError> {
    let mut dead = segment::tombstones(rel, reference)?.unwrap_or_else(|| Tombstones::none(reference.rows));
    segment::for_each_tid(rel, reference, &mut |position, tid| {
        if position % POSITIONS_PER_DELAY_POINT == 0 {
            vacuum_delay_point();
        }
        if !dead.is_dead(position) && is_dead(tid) {
            dead.mark_dead(position);
        }
    })?;
    let newly_dead = dead.count().checked_sub(reference.dead_rows).ok_or_else(|| {
        IndexError::Damaged("a tombstone bitmap has fewer dead rows than its segment".into())
    })?;
    if newly_dead > 0 {
        segment::set_tombstones(rel, reference, &dead)?;
    }
    Ok(newly_dead)
}

/// Frees pages and cache files, after the last `delete` of a VACUUM or without any.
pub fn clean_up(rel: Rel) -> Result<free_pages::Space, IndexError> {
    let _lock = IndexLock::acquire(rel, Purpose::Maintenance);
    free_pages::reclaim(rel, free_pages::Trust::Page)
}

/// Number of live rows, from the manifest and the delta.
pub fn count_rows(rel: Rel) -> Result<u64, IndexError> {
    super::retry(|| {
        let meta = read_meta(rel)?;
        let manifest = read_manifest(rel, &meta)?;
        Ok(manifest.rows() - manifest.dead_rows() + delta::count_rows(rel, &meta)?)
    })
}

/// Removes cache files that no index of this database uses, and those of dropped databases.
pub fn sweep_cache(rel: Rel) -> Result<(), IndexError> {
    let read = || super::retry(|| read_manifest(rel, &read_meta(rel)?));
    let (mut manifest, mut outcome) = (read()?, Ok(()));
    segment::sweep(rel, Duration::ZERO, &mut |id| {
        // Another process may have sealed meanwhile: read the manifest again.
        if !manifest.names(id) && outcome.is_ok() {
            match read() {
                Ok(newer) => manifest = newer,
                Err(error) => outcome = Err(error),
            }
        }
        outcome.is_err() || manifest.names(id)
    });
    outcome
}
