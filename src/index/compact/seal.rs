//! Sealing: the oldest part of the delta becomes a Flat segment in place, and stays exact.
//!
//! The sealed pages lie before the delta's last page and are full or closed, so no row is appended to them; the
//! maintenance lock keeps VACUUM from removing rows. One WAL record adds the segment to the manifest and moves the
//! start of the delta behind the sealed pages (invariant 4), so a search finds each row in exactly one of the two.

use crate::cache::SyncAt;
use crate::failpoint;
use crate::index::error::IndexError;
use crate::index::format::Meta;
use crate::index::segment::in_place;
use crate::index::storage::free_pages;
use crate::index::{delta, publish, read_manifest, read_meta};
use crate::pg::free_space;
use crate::pg::lock::{IndexLock, Purpose};
use crate::pg::relation::Rel;

/// Upper limit on the bytes of rows in one sealed segment. Its cache file is written under the maintenance lock, and an
/// insert that seals waits for it.
const MAX_SEALED_BYTES: usize = 16 << 20;

/// Whether the delta has more than `limit_bytes` of pages.
pub fn is_due(meta: &Meta, limit_bytes: u64) -> bool {
    // The last page is never sealed.
    meta.delta_links() > 1 && meta.delta_bytes() > limit_bytes
}

/// Seals until the delta is within `limit_bytes`, or all rows it had at the start are sealed: inserts may be faster
/// than sealing.
pub fn down_to(rel: Rel, limit_bytes: u64) -> Result<(), IndexError> {
    let mut meta = read_meta(rel)?;
    let end = meta.delta_next_chunk;
    while is_due(&meta, limit_bytes) && meta.delta_head_chunk < end {
        let lock = IndexLock::acquire(rel, Purpose::Maintenance);
        seal(rel, SyncAt::Writing, &lock)?;
        meta = read_meta(rel)?;
    }
    Ok(())
}

/// Seals one segment, if the delta exceeds `limit_bytes` and the maintenance lock is free.
pub fn try_down_to(rel: Rel, limit_bytes: u64) -> Result<(), IndexError> {
    if is_due(&read_meta(rel)?, limit_bytes)
        && let Some(lock) = IndexLock::try_acquire(rel, Purpose::Maintenance)
    {
        seal(rel, SyncAt::Writing, &lock)?;
    }
    Ok(())
}

/// Seals all rows that are in the delta now.
pub fn all(rel: Rel) -> Result<(), IndexError> {
    {
        // The lock keeps VACUUM from reclaiming the new page before it is linked.
        let _lock = IndexLock::acquire(rel, Purpose::Maintenance);
        delta::roll(rel)?;
    }
    let end = read_meta(rel)?.delta_next_chunk - 1;
    while read_meta(rel)?.delta_head_chunk < end {
        let lock = IndexLock::acquire(rel, Purpose::Maintenance);
        seal(rel, SyncAt::Writing, &lock)?;
    }
    Ok(())
}

/// Seals one segment, if the maintenance lock is free. Does not wait for the disk, so that an insert can call it.
pub fn try_one(rel: Rel) -> Result<(), IndexError> {
    if let Some(lock) = IndexLock::try_acquire(rel, Purpose::Maintenance) {
        seal(rel, SyncAt::FirstUse, &lock)?;
    }
    Ok(())
}

/// Seals the oldest rows into one segment. Needs the maintenance lock.
fn seal(rel: Rel, sync: SyncAt, _lock: &IndexLock) -> Result<(), IndexError> {
    let meta = read_meta(rel)?;
    let frozen = delta::freeze(rel, &meta, MAX_SEALED_BYTES)?;
    if frozen.blocks.is_empty() {
        return Ok(());
    }
    failpoint::reach("seal.frozen");
    if let Some(&last) = frozen.blocks.iter().max() {
        free_space::prepare(rel, last);
    }
    let (rest, mut manifest) = (frozen.rest, read_manifest(rel, &meta)?);
    // Only pages that VACUUM has emptied: there is no segment to make.
    let (empty, claim) = if frozen.tids.is_empty() {
        (frozen.blocks, None)
    } else {
        let (segment, claim) = in_place::segment(rel, &meta, frozen, sync)?;
        manifest.segments.push(segment);
        (Vec::new(), Some(claim))
    };
    failpoint::reach("seal.stored");
    publish(rel, &manifest, Some(rest))?;
    drop(claim);
    failpoint::reach("seal.published");
    free_pages::retire(rel, empty.into_iter());
    Ok(())
}
