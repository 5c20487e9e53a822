//! Decides which process seals and compacts an index, and when.
//!
//! An insert that makes the delta too large requests a background worker. It seals one small segment itself if the
//! worker does not keep up, or if no worker can see the index yet; in that case it requests a worker for after the
//! commit. VACUUM seals, and requests a worker to merge. `vekter_compact()` does everything at once.

mod rate_limit;
mod releasable_table;
mod worker;

use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode as Code, pg_sys};

use self::rate_limit::{RateLimited, is_time_to, note_attempt};
use self::releasable_table::{NoTable, ReleasableTable};
use super::options;
use super::resources::cache_bytes;
use crate::engine::DEFAULT_RECALL;
use crate::guc;
use crate::index::compact::plan::Goal;
use crate::index::compact::{self, Settings, seal};
use crate::index::error::IndexError;
use crate::index::train::Resources;
use crate::index::vacuum;
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::lock::{IndexLock, Purpose};
use crate::pg::owner::as_owner;
use crate::pg::relation::{OpenRelation, Rel};
use crate::pg::worker::nap;
use crate::pg::{self, subtransaction};
use crate::vector::ValueKind;

/// Backpressure: above this multiple of its limit, inserts seal the delta themselves even though a worker was
/// requested.
const BACKPRESSURE_FACTOR: u64 = 4;
/// How long an idle worker waits for more work.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval of polling for work and for lock waiters.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Bytes of rows per FAISS call during a merge; the delta is sealed between two calls.
const BATCH_BYTES: usize = 16 << 20;
/// Lock on the index during compaction. It conflicts with changes of the index's definition, but not with reads,
/// inserts and VACUUM, and its waiters can be detected. The table is locked for at most `POLL_INTERVAL` at a time, only
/// when its rows are needed, and without waiting.
pub const INDEX_LOCK: u32 = pg_sys::ShareUpdateExclusiveLock;

fn settings(index: Rel) -> Settings {
    Settings {
        resources: Resources {
            threads: pg::settings::max_parallel_maintenance_workers().max(1) as usize,
            batch_bytes: BATCH_BYTES,
            work_bytes: None,
            cache_bytes: cache_bytes(),
        },
        delta_limit_bytes: options::delta_limit_bytes(index),
        recall: options::recall(index).unwrap_or(DEFAULT_RECALL),
        are_halves: options::value_kind(index) == Some(ValueKind::Half),
    }
}

/// Called after an insert has added a page to the delta, which now has `delta_bytes`.
pub fn after_growth(index: Rel, delta_bytes: u64) -> Result<(), SqlError> {
    let limit = options::delta_limit_bytes(index);
    if delta_bytes <= limit {
        return Ok(());
    }
    let may_use_worker = guc::background_compaction() && !index.is_temporary();
    if may_use_worker && index.is_uncommitted() {
        worker::request_at_commit(index);
    }
    let has_worker = may_use_worker && !index.is_uncommitted();
    if has_worker && is_time_to(RateLimited::RequestWorker, index) {
        note_attempt(RateLimited::RequestWorker, index);
        worker::request(index);
    }
    let is_own_turn = !has_worker || delta_bytes > limit.saturating_mul(BACKPRESSURE_FACTOR);
    if is_own_turn && is_time_to(RateLimited::RetrySeal, index) {
        upkeep(index, "INSERT", || seal::try_one(index))?;
    }
    Ok(())
}

/// Called at the end of VACUUM.
pub fn after_vacuum(index: Rel) -> Result<(), SqlError> {
    let settings = settings(index);
    let is_sealed = upkeep(index, "VACUUM", || seal::down_to(index, settings.delta_limit_bytes))?;
    if !is_sealed || !compact::is_due(index, settings)? {
        return Ok(());
    }
    if guc::background_compaction() && !index.is_temporary() && worker::request(index) {
        return Ok(());
    }
    // VACUUM's snapshot does not hold back the removal of rows, so the table cannot be read.
    if let Some(lock) = IndexLock::try_acquire(index, Purpose::Compaction) {
        let run = || compact::run(index, Goal::Tiers, settings, &mut NoTable, &lock);
        upkeep(index, "VACUUM", || run().map(drop))?;
    }
    Ok(())
}

/// Runs maintenance within a user's statement, which the warning calls `statement`. If it fails, the statement
/// continues with a warning and the maintenance is paused for some time; only damage is an error. Returns whether it
/// succeeded.
fn upkeep(
    index: Rel,
    statement: &str,
    work: impl FnOnce() -> Result<(), IndexError>,
) -> Result<bool, SqlError> {
    let reason = match subtransaction::contain(work) {
        Ok(Ok(())) => return Ok(true),
        Ok(Err(error)) if error.is_damage() => return Err(error.into()),
        Ok(Err(error)) => SqlError::from(error),
        Err(error) => error,
    };
    note_attempt(RateLimited::RetrySeal, index);
    let message =
        format!("could not compact index \"{}\" during {statement}; it will be retried", index.name());
    let warning = SqlError::new(reason.code, message);
    let detail =
        reason.detail.map_or(reason.message.clone(), |detail| format!("{}: {detail}", reason.message));
    let warning = warning.detail(detail);
    match reason.hint {
        Some(hint) => warning.hint(hint).warn(),
        None => warning.warn(),
    }
    Ok(false)
}

/// An index that `vekter_compact()` has locked against compaction and changes of its definition.
pub struct IndexToCompact {
    // Drop order.
    _unchanged: OpenRelation,
    lock: IndexLock,
    index: OpenRelation,
}

impl IndexToCompact {
    /// Waits only for other compaction, which never waits for the caller's snapshot; that lock blocks no other work. It
    /// must not wait for REINDEX CONCURRENTLY and the like, which hold `INDEX_LOCK` and wait for the caller's snapshot:
    /// that would be a deadlock.
    pub fn lock(index: pg_sys::Oid) -> Result<Self, SqlError> {
        let index = OpenRelation::index(index)?;
        let lock = IndexLock::acquire(index.rel(), Purpose::Compaction);
        let start = Instant::now();
        loop {
            if let Some(unchanged) = OpenRelation::try_open(index.rel().oid(), INDEX_LOCK) {
                return Ok(IndexToCompact { _unchanged: unchanged, lock, index });
            }
            // A worker that has just started holds this lock until it finds the compaction lock taken.
            if start.elapsed() > IDLE_TIMEOUT {
                let message = format!("could not lock index \"{}\" for compaction", index.rel().name());
                return Err(SqlError::new(Code::ERRCODE_LOCK_NOT_AVAILABLE, message)
                    .detail("Another session is rebuilding or altering the index, for example with REINDEX CONCURRENTLY.")
                    .hint("Call vekter_compact() again when that session has finished."));
            }
            nap(POLL_INTERVAL);
        }
    }
}

/// `vekter_compact()`: merges everything into one segment without dead rows.
pub fn compact_everything(IndexToCompact { index, lock, .. }: &IndexToCompact) -> Result<(), SqlError> {
    let index = index.rel();
    let mut table = ReleasableTable::under(index, None);
    if !as_owner(index, || compact::run(index, Goal::Everything, settings(index), &mut table, lock))? {
        let message = format!("index \"{}\" was not merged into one segment", index.name());
        SqlError::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .detail("Some rows could be read neither from the index nor from the table.")
            .hint("Run VACUUM on the table, and call vekter_compact() again.")
            .warn();
    }
    sweep_cache(index);
    Ok(())
}

/// Removes cache files that no index needs.
pub fn sweep_cache(index: Rel) {
    vacuum::sweep_cache(index).or_raise();
}
