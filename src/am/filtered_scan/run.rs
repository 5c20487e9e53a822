//! What the node does with one set of parameters: how it searches, and what it collects.

use std::rc::Rc;

use pgrx::pg_sys;

use super::execute::{Node, State};
use crate::am::distance_operator::DistanceOperator;
use crate::am::expected_rows::{self, MAX_FIRST_ROUND_ROWS};
use crate::am::scan::ScanDistances;
use crate::am::{item_pointer, plan_hint, search_options};
use crate::engine::SearchParams;
use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::search::{Candidates, Cursor, FIRST_ROUND_ROWS, Order, Request};
use crate::pg::bitmap;
use crate::pg::error::SqlError;
use crate::pg::list::elements;
use crate::pg::plan_node::PlanNode;
use crate::pg::relation::Rel;
use crate::pg::row_limit::{self, RowLimit};
use crate::pg::snapshot::CallersSnapshot;

/// Number of bitmap candidates that cost as much as one row of the estimated distance-ordered search. Measured on
/// 115,659 embeddings of 384 dimensions with `HNSW32`: about 1 us per candidate, 20 us per examined row. Times 10,
/// because the nearest rows often pass the filter less often than the average row, so such a search examines more rows
/// than estimated.
const CANDIDATES_PER_EXAMINED_ROW: f64 = 200.0;
/// The search switches to the bitmap after it has examined this multiple of the estimated number of rows.
const SWITCH_FACTOR: f64 = 2.0;
/// Over-fetch of the first round relative to the same estimate, because passing rows are often farther away than
/// average.
const OVER_FETCH: f64 = 2.0;
/// Default recall with a filter; higher than without, because each missed row is one of the few that pass.
const FILTERED_RECALL: f64 = 0.995;
/// Minimum number of rows to examine before the search switches.
const MIN_EXAMINED_ROWS: f64 = 200.0;
/// Estimated candidates on a lossy page of a bitmap, for which it has no row offsets.
const ROWS_OF_A_LOSSY_PAGE: f64 = 20.0;

/// Whether ranking all bitmap candidates is cheaper than examining `rows` in order of distance until `wanted` pass.
pub fn is_worth_a_bitmap(candidates: f64, wanted: f64, rows: f64) -> bool {
    let examined = (wanted * rows / candidates.max(1.0)).min(rows);
    candidates <= examined * CANDIDATES_PER_EXAMINED_ROW
}

/// A scan with one set of parameters.
pub struct Run {
    cursor: Cursor,
    query: Option<Vec<f32>>,
    /// Rows that passed, nearest first, of which some have been returned.
    pub collected: Vec<CollectedRow>,
    pub returned: usize,
    /// Rows to be collected next.
    wanted: usize,
    /// Distance of the last row of the previous batch.
    last: f64,
    pub is_over: bool,
    /// Whether each batch is larger than the previous one; otherwise rows are returned one by one, in their final
    /// order.
    grows: bool,
    /// Number of rows to examine before the search switches to the bitmap; None: it does not switch.
    budget_rows: Option<usize>,
    /// Number of returned rows; counted only if the row limit is unknown.
    pub returned_rows: Option<usize>,
}

#[derive(Clone, Copy)]
pub struct CollectedRow {
    distance: f64,
    pub tid: Tid,
}

/// What a scan is asked for with one set of parameters.
struct Arguments {
    params: SearchParams,
    query: Option<Vec<f32>>,
    radius: Option<f64>,
}

/// # Safety
/// The state is that of a node that evaluates expressions in `context`.
unsafe fn arguments(state: &State, index: Rel, context: *mut pg_sys::ExprContext) -> Arguments {
    // SAFETY: the caller's promise; what the last row has left is not used any more.
    unsafe { reset(context) };
    let evaluate = |expression: *mut pg_sys::ExprState| {
        let mut is_null = false;
        // SAFETY: compiled for this node and context. It is evaluated in the memory of a row.
        let value = unsafe { pg_sys::ExecEvalExprSwitchContext(expression, context, &mut is_null) };
        (!is_null).then_some(value)
    };
    let vector = evaluate(state.query);
    // SAFETY: the expression is of type vector.
    let hinted = vector.and_then(|vector| unsafe { plan_hint::request(index.oid(), vector) });
    // SAFETY: the expression is of the operator's type.
    let query = vector.map(|vector| unsafe { state.operator.kind.read(vector) }.to_vec());
    let radius = state.radius.map(|(bound, linear)| {
        // A condition that compares with NULL holds for no row.
        let bound = evaluate(bound).map(|value| f64::from_bits(value.value() as u64));
        bound.map_or(f64::MIN, |bound| linear.distance_at(bound))
    });
    match hinted {
        Some(hinted) => Arguments { params: hinted.params, query, radius: hinted.radius.or(radius) },
        None => Arguments { params: SearchParams::default(), query, radius },
    }
}

/// # Safety
/// An initialised node.
pub unsafe fn start(node: *mut Node, state: &mut State, must_use_bitmap: bool) -> Result<Run, SqlError> {
    // SAFETY: open until the node ends.
    let index = unsafe { Rel::new(state.index) };
    // SAFETY: the caller's promise.
    let executor = unsafe { Executor::of(node, state) };
    // SAFETY: the node's own state and context.
    let Arguments { params, query, radius } = unsafe { arguments(state, index, executor.context) };
    let limit = row_limit::of_scan(node.cast_const().cast());
    let rows = index.estimated_rows().max(1.0);
    // SAFETY: the caller's promise; a custom scan's state begins with that of any node.
    let estimate = unsafe { PlanNode::new(node.cast()) }.map_or(1.0, PlanNode::rows).clamp(1.0, rows);
    let wanted = match limit {
        RowLimit::About { rows, .. } => rows.ceil().max(1.0),
        // The number of rows within the radius is unknown in advance.
        RowLimit::All if radius.is_some() => FIRST_ROUND_ROWS as f64,
        RowLimit::All => estimate,
        RowLimit::Unknown => expected_rows::recent(index.oid()) as f64,
    };
    // SAFETY: the caller's promise.
    let child = unsafe { child_of(node) };
    let (candidates, passing) = match child {
        Some(scan) => {
            Bitmap { scan, rows, wanted, is_forced: must_use_bitmap || limit == RowLimit::All }.read(state)?
        }
        None => (None, None),
    };
    let examined = (wanted * rows / passing.unwrap_or(estimate).max(1.0)).min(rows);
    let reads_all = limit == RowLimit::All && radius.is_none();
    let can_switch = child.is_some() && !state.has_run_child && !reads_all && !state.is_volatile;
    let searched = match candidates.is_some() {
        true => wanted,
        false => (examined * OVER_FETCH).min(wanted.max(MAX_FIRST_ROUND_ROWS as f64)),
    };
    let mut params = search_options::effective(index, params);
    params.recall = params.recall.or(Some(FILTERED_RECALL));
    let request = Request {
        candidates: candidates.map(Rc::new),
        radius,
        reads_all,
        // Each batch is sorted.
        order: if reads_all { Order::Strict } else { Order::Relaxed },
        ..Request::of(searched as usize, params)
    };
    index.count_scan();
    if let Some(snapshot) = CallersSnapshot::get() {
        snapshot.note_index_read(index);
    }
    let exact = executor.distances(query.as_deref());
    let cursor = Cursor::open(index, query.as_deref(), &request, &exact)?;
    drop(exact);
    Ok(Run {
        cursor,
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
        budget_rows: can_switch.then(|| (examined * SWITCH_FACTOR).max(MIN_EXAMINED_ROWS) as usize),
        returned_rows: (limit == RowLimit::Unknown).then_some(0),
    })
}

/// The bitmap scan below a node, if it has one.
///
/// # Safety
/// An initialised node.
unsafe fn child_of(node: *mut Node) -> Option<PlanNode> {
    // SAFETY: the caller's promise.
    let children = unsafe { (*node).custom.custom_ps };
    // SAFETY: the list of the node's children.
    let child = unsafe { elements(children) }.next()?;
    // SAFETY: initialised with the node.
    unsafe { PlanNode::new(child) }
}

/// The child of a node, which is a bitmap scan that is not to read the table.
struct Bitmap {
    scan: PlanNode,
    /// Of the index.
    rows: f64,
    wanted: f64,
    /// Whether it is read even if ranking its candidates is estimated to be slower.
    is_forced: bool,
}

impl Bitmap {
    /// The candidates from the bitmap, or None if ranking them does not pay; and their number, if the bitmap was read.
    fn read(&self, state: &mut State) -> Result<(Option<Candidates>, Option<f64>), SqlError> {
        let Some(indexes) = self.scan.left() else {
            return Ok((None, None));
        };
        if !self.is_forced && !is_worth_a_bitmap(indexes.rows(), self.wanted, self.rows) {
            return Ok((None, None));
        }
        if state.has_run_child || self.scan.has_changed_parameters() {
            // SAFETY: an initialised node, which does not run.
            unsafe { pg_sys::ExecReScan(self.scan.as_ptr()) };
        }
        state.has_run_child = true;
        let (mut candidates, mut count, mut outcome) = (Candidates::default(), 0.0, Ok::<(), IndexError>(()));
        let visit = &mut |block, offsets: Option<&[u16]>| {
            if outcome.is_ok() {
                outcome = candidates.add_page(block, offsets);
                count += offsets.map_or(ROWS_OF_A_LOSSY_PAGE, |offsets| offsets.len() as f64);
            }
        };
        // SAFETY: a bitmap scan's only child makes the bitmap.
        unsafe { bitmap::read(indexes.as_ptr(), visit) };
        outcome?;
        let is_worth = self.is_forced || is_worth_a_bitmap(count, self.wanted, self.rows);
        Ok((is_worth.then_some(candidates), Some(count)))
    }
}

/// The parts of the executor that a node uses to look at rows.
pub struct Executor {
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    operator: Rc<DistanceOperator>,
    snapshot: pg_sys::Snapshot,
    pub slot: *mut pg_sys::TupleTableSlot,
    context: *mut pg_sys::ExprContext,
    filter: *mut pg_sys::ExprState,
    instruments: *mut pg_sys::Instrumentation,
}

impl Executor {
    /// # Safety
    /// The node is initialised.
    pub unsafe fn of(node: *mut Node, state: &State) -> Self {
        // SAFETY: the caller's promise.
        let scan = unsafe { &(*node).custom.ss };
        // SAFETY: the executor that initialised the node.
        let snapshot = unsafe { (*scan.ps.state).es_snapshot };
        Executor {
            table: scan.ss_currentRelation,
            index: state.index,
            operator: state.operator.clone(),
            snapshot,
            slot: scan.ss_ScanTupleSlot,
            context: scan.ps.ps_ExprContext,
            filter: state.filter,
            instruments: scan.ps.instrument,
        }
    }

    fn distances<'a>(&'a self, query: Option<&'a [f32]>) -> ScanDistances<'a> {
        // SAFETY: the executor keeps the table and the snapshot, the node its index, for longer than one call lasts.
        unsafe { ScanDistances::new(self.table, self.index, self.snapshot, &self.operator, query) }
    }

    /// Collects and sorts the next batch. Under `strict_order`, drops rows nearer than the last row of the previous
    /// batch. False if `budget_rows` rows were examined without filling the batch; the caller then restarts with the
    /// bitmap.
    ///
    /// # Safety
    /// The node is initialised, and nobody uses its slot.
    pub unsafe fn collect(&self, run: &mut Run) -> Result<bool, SqlError> {
        run.collected.clear();
        run.returned = 0;
        let query = run.query.take();
        let mut exact = self.distances(query.as_deref());
        // SAFETY: the table is open; an error's abort ends what is not ended here.
        let fetch = unsafe { pg_sys::table_index_fetch_begin(self.table) };
        let (mut examined, mut is_within_budget) = (0, true);
        while run.collected.len() < run.wanted && is_within_budget {
            pgrx::check_for_interrupts!();
            let Some(found) = run.cursor.next(&mut exact)? else {
                run.is_over = true;
                break;
            };
            examined += 1;
            // SAFETY: a fetch of the table, begun above.
            let is_there = unsafe { self.fetch(fetch, found.tid) };
            // SAFETY: the slot holds the row.
            if is_there && unsafe { self.passes() } {
                run.collected.try_reserve(1).map_err(IndexError::from)?;
                run.collected.push(CollectedRow { distance: found.distance.0, tid: found.tid });
            } else {
                is_within_budget = run.budget_rows.is_none_or(|budget| examined < budget);
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
            run.budget_rows = None;
        }
        Ok(is_within_budget)
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
    pub unsafe fn fetch_one(&self, tid: Tid) -> bool {
        // SAFETY: the table is open.
        let fetch = unsafe { pg_sys::table_index_fetch_begin(self.table) };
        // SAFETY: a fetch of the table.
        let is_there = unsafe { self.fetch(fetch, tid) };
        // SAFETY: begun above; the slot pins the page of its row itself.
        unsafe { pg_sys::table_index_fetch_end(fetch) };
        is_there
    }

    /// Whether the row in the slot passes the filter.
    ///
    /// # Safety
    /// The slot holds a row.
    unsafe fn passes(&self) -> bool {
        if self.filter.is_null() {
            return true;
        }
        // SAFETY: the node's context; what the last row has left is not used any more.
        unsafe { reset(self.context) };
        // SAFETY: the node's context.
        unsafe { (*self.context).ecxt_scantuple = self.slot };
        // SAFETY: the filter was compiled for this slot and context.
        let passes = unsafe { pg_sys::ExecQual(self.filter, self.context) };
        // SAFETY: the node's own, or null.
        let instruments = unsafe { self.instruments.as_mut() };
        if let Some(instruments) = instruments.filter(|_| !passes) {
            instruments.nfiltered1 += 1.0;
        }
        passes
    }
}

/// Frees what expressions have left in the memory of a row.
///
/// # Safety
/// `context` is a node's, and nothing in that memory is used any more.
#[inline]
unsafe fn reset(context: *mut pg_sys::ExprContext) {
    // SAFETY: the caller's promise.
    let memory = unsafe { (*context).ecxt_per_tuple_memory };
    // SAFETY: the caller's promise.
    unsafe { pg_sys::MemoryContextReset(memory) };
}

/// Of distances: NaN last, as PostgreSQL has it.
fn order(a: f64, b: f64) -> std::cmp::Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}
