//! The node while it runs.

use std::rc::Rc;

use pgrx::{PgMemoryContexts, pg_sys};

use super::plan::{NAME, length};
use super::shape::{Linear, float8};
use crate::am::expected_rows;
use crate::am::scan::ScanDistances;
use crate::am::{item_pointer, options, plan_hint, search_options};
use crate::engine::{Metric, SearchParams};
use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::search::{Candidates, Cursor, FIRST_ROUND_ROWS, Order, Request};
use crate::pg::bitmap;
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::relation::Rel;
use crate::pg::row_limit::{self, RowLimit};
use crate::pg::snapshot::CallersSnapshot;
use crate::vector::Vector;

/// Rows that are collected first where nobody says how many are wanted.
pub const TYPICAL_ROWS: usize = FIRST_ROUND_ROWS;
/// Candidates that are found in a bitmap and ranked in the time that a search in order of distance takes for each row that it
/// should have to look at. Measured on 115,659 embeddings of 384 dimensions with `HNSW32`: about 1 us and 20 us. As the
/// nearest rows seldom pass as often as any others do, that search is reckoned to look at ten times as many.
const RANKED_PER_LOOK: f64 = 200.0;
/// A search that has looked at so many times the rows that it should have needed gives way to a bitmap.
const PATIENCE: f64 = 2.0;
/// How many more rows a first round asks for than should be looked at: the nearest that pass lie deeper among the nearest
/// than the nearest do.
const SPARE_LOOKS: f64 = 2.0;
/// A search looks at so many rows before it gives way.
const MIN_LOOKS: f64 = 200.0;
/// Rows that are reckoned for a page of which a bitmap has forgotten which it means.
const ROWS_OF_A_LOSSY_PAGE: f64 = 20.0;
/// What a first round asks for on the planner's word, at most.
const MAX_FIRST_ROUND_ROWS: f64 = 1000.0;

/// Whether the nearest `wanted` are found among so many candidates sooner than by looking at the nearest of all `rows`.
pub fn is_worth_a_bitmap(candidates: f64, wanted: f64, rows: f64) -> bool {
    let looked_at = (wanted * rows / candidates.max(1.0)).min(rows);
    candidates <= looked_at * RANKED_PER_LOOK
}

/// PostgreSQL's node, and ours behind it.
#[repr(C)]
struct Node {
    custom: pg_sys::CustomScanState,
    state: *mut State,
}

/// It lives as long as the executor's memory, error or not, so it owns memory, maps and FAISS handles only (invariant 9).
struct State {
    index: pg_sys::Relation,
    metric: Metric,
    query: *mut pg_sys::ExprState,
    radius: Option<(*mut pg_sys::ExprState, Linear)>,
    filter: *mut pg_sys::ExprState,
    /// Whether the filter may be asked once at most for each row.
    is_volatile: bool,
    /// Whether the child has made a bitmap, with the parameters of an earlier scan.
    has_run_child: bool,
    run: Option<Run>,
}

/// A scan with one set of parameters.
struct Run {
    cursor: Cursor,
    query: Option<Vec<f32>>,
    /// Rows that passed, nearest first, of which some have been returned.
    collected: Vec<Row>,
    returned: usize,
    /// Rows to be collected next.
    wanted: usize,
    /// The distance of the last row of the collections before.
    last: f64,
    is_over: bool,
    /// Whether each collection is larger than the one before; else rows come in their final order, one by one.
    grows: bool,
    /// Rows to look at before the search gives way to a bitmap; None: it does not.
    patience: Option<usize>,
    /// Rows that were returned; None: how many will be asked for is known.
    returned_rows: Option<usize>,
}

#[derive(Clone, Copy)]
struct Row {
    distance: f64,
    tid: Tid,
}

static EXECUTE: Methods = Methods(pg_sys::CustomExecMethods {
    CustomName: NAME.as_ptr(),
    BeginCustomScan: Some(begin),
    ExecCustomScan: Some(next_slot),
    EndCustomScan: Some(end),
    ReScanCustomScan: Some(rescan),
    MarkPosCustomScan: None,
    RestrPosCustomScan: None,
    EstimateDSMCustomScan: None,
    InitializeDSMCustomScan: None,
    ReInitializeDSMCustomScan: None,
    InitializeWorkerCustomScan: None,
    ShutdownCustomScan: None,
    ExplainCustomScan: Some(super::explain::explain),
});

#[repr(transparent)]
struct Methods(pg_sys::CustomExecMethods);
// SAFETY: never written; PostgreSQL reads it on the main thread.
unsafe impl Sync for Methods {}

#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn create(_scan: *mut pg_sys::CustomScan) -> *mut pg_sys::Node {
    // SAFETY: zeroed memory of the executor's is a node once it has its tag.
    unsafe {
        let node: *mut Node = pg_sys::palloc0(size_of::<Node>()).cast();
        (*node).custom.ss.ps.type_ = pg_sys::NodeTag::T_CustomScanState;
        (*node).custom.methods = &raw const EXECUTE.0;
        node.cast()
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn begin(
    node: *mut pg_sys::CustomScanState,
    estate: *mut pg_sys::EState,
    flags: i32,
) {
    // SAFETY: `plan_path` made the plan, `create` the node; PostgreSQL has opened the table.
    unsafe {
        let plan: *mut pg_sys::CustomScan = (*node).ss.ps.plan.cast();
        for at in 0..length((*plan).custom_plans) {
            let child =
                pg_sys::ExecInitNode(pg_sys::list_nth((*plan).custom_plans, at).cast(), estate, flags);
            (*node).custom_ps = pg_sys::lappend((*node).custom_ps, child.cast());
        }
        if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 != 0 {
            return;
        }
        use_table_slots(node, estate);
        let index: *mut pg_sys::Integer = pg_sys::list_nth((*plan).custom_private, 0).cast();
        let index = pg_sys::Oid::from((*index).ival.cast_unsigned());
        let entry: *mut pg_sys::RangeTblEntry =
            pg_sys::list_nth((*estate).es_range_table, (*plan).scan.scanrelid as i32 - 1).cast();
        let index = pg_sys::index_open(index, (*entry).rellockmode);
        let expression = |at| pg_sys::list_nth((*plan).custom_exprs, at);
        let parent = &raw mut (*node).ss.ps;
        let compile = |at| pg_sys::ExecInitExpr(expression(at).cast(), parent);
        let radius = (length((*plan).custom_exprs) > 2).then(|| {
            let constant = |at| float8(expression(at).cast()).unwrap_or(f64::NAN);
            (compile(2), Linear { scale: constant(3), offset: constant(4) })
        });
        // While rows are locked, PostgreSQL checks the conditions on their new versions; else they are checked before rows
        // are sorted.
        let filter = if (*estate).es_epq_active.is_null() {
            std::mem::replace(&mut (*node).ss.ps.qual, core::ptr::null_mut())
        } else {
            core::ptr::null_mut()
        };
        let state = State {
            index,
            metric: options::metric(Rel::new(index)).unwrap_or(Metric::L2),
            query: compile(1),
            radius,
            filter,
            is_volatile: pg_sys::contain_volatile_functions((*plan).scan.plan.qual.cast()),
            has_run_child: false,
            run: None,
        };
        let state = PgMemoryContexts::For((*estate).es_query_cxt).leak_and_drop_on_delete(state);
        (*node.cast::<Node>()).state = state;
    }
}

/// PostgreSQL gives custom scans slots for rows that they make; this one fetches rows of the table. So what PostgreSQL
/// has set up for the one kind of slot is set up again for the other.
///
/// # Safety
/// The node is being initialised.
unsafe fn use_table_slots(node: *mut pg_sys::CustomScanState, estate: *mut pg_sys::EState) {
    // SAFETY: as `ExecInitCustomScan` of executor/nodeCustom.c does.
    unsafe {
        let scan = &raw mut (*node).ss;
        let table = (*scan).ss_currentRelation;
        let callbacks = pg_sys::table_slot_callbacks(table);
        pg_sys::ExecInitScanTupleSlot(estate, scan, (*table).rd_att, callbacks);
        pg_sys::ExecAssignScanProjectionInfo(scan);
        (*scan).ps.qual = pg_sys::ExecInitQual((*(*scan).ps.plan).qual, &raw mut (*scan).ps);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn next_slot(node: *mut pg_sys::CustomScanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: an initialised node.
    unsafe { pg_sys::ExecScan(&raw mut (*node).ss, Some(next_row), Some(recheck)) }
}

/// Of a row's new version PostgreSQL checks all conditions anyway.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn recheck(
    _node: *mut pg_sys::ScanState,
    _slot: *mut pg_sys::TupleTableSlot,
) -> bool {
    true
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn next_row(scan: *mut pg_sys::ScanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the state is this node's own, and nobody else uses it during the call.
    let (node, state) = unsafe { (scan.cast::<Node>(), &mut *(*scan.cast::<Node>()).state) };
    // SAFETY: an initialised node.
    let executor = unsafe { Executor::of(node, state) };
    if state.run.is_none() {
        // SAFETY: as above.
        state.run = Some(unsafe { start(node, state, false) }.or_raise());
    }
    while let Some(run) = state.run.as_mut() {
        if let Some(row) = run.collected.get(run.returned).copied() {
            run.returned += 1;
            // The version that was looked at before: the snapshot is the same.
            // SAFETY: the slot is the node's own.
            if unsafe { executor.fetch_one(row.tid) } {
                if let Some(rows) = &mut run.returned_rows {
                    *rows += 1;
                }
                return executor.slot;
            }
            continue;
        }
        if run.is_over {
            break;
        }
        // SAFETY: as above.
        let is_patient = unsafe { executor.collect(run) }.or_raise();
        if !is_patient {
            // SAFETY: as above.
            state.run = Some(unsafe { start(node, state, true) }.or_raise());
        }
    }
    // SAFETY: the slot is the node's own.
    unsafe { pg_sys::ExecClearTuple(executor.slot) }
}

/// # Safety
/// An initialised node.
unsafe fn start(node: *mut Node, state: &mut State, gave_up: bool) -> Result<Run, SqlError> {
    // SAFETY: the caller's promise; expressions are evaluated in the memory of a row.
    unsafe {
        // SAFETY: open until the node ends.
        let index = Rel::new(state.index);
        let context = (*node).custom.ss.ps.ps_ExprContext;
        pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
        let evaluate = |expression: *mut pg_sys::ExprState| {
            let mut is_null = false;
            let value = pg_sys::ExecEvalExprSwitchContext(expression, context, &mut is_null);
            (!is_null).then_some(value)
        };
        let vector = evaluate(state.query);
        let hinted = vector.and_then(|vector| plan_hint::request(index.oid(), vector));
        let query = vector.map(|vector| Vector::from_datum(vector).as_slice().to_vec());
        let radius = state.radius.map(|(bound, linear)| {
            // A condition that compares with NULL holds for no row.
            let bound = evaluate(bound).map(|value| f64::from_bits(value.value() as u64));
            bound.map_or(f64::MIN, |bound| linear.distance_at(bound))
        });
        let (asked, radius) = match hinted {
            Some(hinted) => (hinted.params, hinted.radius.or(radius)),
            None => (SearchParams::default(), radius),
        };
        let limit = row_limit::of_scan(node.cast_const().cast());
        let rows = index.estimated_rows().max(1.0);
        let estimate = (*(*node).custom.ss.ps.plan).plan_rows.clamp(1.0, rows);
        let wanted = match limit {
            RowLimit::About { rows, .. } => rows.ceil().max(1.0),
            // How many rows are near enough shows only as they come.
            RowLimit::All if radius.is_some() => TYPICAL_ROWS as f64,
            RowLimit::All => estimate,
            RowLimit::Unknown => expected_rows::recent(index.oid()) as f64,
        };
        let bitmap = Bitmap { node, rows, wanted, is_forced: gave_up || limit == RowLimit::All };
        let (candidates, passing) = bitmap.read(state)?;
        let looks = (wanted * rows / passing.unwrap_or(estimate).max(1.0)).min(rows);
        let reads_all = limit == RowLimit::All && radius.is_none();
        let gives_way =
            !(*node).custom.custom_ps.is_null() && !state.has_run_child && !reads_all && !state.is_volatile;
        let searched = match candidates.is_some() {
            true => wanted,
            false => (looks * SPARE_LOOKS).min(wanted.max(MAX_FIRST_ROUND_ROWS)),
        };
        let request = Request {
            candidates: candidates.map(Rc::new),
            radius,
            reads_all,
            // What is collected is sorted.
            order: if reads_all { Order::Strict } else { Order::Relaxed },
            ..Request::of(searched as usize, search_options::effective(index, asked))
        };
        index.count_scan();
        if let Some(snapshot) = CallersSnapshot::get() {
            snapshot.note_index_read(index);
        }
        let exact = Executor::of(node, state).distances(query.as_deref());
        Ok(Run {
            cursor: Cursor::open(index, query.as_deref(), &request, &exact)?,
            query,
            collected: Vec::new(),
            returned: 0,
            wanted: match limit {
                RowLimit::All if reads_all => 1,
                RowLimit::All => usize::MAX,
                _ => wanted as usize,
            },
            last: f64::NEG_INFINITY,
            is_over: false,
            grows: !reads_all,
            patience: gives_way.then(|| (looks * PATIENCE).max(MIN_LOOKS) as usize),
            returned_rows: (limit == RowLimit::Unknown).then_some(0),
        })
    }
}

/// The child of a node, which is a bitmap scan that is not to read the table.
struct Bitmap {
    node: *mut Node,
    /// Of the index.
    rows: f64,
    wanted: f64,
    /// Whether it is read though the planner's estimate speaks against it.
    is_forced: bool,
}

impl Bitmap {
    /// The rows that the table's own indexes name, if it is worth the while to rank them; and how many rows pass, where that
    /// has come out.
    ///
    /// # Safety
    /// The node is initialised.
    unsafe fn read(&self, state: &mut State) -> Result<(Option<Candidates>, Option<f64>), SqlError> {
        // SAFETY: the caller's promise; a bitmap scan's only child makes the bitmap.
        unsafe {
            let children = (*self.node).custom.custom_ps;
            if children.is_null() {
                return Ok((None, None));
            }
            let scan: *mut pg_sys::PlanState = pg_sys::list_nth(children, 0).cast();
            let indexes = (*scan).lefttree;
            let estimate = (*(*indexes).plan).plan_rows;
            if !self.is_forced && !is_worth_a_bitmap(estimate, self.wanted, self.rows) {
                return Ok((None, None));
            }
            if state.has_run_child || !(*scan).chgParam.is_null() {
                pg_sys::ExecReScan(scan);
            }
            state.has_run_child = true;
            let (mut candidates, mut count, mut outcome) =
                (Candidates::default(), 0.0, Ok::<(), IndexError>(()));
            bitmap::read(indexes, &mut |block, offsets| {
                if outcome.is_ok() {
                    outcome = candidates.add_page(block, offsets);
                    count += offsets.map_or(ROWS_OF_A_LOSSY_PAGE, |offsets| offsets.len() as f64);
                }
            });
            outcome?;
            let is_worth = self.is_forced || is_worth_a_bitmap(count, self.wanted, self.rows);
            Ok((is_worth.then_some(candidates), Some(count)))
        }
    }
}

/// The parts of the executor that a node uses to look at rows.
struct Executor {
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    metric: Metric,
    snapshot: pg_sys::Snapshot,
    slot: *mut pg_sys::TupleTableSlot,
    context: *mut pg_sys::ExprContext,
    filter: *mut pg_sys::ExprState,
    instruments: *mut pg_sys::Instrumentation,
}

impl Executor {
    /// # Safety
    /// The node is initialised.
    unsafe fn of(node: *mut Node, state: &State) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let scan = &(*node).custom.ss;
            Executor {
                table: scan.ss_currentRelation,
                index: state.index,
                metric: state.metric,
                snapshot: (*scan.ps.state).es_snapshot,
                slot: scan.ss_ScanTupleSlot,
                context: scan.ps.ps_ExprContext,
                filter: state.filter,
                instruments: scan.ps.instrument,
            }
        }
    }

    fn distances<'a>(&self, query: Option<&'a [f32]>) -> ScanDistances<'a> {
        // SAFETY: the executor keeps the table and the snapshot, the node its index, for longer than one call lasts.
        unsafe { ScanDistances::new(self.table, self.index, self.snapshot, self.metric, query) }
    }

    /// Collects the rows that are wanted next, sorts them, and leaves out those that should have come before. False: too
    /// many rows did not pass.
    ///
    /// # Safety
    /// The node is initialised, and nobody uses its slot.
    unsafe fn collect(&self, run: &mut Run) -> Result<bool, SqlError> {
        run.collected.clear();
        run.returned = 0;
        let query = run.query.take();
        let mut exact = self.distances(query.as_deref());
        // SAFETY: the table is open; an error's abort ends what is not ended here.
        let fetch = unsafe { pg_sys::table_index_fetch_begin(self.table) };
        let (mut looks, mut is_patient) = (0, true);
        while run.collected.len() < run.wanted && is_patient {
            pgrx::check_for_interrupts!();
            let Some(found) = run.cursor.next(&mut exact)? else {
                run.is_over = true;
                break;
            };
            looks += 1;
            // SAFETY: as above.
            if unsafe { self.fetch(fetch, found.tid) && self.passes() } {
                run.collected.try_reserve(1).map_err(IndexError::from)?;
                run.collected.push(Row { distance: found.distance.0, tid: found.tid });
            } else {
                is_patient = run.patience.is_none_or(|patience| looks < patience);
            }
        }
        // SAFETY: begun above.
        unsafe { pg_sys::table_index_fetch_end(fetch) };
        drop(exact);
        run.query = query;
        // Stable, so rows at the same distance stay in the index's order.
        run.collected.sort_by(|a, b| order(a.distance, b.distance));
        if search_options::order() == Order::Strict {
            let (last, count) = (run.last, run.collected.len());
            run.collected.retain(|row| order(row.distance, last).is_ge());
            if run.collected.len() < count {
                run.cursor.rank_exactly();
            }
        }
        run.last = run.collected.last().map_or(run.last, |row| row.distance);
        if run.grows {
            run.wanted = run.wanted.saturating_mul(2);
            run.patience = None;
        }
        Ok(is_patient)
    }

    /// Puts the version of a row that the snapshot sees into the slot; false if there is none.
    ///
    /// # Safety
    /// `fetch` is a fetch of the table.
    unsafe fn fetch(&self, fetch: *mut pg_sys::IndexFetchTableData, tid: Tid) -> bool {
        let mut pointer = item_pointer(tid);
        let (mut call_again, mut all_dead) = (false, false);
        // SAFETY: the caller's promise.
        unsafe {
            pg_sys::table_index_fetch_tuple(
                fetch,
                &mut pointer,
                self.snapshot,
                self.slot,
                &mut call_again,
                &mut all_dead,
            )
        }
    }

    /// # Safety
    /// As of `collect`.
    unsafe fn fetch_one(&self, tid: Tid) -> bool {
        // SAFETY: the table is open; the slot pins the page of its row itself.
        unsafe {
            let fetch = pg_sys::table_index_fetch_begin(self.table);
            let is_there = self.fetch(fetch, tid);
            pg_sys::table_index_fetch_end(fetch);
            is_there
        }
    }

    /// Whether the row in the slot passes the filter.
    ///
    /// # Safety
    /// The slot holds a row.
    unsafe fn passes(&self) -> bool {
        // SAFETY: the caller's promise; the filter was compiled for this slot and context.
        unsafe {
            if self.filter.is_null() {
                return true;
            }
            pg_sys::MemoryContextReset((*self.context).ecxt_per_tuple_memory);
            (*self.context).ecxt_scantuple = self.slot;
            let passes = pg_sys::ExecQual(self.filter, self.context);
            if !passes && !self.instruments.is_null() {
                (*self.instruments).nfiltered1 += 1.0;
            }
            passes
        }
    }
}

/// Of distances: NaN last, as PostgreSQL has it.
fn order(a: f64, b: f64) -> std::cmp::Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn rescan(node: *mut pg_sys::CustomScanState) {
    // SAFETY: an initialised node; the state is its own.
    unsafe {
        end_run(&mut *(*node.cast::<Node>()).state);
        for at in 0..length((*node).custom_ps) {
            let child: *mut pg_sys::PlanState = pg_sys::list_nth((*node).custom_ps, at).cast();
            if !(*node).ss.ps.chgParam.is_null() {
                pg_sys::UpdateChangedParamSet(child, (*node).ss.ps.chgParam);
            }
        }
        pg_sys::ExecScanReScan(&raw mut (*node).ss);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn end(node: *mut pg_sys::CustomScanState) {
    // SAFETY: an initialised node, or one that was only made for EXPLAIN.
    unsafe {
        for at in 0..length((*node).custom_ps) {
            pg_sys::ExecEndNode(pg_sys::list_nth((*node).custom_ps, at).cast());
        }
        if let Some(state) = (*node.cast::<Node>()).state.as_mut() {
            end_run(state);
            pg_sys::index_close(state.index, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
    }
}

/// # Safety
/// The index is open.
unsafe fn end_run(state: &mut State) {
    if let Some(rows) = state.run.take().and_then(|run| run.returned_rows) {
        // SAFETY: the caller's promise.
        expected_rows::remember(unsafe { Rel::new(state.index) }.oid(), rows);
    }
}
