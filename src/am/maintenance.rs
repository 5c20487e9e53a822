//! Who seals and compacts an index, and when.
//!
//! An insert that makes the delta too large asks for a background worker, and seals one small segment by itself where
//! none keeps up with it, or where none can see the index yet: then a worker is asked for at the commit. VACUUM seals, and asks
//! for a worker to merge. `vekter_compact()` does everything at once.

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
use crate::index::compact::plan::Effort;
use crate::index::compact::{self, Settings, seal};
use crate::index::error::IndexError;
use crate::index::table::{Surroundings, Table};
use crate::index::train::Resources;
use crate::index::vacuum;
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::lock::{self, IndexLock, Purpose};
use crate::pg::owner::as_owner;
use crate::pg::relation::{OpenRelation, Rel};
use crate::pg::snapshot::{self, ActiveSnapshot};
use crate::pg::transaction::{self, Moment};
use crate::pg::{self, subtransaction, worker};

/// How many times larger than its limit the delta is when inserts begin to seal it themselves.
const SELF_SEALING_GROWTH: u64 = 4;
/// A backend asks for a worker for an index at most so often.
const REQUEST_PAUSE: Duration = Duration::from_secs(1);
/// A backend whose own sealing failed leaves it alone for so long.
const FAILURE_PAUSE: Duration = Duration::from_secs(10);
/// How long a worker waits for more to do, and how often it looks for that and for others who wait.
const LINGER: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
/// How long a worker waits for the commit of who asked for it.
const COMMIT_PATIENCE: Duration = Duration::from_secs(10);
/// Rows are handed to FAISS in batches of so many bytes, between which the delta is sealed.
const BATCH_BYTES: usize = 16 << 20;
/// Compaction keeps its index from being changed by others than readers, writers and VACUUM, and can tell if somebody
/// waits for that. The table it locks for `LOOK` at a time, if it must be asked for rows, and never waits for it.
pub const INDEX_LOCK: u32 = pg_sys::ShareUpdateExclusiveLock;
const TABLE_LOCK: u32 = pg_sys::AccessShareLock;

/// The worker's name in pg_stat_activity, and its main function (below).
const WORKER_NAME: &str = "vekter compactor";
const WORKER_MAIN: &str = "vekter_compactor_main";

fn settings(index: Rel) -> Settings {
    // SAFETY: a plain read of a setting.
    let workers = unsafe { pg_sys::max_parallel_maintenance_workers };
    Settings {
        resources: Resources {
            threads: workers.max(1) as usize,
            batch_bytes: BATCH_BYTES,
            work_bytes: None,
            cache_bytes: cache_bytes(),
        },
        delta_limit_bytes: options::delta_limit_bytes(index),
        recall: options::recall(index).unwrap_or(DEFAULT_RECALL),
    }
}

/// An insert has made the delta grow to so many bytes.
pub fn after_growth(index: Rel, delta_bytes: u64) -> Result<(), SqlError> {
    let limit = options::delta_limit_bytes(index);
    if delta_bytes <= limit {
        return Ok(());
    }
    let has_helper = guc::background_compaction() && !index.is_temporary();
    if has_helper && index.is_uncommitted() {
        transaction::at(Moment::BeforeCommit, request_workers);
        transaction::at(Moment::End, forget_unseen);
        UNSEEN.with_borrow_mut(|unseen| unseen.insert(index.oid().to_u32()));
    }
    let has_help = has_helper && !index.is_uncommitted();
    if has_help && is_time_to(Step::Ask, index) {
        mark(Step::Ask, index);
        request_worker(index);
    }
    let is_own_turn = !has_help || delta_bytes > limit.saturating_mul(SELF_SEALING_GROWTH);
    if is_own_turn && is_time_to(Step::Seal, index) {
        upkeep(index, "seal", || seal::try_one(index))?;
    }
    Ok(())
}

/// The last thing that VACUUM does with an index.
pub fn after_vacuum(index: Rel) -> Result<(), SqlError> {
    let settings = settings(index);
    let is_sealed = upkeep(index, "seal", || seal::down_to(index, settings.delta_limit_bytes))?;
    if !is_sealed || !compact::is_due(index, settings)? {
        return Ok(());
    }
    if guc::background_compaction() && !index.is_temporary() && request_worker(index) {
        return Ok(());
    }
    // VACUUM's own snapshot keeps nothing from being removed, so the table cannot be asked for rows.
    if let Some(lock) = IndexLock::try_acquire(index, Purpose::Compaction) {
        let run = || compact::run(index, Effort::Tiers, settings, &mut Bystander, &lock);
        upkeep(index, "compact", || run().map(drop))?;
    }
    Ok(())
}

/// Does work that a statement does beside its own: if it fails, then unless the index is damaged, the statement goes on,
/// and the work is left alone for some time. Returns whether it was done.
fn upkeep(index: Rel, what: &str, work: impl FnOnce() -> Result<(), IndexError>) -> Result<bool, SqlError> {
    let reason = match subtransaction::contain(work) {
        Ok(Ok(())) => return Ok(true),
        Ok(Err(error)) if error.is_damage() => return Err(error.into()),
        Ok(Err(error)) => SqlError::from(error),
        Err(error) => error,
    };
    mark(Step::Seal, index);
    let warning =
        SqlError::new(reason.code, format!("could not {what} index \"{}\" by the way", index.name()));
    let detail =
        reason.detail.map_or(reason.message.clone(), |detail| format!("{}: {detail}", reason.message));
    let warning = warning.detail(detail);
    match reason.hint {
        Some(hint) => warning.hint(hint).warn(),
        None => warning.warn(),
    }
    Ok(false)
}

/// An index that `vekter_compact()` has locked against all who compact or change it.
pub struct IndexToCompact {
    // In this order they are dropped.
    _unchanged: OpenRelation,
    lock: IndexLock,
    index: OpenRelation,
}

impl IndexToCompact {
    /// Waits only for those who never wait for the caller's snapshot: other compaction, under a lock that holds up nobody
    /// else. REINDEX CONCURRENTLY and its like, who hold `INDEX_LOCK` and wait for snapshots, would never get on.
    pub fn lock(index: pg_sys::Oid) -> Result<Self, SqlError> {
        let index = OpenRelation::index(index)?;
        let lock = IndexLock::acquire(index.rel(), Purpose::Compaction);
        let start = Instant::now();
        loop {
            if let Some(unchanged) = OpenRelation::try_open(index.rel().oid(), INDEX_LOCK) {
                return Ok(IndexToCompact { _unchanged: unchanged, lock, index });
            }
            // A worker that has just started holds it until it finds the compaction lock taken.
            if start.elapsed() > LINGER {
                let message = format!("could not lock index \"{}\" for compaction", index.rel().name());
                return Err(SqlError::new(Code::ERRCODE_LOCK_NOT_AVAILABLE, message)
                    .detail("Another session rebuilds or changes the index, as REINDEX CONCURRENTLY does.")
                    .hint("Call vekter_compact() again when that session has finished."));
            }
            worker::nap(LOOK);
        }
    }
}

/// `vekter_compact()`: one segment without dead rows.
pub fn compact_everything(IndexToCompact { index, lock, .. }: &IndexToCompact) -> Result<(), SqlError> {
    let index = index.rel();
    let mut table = LentTable::under(index, None);
    if !as_owner(index, || compact::run(index, Effort::Everything, settings(index), &mut table, lock))? {
        let message = format!("index \"{}\" was not merged into one segment", index.name());
        SqlError::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .detail("There are rows that neither the index nor the table could give.")
            .hint("Run VACUUM on the table, and call vekter_compact() again.")
            .warn();
    }
    sweep_cache(index);
    Ok(())
}

/// Removes cache files that are of no use to anybody.
pub fn sweep_cache(index: Rel) {
    vacuum::sweep_cache(index).or_raise();
}

// ---------------------------------------------------------------- the worker

/// What a backend does for an index only so often.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// Asking for a worker.
    Ask,
    /// Sealing by itself, after that has failed.
    Seal,
}

impl Step {
    fn pause(self) -> Duration {
        match self {
            Step::Ask => failpoint::pause(REQUEST_PAUSE),
            Step::Seal => FAILURE_PAUSE,
        }
    }
}

thread_local! {
    static MARKED: RefCell<HashMap<(Step, u32), Instant>> = RefCell::default();
}

/// Whether the pause since the last mark is over.
fn is_time_to(step: Step, index: Rel) -> bool {
    MARKED.with_borrow_mut(|marked| {
        marked.retain(|(step, _), when| when.elapsed() < step.pause());
        !marked.contains_key(&(step, index.oid().to_u32()))
    })
}

fn mark(step: Step, index: Rel) {
    MARKED.with_borrow_mut(|marked| marked.insert((step, index.oid().to_u32()), Instant::now()));
}

/// True if a worker is on its way or at work.
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
    /// Indexes that grew in the transaction that made them.
    static UNSEEN: RefCell<HashSet<u32>> = RefCell::default();
}

/// Asks for workers that will see the index as soon as this transaction has committed. One that it has dropped again, they
/// do not find.
fn request_workers() {
    for index in UNSEEN.take() {
        request_worker_for(index);
    }
}

fn forget_unseen() {
    UNSEEN.take();
}

/// The background worker: compacts one index until there is nothing left to do, and some time longer.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn vekter_compactor_main(argument: pg_sys::Datum) {
    let argument = argument.value() as u64;
    worker::connect(pg_sys::Oid::from((argument >> 32) as u32));
    engine::work_in_background();
    let index = pg_sys::Oid::from(argument as u32);
    await_commit(index);
    while worker::transaction(|| round(index).or_raise()) {}
}

/// Waits while somebody has the index to himself: who asked for this worker may be about to commit it.
fn await_commit(index: pg_sys::Oid) {
    let start = Instant::now();
    while start.elapsed() < COMMIT_PATIENCE
        && worker::transaction(|| lock::is_exclusively_locked(index.to_u32()))
    {
        worker::nap(LOOK);
    }
}

/// One transaction of the worker. True: there is more to do.
fn round(index: pg_sys::Oid) -> Result<bool, SqlError> {
    // It may be gone by now, or not yet visible.
    let Some(open) = OpenRelation::try_open(index, INDEX_LOCK) else { return Ok(false) };
    let index = open.rel();
    let Some(lock) = lock_for_compaction(index) else { return Ok(false) };
    worker::report(&format!("compacting index \"{}\"", index.name()));
    let mut table = LentTable::under(index, Some(&lock));
    compact::await_calm(index, settings(index), &mut table)?;
    if !as_owner(index, || compact::run(index, Effort::Tiers, settings(index), &mut table, &lock))? {
        return Ok(false);
    }
    sweep_cache(index);
    let start = Instant::now();
    while start.elapsed() < failpoint::pause(LINGER) && !table.must_yield() {
        if compact::is_due(index, settings(index))? {
            return Ok(true);
        }
        worker::nap(failpoint::pause(LOOK));
    }
    Ok(false)
}

/// None if another worker is at it. Those who ask for one take the lock for a moment, to see.
fn lock_for_compaction(index: Rel) -> Option<IndexLock> {
    const ATTEMPTS: usize = 3;
    for _ in 1..ATTEMPTS {
        if let Some(lock) = IndexLock::try_acquire(index, Purpose::Compaction) {
            return Some(lock);
        }
        worker::nap(LOOK);
    }
    IndexLock::try_acquire(index, Purpose::Compaction)
}

// ---------------------------------------------------------------- surroundings

/// The table under an index that is compacted.
struct LentTable<'a> {
    index: Rel,
    /// Gives way to who waits for the index or for this lock; None: to nobody.
    yields: Option<&'a IndexLock>,
    looked: Instant,
    // In this order they are dropped.
    open: Option<(IndexedTable, ActiveSnapshot, OpenRelation)>,
}

impl<'a> LentTable<'a> {
    fn under(index: Rel, yields: Option<&'a IndexLock>) -> Self {
        LentTable { index, yields, looked: Instant::now(), open: None }
    }
}

impl Surroundings for LentTable<'_> {
    fn knows_table(&self) -> bool {
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

    fn leave_table(&mut self) {
        self.open = None;
        snapshot::forget_catalogue_snapshot();
    }

    fn must_yield(&mut self) -> bool {
        // The question takes a lock of the lock manager's, and the table takes time to open.
        if self.looked.elapsed() < LOOK {
            return false;
        }
        self.looked = Instant::now();
        self.leave_table();
        pg::take_interrupts();
        self.yields.is_some_and(|lock| lock::has_waiters(self.index) || lock.has_waiters())
    }
}

/// No table to ask, and nobody who waits.
struct Bystander;

impl Surroundings for Bystander {
    fn knows_table(&self) -> bool {
        false
    }

    fn table(&mut self) -> Option<&mut dyn Table> {
        None
    }

    fn leave_table(&mut self) {}

    fn must_yield(&mut self) -> bool {
        pg::take_interrupts();
        false
    }
}
