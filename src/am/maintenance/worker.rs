//! The background worker that seals and merges one index, and the requests for it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::releasable_table::ReleasableTable;
use super::{IDLE_TIMEOUT, INDEX_LOCK, POLL_INTERVAL, settings, sweep_cache};
use crate::engine;
use crate::failpoint;
use crate::index::compact::{self, plan::Goal};
use crate::index::table::TableAccess;
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::lock::{self, IndexLock, Purpose};
use crate::pg::owner::as_owner;
use crate::pg::relation::{OpenRelation, Rel};
use crate::pg::transaction::{self, Moment};
use crate::pg::worker;

/// How long a worker waits for the transaction that requested it to commit.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The worker's name in pg_stat_activity.
const WORKER_NAME: &str = "vekter compactor";
/// Name of `vekter_compactor_main`, the worker's main function.
const WORKER_MAIN: &str = "vekter_compactor_main";

/// True if a worker is running or has been requested.
pub fn request(index: Rel) -> bool {
    let Some(lock) = IndexLock::try_acquire(index, Purpose::Compaction) else {
        return true;
    };
    drop(lock);
    request_for(index.oid().to_u32())
}

fn request_for(index: u32) -> bool {
    // SAFETY: set at session start.
    let database = unsafe { pg_sys::MyDatabaseId };
    worker::request(WORKER_NAME, WORKER_MAIN, u64::from(database.to_u32()) << 32 | u64::from(index))
}

thread_local! {
    /// Indexes that grew in the transaction that created them.
    static UNCOMMITTED: RefCell<HashSet<u32>> = RefCell::default();
}

/// Requests a worker for an index that this transaction has created, for when others can see it.
pub fn request_at_commit(index: Rel) {
    transaction::at(Moment::BeforeCommit, request_for_uncommitted);
    transaction::at(Moment::End, forget_uncommitted);
    UNCOMMITTED.with_borrow_mut(|uncommitted| uncommitted.insert(index.oid().to_u32()));
}

/// Requests workers just before the commit that makes the indexes visible. If the transaction has dropped an index
/// again, its worker finds nothing and exits.
fn request_for_uncommitted() {
    for index in UNCOMMITTED.take() {
        request_for(index);
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
