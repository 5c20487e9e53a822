//! Decides which process seals and compacts an index, and when.
//!
//! An insert that makes the delta too large requests a background worker. It seals one small segment itself if the
//! worker does not keep up, or if no worker can see the index yet; in that case it requests a worker for after the
//! commit. VACUUM seals, and requests a worker to merge. `vekter_compact()` does everything at once.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::indexed_table::IndexedTable;
use super::options;
use super::resources::cache_bytes;
use crate::engine::{self, DEFAULT_RECALL};
use crate::failpoint;
use crate::guc;
use crate::index::compact::plan::Goal;
use crate::index::compact::{self, Settings, seal};
use crate::index::error::IndexError;
use crate::index::table::{Table, TableAccess};
use crate::index::train::Resources;
use crate::index::vacuum;
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::lock::{self, IndexLock, Purpose};
use crate::pg::owner::as_owner;
use crate::pg::relation::{OpenRelation, Rel};
use crate::pg::snapshot::{self, ActiveSnapshot};
use crate::pg::transaction::{self, Moment};
use crate::pg::{self, subtransaction, worker};
use crate::vector::ValueKind;

/// Backpressure: above this multiple of its limit, inserts seal the delta themselves even though a worker was
/// requested.
const BACKPRESSURE_FACTOR: u64 = 4;
/// Minimum interval between two requests of a worker by one backend for one index.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a backend failed to seal or compact an index.
const FAILURE_BACKOFF: Duration = Duration::from_secs(10);
/// How long an idle worker waits for more work.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval of polling for work and for lock waiters.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long a worker waits for the transaction that requested it to commit.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of rows per FAISS call during a merge; the delta is sealed between two calls.
const BATCH_BYTES: usize = 16 << 20;
/// Lock on the index during compaction. It conflicts with changes of the index's definition, but not with reads,
/// inserts and VACUUM, and its waiters can be detected. The table is locked for at most `POLL_INTERVAL` at a time, only
/// when its rows are needed, and without waiting.
pub const INDEX_LOCK: u32 = pg_sys::ShareUpdateExclusiveLock;
const TABLE_LOCK: u32 = pg_sys::AccessShareLock;

/// The worker's name in pg_stat_activity.
const WORKER_NAME: &str = "vekter compactor";
/// Name of `vekter_compactor_main`, the worker's main function.
const WORKER_MAIN: &str = "vekter_compactor_main";

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
        transaction::at(Moment::BeforeCommit, request_workers);
        transaction::at(Moment::End, forget_uncommitted);
        UNCOMMITTED.with_borrow_mut(|uncommitted| uncommitted.insert(index.oid().to_u32()));
    }
    let has_worker = may_use_worker && !index.is_uncommitted();
    if has_worker && is_time_to(RateLimited::RequestWorker, index) {
        note_attempt(RateLimited::RequestWorker, index);
        request_worker(index);
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
    if guc::background_compaction() && !index.is_temporary() && request_worker(index) {
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
            worker::nap(POLL_INTERVAL);
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

// ---------------------------------------------------------------- the worker

/// Actions that a backend performs for an index at most once per interval.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum RateLimited {
    /// Requesting a worker.
    RequestWorker,
    /// Sealing in the backend itself, after a failure.
    RetrySeal,
}

impl RateLimited {
    fn pause(self) -> Duration {
        match self {
            RateLimited::RequestWorker => failpoint::pause(REQUEST_INTERVAL),
            RateLimited::RetrySeal => FAILURE_BACKOFF,
        }
    }
}

thread_local! {
    static LAST_ATTEMPTS: RefCell<HashMap<(RateLimited, u32), Instant>> = RefCell::default();
}

/// Whether the interval since the last mark has passed.
fn is_time_to(step: RateLimited, index: Rel) -> bool {
    LAST_ATTEMPTS.with_borrow_mut(|marked| {
        marked.retain(|(step, _), when| when.elapsed() < step.pause());
        !marked.contains_key(&(step, index.oid().to_u32()))
    })
}

fn note_attempt(step: RateLimited, index: Rel) {
    LAST_ATTEMPTS.with_borrow_mut(|marked| marked.insert((step, index.oid().to_u32()), Instant::now()));
}

/// True if a worker is running or has been requested.
fn request_worker(index: Rel) -> bool {
    let Some(lock) = IndexLock::try_acquire(index, Purpose::Compaction) else {
        return true;
    };
    drop(lock);
    request_worker_for(index.oid().to_u32())
}

fn request_worker_for(index: u32) -> bool {
    // SAFETY: set at session start.
    let database = unsafe { pg_sys::MyDatabaseId };
    worker::request(WORKER_NAME, WORKER_MAIN, u64::from(database.to_u32()) << 32 | u64::from(index))
}

thread_local! {
    /// Indexes that grew in the transaction that created them.
    static UNCOMMITTED: RefCell<HashSet<u32>> = RefCell::default();
}

/// Requests workers just before the commit that makes the indexes visible. If the transaction has dropped an index
/// again, its worker finds nothing and exits.
fn request_workers() {
    for index in UNCOMMITTED.take() {
        request_worker_for(index);
    }
}

fn forget_uncommitted() {
    UNCOMMITTED.take();
}

/// Main function of the background worker: compacts one index until nothing is due, and waits some time for more.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn vekter_compactor_main(argument: pg_sys::Datum) {
    let argument = argument.value() as u64;
    worker::connect(pg_sys::Oid::from((argument >> 32) as u32));
    engine::work_in_background();
    let index = pg_sys::Oid::from(argument as u32);
    await_commit(index);
    loop {
        match worker::transaction(|| step(index).or_raise()) {
            WorkerStep::MoreWork => (),
            // An insert that found the compaction lock taken requested no worker.
            WorkerStep::Idle if worker::transaction(|| is_due(index).or_raise()) => (),
            WorkerStep::Idle | WorkerStep::Stop => break,
        }
    }
}

/// Outcome of a transaction of the worker.
enum WorkerStep {
    MoreWork,
    /// Nothing was due for `IDLE_TIMEOUT`.
    Idle,
    /// The index does not exist, another process compacts it or waits for it, or the rows or the memory for a merge are
    /// not available.
    Stop,
}

fn is_due(index: pg_sys::Oid) -> Result<bool, SqlError> {
    let Some(open) = OpenRelation::try_open(index, INDEX_LOCK) else { return Ok(false) };
    Ok(compact::is_due(open.rel(), settings(open.rel()))?)
}

/// Waits while another session holds an exclusive lock on the index: it may be about to commit the index's creation.
fn await_commit(index: pg_sys::Oid) {
    let start = Instant::now();
    while start.elapsed() < COMMIT_TIMEOUT
        && worker::transaction(|| lock::is_exclusively_locked(index.to_u32()))
    {
        worker::nap(POLL_INTERVAL);
    }
}

/// One transaction of the worker.
fn step(index: pg_sys::Oid) -> Result<WorkerStep, SqlError> {
    // The index may have been dropped, or may not be visible yet.
    let Some(open) = OpenRelation::try_open(index, INDEX_LOCK) else { return Ok(WorkerStep::Stop) };
    let index = open.rel();
    let Some(lock) = lock_for_compaction(index) else { return Ok(WorkerStep::Stop) };
    worker::report(&format!("compacting index \"{}\"", index.name()));
    let mut table = ReleasableTable::under(index, Some(&lock));
    compact::throttle(index, settings(index), &mut table)?;
    if !as_owner(index, || compact::run(index, Goal::Tiers, settings(index), &mut table, &lock))? {
        return Ok(WorkerStep::Stop);
    }
    sweep_cache(index);
    let start = Instant::now();
    while start.elapsed() < failpoint::pause(IDLE_TIMEOUT) {
        if table.must_yield() {
            return Ok(WorkerStep::Stop);
        }
        if compact::is_due(index, settings(index))? {
            return Ok(WorkerStep::MoreWork);
        }
        worker::nap(failpoint::pause(POLL_INTERVAL));
    }
    failpoint::reach("worker.idle");
    Ok(WorkerStep::Idle)
}

/// None if another worker compacts the index. Retries, because a backend that requests a worker holds the lock for a
/// moment.
fn lock_for_compaction(index: Rel) -> Option<IndexLock> {
    const ATTEMPTS: usize = 3;
    for _ in 1..ATTEMPTS {
        if let Some(lock) = IndexLock::try_acquire(index, Purpose::Compaction) {
            return Some(lock);
        }
        worker::nap(POLL_INTERVAL);
    }
    IndexLock::try_acquire(index, Purpose::Compaction)
}

// ---------------------------------------------------------------- access to the table

/// Access to the table of an index that is compacted.
struct ReleasableTable<'a> {
    index: Rel,
    /// The lock whose waiters it yields to, besides waiters for the index; None: never yields.
    yields: Option<&'a IndexLock>,
    looked: Instant,
    // Drop order.
    open: Option<(IndexedTable, ActiveSnapshot, OpenRelation)>,
}

impl<'a> ReleasableTable<'a> {
    fn under(index: Rel, yields: Option<&'a IndexLock>) -> Self {
        ReleasableTable { index, yields, looked: Instant::now(), open: None }
    }
}

impl TableAccess for ReleasableTable<'_> {
    fn has_table(&self) -> bool {
        true
    }

    fn table(&mut self) -> Option<&mut dyn Table> {
        if self.open.is_none() {
            // SAFETY: looks a catalogue row up by its oid.
            let heap = unsafe { pg_sys::IndexGetRelation(self.index.oid(), true) };
            self.open = OpenRelation::try_open(heap, TABLE_LOCK).map(|heap| {
                let snapshot = ActiveSnapshot::latest();
                // SAFETY: the index stays open while `self` lives, and the table is dropped before the other two.
                let table =
                    unsafe { IndexedTable::under_snapshot(heap.rel(), self.index, snapshot.as_ptr()) };
                (table, snapshot, heap)
            });
        }
        let (table, ..) = self.open.as_mut()?;
        Some(table)
    }

    fn release_table(&mut self) {
        self.open = None;
        snapshot::forget_catalogue_snapshot();
    }

    fn must_yield(&mut self) -> bool {
        // Both the check, which takes a lock manager lock, and reopening the table take time.
        if self.looked.elapsed() < POLL_INTERVAL {
            return false;
        }
        self.looked = Instant::now();
        self.release_table();
        pg::take_interrupts();
        self.yields.is_some_and(|lock| lock::has_waiters(self.index) || lock.has_waiters())
    }
}

/// No access to the table, and no yielding.
struct NoTable;

impl TableAccess for NoTable {
    fn has_table(&self) -> bool {
        false
    }

    fn table(&mut self) -> Option<&mut dyn Table> {
        None
    }

    fn release_table(&mut self) {}

    fn must_yield(&mut self) -> bool {
        pg::take_interrupts();
        false
    }
}
