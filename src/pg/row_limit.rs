//! The number of rows that the executor will take from an ordered scan.
//!
//! PostgreSQL does not pass the LIMIT to an index scan. When a query starts, a hook searches its plan for ordered
//! scans, and records for each the Limit node above it, and in what proportion rows pass through the nodes between.
//! Limit computes its values before it asks for the first row, so the scan reads them when it begins, whether they are
//! constants, parameters or expressions.
//!
//! The records live as long as the memory context of the query's executor. If the hook does not understand a plan (or
//! another extension's hook keeps it from running), the limit of its scans is unknown, which is always a valid answer.

use std::cell::RefCell;
use std::ffi::c_void;

use pgrx::pg_sys::{self, NodeTag};

use super::callback::{self, Function};
use super::expression::Expression;
use super::list::elements;
use super::plan_node::PlanNode;

/// The rows that will be taken from a scan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RowLimit {
    Unknown,
    /// All rows of the scan.
    All,
    /// The first rows, an estimate.
    About {
        rows: f64,
        /// The scan's rows before and after its filter, estimated by the planner; None: no filter.
        filtered_rows: Option<f64>,
    },
}

/// The origin of a scan's limit.
#[derive(Clone, Copy)]
enum LimitSource {
    Unknown,
    /// The number of rows that the query's caller requests.
    Query,
    All,
    /// A number of rows times a factor: the planner's estimate for the nodes between.
    Limit {
        node: PlanNode,
        factor: f64,
    },
    /// The rows that pass a run condition.
    Fixed {
        rows: f64,
        factor: f64,
    },
}

struct Scan {
    /// The key of a scan: the order-by keys that `amrescan` gets for an index scan, the node of a custom scan.
    key: *const c_void,
    node: PlanNode,
    source: LimitSource,
}

/// An executing query with ordered scans.
struct RunningQuery {
    state: *mut pg_sys::EState,
    scans: Vec<Scan>,
    run: ExecutorRun,
}

/// The number of rows that a run of the executor returns.
#[derive(Clone, Copy)]
enum ExecutorRun {
    /// All rows, or some with the possibility of more, as for a cursor.
    ToTheEnd,
    /// This many, in a single run.
    #[cfg_attr(
        feature = "pg18",
        expect(dead_code, reason = "since 18 a run does not say that it is the only one")
    )]
    Once { rows: u64 },
}

thread_local! {
    static QUERIES: RefCell<Vec<RunningQuery>> = const { RefCell::new(Vec::new()) };
    static NEXT: RefCell<Next> = const { RefCell::new(Next { start: None, run: None }) };
}

// PostgreSQL's own functions, without pgrx's guard: their errors keep all of their fields.
unsafe extern "C-unwind" {
    fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: i32);
    #[cfg(not(feature = "pg18"))]
    fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
        execute_once: bool,
    );
    #[cfg(feature = "pg18")]
    fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
    );
}

/// The previously installed hooks.
#[derive(Clone, Copy)]
struct Next {
    start: pg_sys::ExecutorStart_hook_type,
    run: pg_sys::ExecutorRun_hook_type,
}

/// Installs the hooks, in `_PG_init`.
pub fn initialise() {
    let (start, run) = (&raw mut pg_sys::ExecutorStart_hook, &raw mut pg_sys::ExecutorRun_hook);
    // SAFETY: PostgreSQL's hook, and the library is being loaded.
    let start = unsafe { callback::install(start, executor_start) };
    // SAFETY: PostgreSQL's hook, and the library is being loaded.
    let run = unsafe { callback::install(run, executor_run) };
    NEXT.set(Next { start, run });
}

/// The limit of the scan with this `key`: see [`Scan::key`].
pub fn of_scan(key: *const c_void) -> RowLimit {
    QUERIES.with_borrow(|queries| {
        let of_query = |query: &RunningQuery| {
            let scan = query.scans.iter().find(|scan| scan.key == key)?;
            Some(scan.limit(query.run))
        };
        queries.iter().rev().find_map(of_query).unwrap_or(RowLimit::Unknown)
    })
}

impl Scan {
    fn limit(&self, run: ExecutorRun) -> RowLimit {
        let rows = match (self.source, run) {
            (LimitSource::Unknown, _) => return RowLimit::Unknown,
            (LimitSource::All, _) | (LimitSource::Query, ExecutorRun::ToTheEnd) => return RowLimit::All,
            (LimitSource::Query, ExecutorRun::Once { rows }) => rows as f64,
            (LimitSource::Fixed { rows, factor }, _) => rows * factor,
            (LimitSource::Limit { node, factor }, _) => match node.as_a::<pg_sys::LimitState>() {
                Some(limit) if limit.lstate == pg_sys::LimitStateCond::LIMIT_INITIAL => {
                    return RowLimit::Unknown;
                }
                Some(limit) if limit.noCount => return RowLimit::All,
                Some(limit) => {
                    // WITH TIES reads one more row to see whether it ties.
                    let ties = limit.limitOption == pg_sys::LimitOption::LIMIT_OPTION_WITH_TIES;
                    (limit.count.saturating_add(limit.offset) as f64 + f64::from(u8::from(ties))) * factor
                }
                None => return RowLimit::Unknown,
            },
        };
        let filtered_rows = self.node.has_filter().then(|| self.node.rows().max(1.0));
        RowLimit::About { rows, filtered_rows }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    let next = NEXT.with_borrow(|next| next.start).unwrap_or(standard_ExecutorStart);
    // SAFETY: PostgreSQL's own arguments, passed on; this frame owns nothing.
    unsafe { next.call_next((query, flags)) };
    if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 == 0 {
        // SAFETY: PostgreSQL's own query, whose executor has just started.
        remember(unsafe { &*query });
    }
}

#[cfg(not(feature = "pg18"))]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    execute_once: bool,
) {
    let run =
        if execute_once && count > 0 { ExecutorRun::Once { rows: count } } else { ExecutorRun::ToTheEnd };
    // SAFETY: PostgreSQL's own query, whose executor has started.
    set_run(unsafe { &*query }, run);
    let next = NEXT.with_borrow(|next| next.run).unwrap_or(standard_ExecutorRun);
    // SAFETY: PostgreSQL's own arguments, passed on; this frame owns nothing.
    unsafe { next.call_next((query, direction, count, execute_once)) };
}

#[cfg(feature = "pg18")]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) {
    // There may be another run.
    // SAFETY: PostgreSQL's own query, whose executor has started.
    set_run(unsafe { &*query }, ExecutorRun::ToTheEnd);
    let next = NEXT.with_borrow(|next| next.run).unwrap_or(standard_ExecutorRun);
    // SAFETY: PostgreSQL's own arguments, passed on; this frame owns nothing.
    unsafe { next.call_next((query, direction, count)) };
}

fn set_run(query: &pg_sys::QueryDesc, run: ExecutorRun) {
    QUERIES.with_borrow_mut(|queries| {
        if let Some(known) = queries.iter_mut().find(|known| known.state == query.estate) {
            known.run = run;
        }
    });
}

/// The executor of `query` has just started.
fn remember(query: &pg_sys::QueryDesc) {
    let mut scans = Vec::new();
    // SAFETY: nodes live as long as the executor's memory, with which the query leaves the list (`forget`).
    walk(unsafe { PlanNode::new(query.planstate) }, LimitSource::Query, &mut scans);
    // SAFETY: a started executor has its state.
    let state = unsafe { &*query.estate };
    // SAFETY: the list of the executor's subplans, each a node or null.
    for subplan in unsafe { elements(state.es_subplanstates) } {
        // SAFETY: as long as the executor's memory, like the query's other nodes.
        walk(unsafe { PlanNode::new(subplan) }, LimitSource::Unknown, &mut scans);
    }
    if scans.is_empty() {
        return;
    }
    // SAFETY: the executor's memory, which is there while it runs.
    let room = unsafe { pg_sys::MemoryContextAlloc(state.es_query_cxt, size_of::<Callback>()) };
    let callback: *mut Callback = room.cast();
    let arg = query.estate.cast();
    // SAFETY: room for one, which was just allocated.
    unsafe { callback.write(Callback { func: Some(forget), arg, next: core::ptr::null_mut() }) };
    // SAFETY: the callback lies in the memory whose end it is called at.
    unsafe { pg_sys::MemoryContextRegisterResetCallback(state.es_query_cxt, callback) };
    let query = RunningQuery { state: query.estate, scans, run: ExecutorRun::ToTheEnd };
    QUERIES.with_borrow_mut(|queries| queries.push(query));
}

type Callback = pg_sys::MemoryContextCallback;

/// Runs when the executor's memory context is deleted, also after an error.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn forget(state: *mut c_void) {
    // At process exit, the thread-local list may be gone already.
    let _ = QUERIES.try_with(|queries| queries.borrow_mut().retain(|query| query.state.cast() != state));
}

/// Collects the ordered scans at and below `node`, whose parent takes rows from it as `source` says.
fn walk(node: Option<PlanNode>, source: LimitSource, scans: &mut Vec<Scan>) {
    let Some(node) = node else {
        return;
    };
    match node.tag() {
        NodeTag::T_IndexScanState => {
            let scan = node.as_a::<pg_sys::IndexScanState>();
            if let Some(scan) = scan.filter(|scan| scan.iss_NumOrderByKeys > 0) {
                scans.push(Scan { key: scan.iss_OrderByKeys.cast(), node, source });
            }
        }
        NodeTag::T_CustomScanState => {
            scans.push(Scan { key: node.as_ptr().cast(), node, source });
            node.children().into_iter().for_each(|child| walk(Some(child), LimitSource::Unknown, scans));
        }
        NodeTag::T_LimitState => walk(node.left(), LimitSource::Limit { node, factor: 1.0 }, scans),
        NodeTag::T_ResultState | NodeTag::T_LockRowsState | NodeTag::T_IncrementalSortState => {
            walk(node.left(), source.through(node, node.left()), scans);
        }
        // They return at most one row for each input row.
        NodeTag::T_UniqueState | NodeTag::T_GroupState | NodeTag::T_AggState => {
            let strategy = node.plan_as().map(|plan: &pg_sys::Agg| plan.aggstrategy);
            let is_sorted = strategy.is_none_or(|strategy| strategy == pg_sys::AggStrategy::AGG_SORTED);
            let below = if is_sorted { source.through(node, node.left()) } else { LimitSource::All };
            walk(node.left(), below, scans);
        }
        NodeTag::T_WindowAggState => {
            let below = run_condition_rows(node).map_or(source, |rows| {
                // One more row shows that the condition does not hold any longer.
                LimitSource::Fixed { rows: rows + 1.0, factor: 1.0 }
            });
            walk(node.left(), below, scans);
        }
        NodeTag::T_SubqueryScanState => {
            node.children().into_iter().for_each(|child| {
                walk(Some(child), source.through(node, Some(child)), scans);
            });
        }
        NodeTag::T_AppendState | NodeTag::T_MergeAppendState => {
            node.children().into_iter().for_each(|child| walk(Some(child), source, scans));
        }
        NodeTag::T_NestLoopState => {
            walk(node.left(), source.through(node, node.left()), scans);
            walk(node.right(), LimitSource::Unknown, scans);
        }
        NodeTag::T_SortState | NodeTag::T_HashState | NodeTag::T_ModifyTableState => {
            walk(node.left(), LimitSource::All, scans);
        }
        _ => {
            walk(node.left(), LimitSource::Unknown, scans);
            walk(node.right(), LimitSource::Unknown, scans);
        }
    }
}

impl LimitSource {
    /// The limit of a node's child, given the limit of the node.
    fn through(self, node: PlanNode, child: Option<PlanNode>) -> Self {
        let Some(child) = child else {
            return self;
        };
        let share = (child.rows() / node.rows().max(1.0)).max(1.0);
        match self {
            LimitSource::Limit { node, factor } => LimitSource::Limit { node, factor: factor * share },
            LimitSource::Fixed { rows, factor } => LimitSource::Fixed { rows, factor: factor * share },
            other => other,
        }
    }
}

/// Rows that a window function's run condition lets through, if it compares with a constant: `row_number() OVER (...)
/// <= 20`. A rank lets more through if rows tie.
fn run_condition_rows(node: PlanNode) -> Option<f64> {
    let plan = node.plan_as::<pg_sys::WindowAgg>()?;
    // SAFETY: a list of expressions, which the plan keeps.
    let mut conditions = unsafe { Expression::all(plan.runCondition) };
    let rows = conditions.find_map(|condition| {
        condition.as_a::<pg_sys::OpExpr>()?;
        let integer = |argument: Expression| {
            argument.constant(pg_sys::INT8OID).or_else(|| argument.constant(pg_sys::INT4OID))
        };
        condition.arguments().find_map(integer)
    });
    rows.map(|rows| (rows.value() as i64).max(0) as f64)
}
