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

use pgrx::pg_sys::{self, NodeTag, PlanState};

use super::list::elements;

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
        node: *mut pg_sys::LimitState,
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
    node: *mut PlanState,
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

/// The previously installed hooks.
#[derive(Clone, Copy)]
struct Next {
    start: pg_sys::ExecutorStart_hook_type,
    run: pg_sys::ExecutorRun_hook_type,
}

/// Installs the hooks, in `_PG_init`.
pub fn initialise() {
    // SAFETY: on the main thread, while the library is loaded; what was there is called from the hooks.
    unsafe {
        NEXT.set(Next { start: pg_sys::ExecutorStart_hook, run: pg_sys::ExecutorRun_hook });
        pg_sys::ExecutorStart_hook = Some(executor_start);
        pg_sys::ExecutorRun_hook = Some(executor_run);
    }
}

/// The limit of the scan with this `key`: see [`Scan::key`].
pub fn of_scan(key: *const c_void) -> RowLimit {
    QUERIES.with_borrow(|queries| {
        let of_query = |query: &RunningQuery| {
            let scan = query.scans.iter().find(|scan| scan.key == key)?;
            // SAFETY: nodes live as long as the executor's memory, with which the query leaves the list.
            Some(unsafe { scan.limit(query.run) })
        };
        queries.iter().rev().find_map(of_query).unwrap_or(RowLimit::Unknown)
    })
}

impl Scan {
    /// # Safety
    /// The nodes are alive.
    unsafe fn limit(&self, run: ExecutorRun) -> RowLimit {
        let rows = match (self.source, run) {
            (LimitSource::Unknown, _) => return RowLimit::Unknown,
            (LimitSource::All, _) | (LimitSource::Query, ExecutorRun::ToTheEnd) => return RowLimit::All,
            (LimitSource::Query, ExecutorRun::Once { rows }) => rows as f64,
            (LimitSource::Fixed { rows, factor }, _) => rows * factor,
            (LimitSource::Limit { node, factor }, _) => {
                // SAFETY: the caller's promise.
                let limit = unsafe { &*node };
                if limit.lstate == pg_sys::LimitStateCond::LIMIT_INITIAL {
                    return RowLimit::Unknown;
                }
                if limit.noCount {
                    return RowLimit::All;
                }
                // WITH TIES reads one more row to see whether it ties.
                let ties = limit.limitOption == pg_sys::LimitOption::LIMIT_OPTION_WITH_TIES;
                (limit.count.saturating_add(limit.offset) as f64 + f64::from(u8::from(ties))) * factor
            }
        };
        // SAFETY: as above; a plan node's estimate is a number.
        let filtered_rows =
            unsafe { (!(*self.node).qual.is_null()).then(|| (*(*self.node).plan).plan_rows.max(1.0)) };
        RowLimit::About { rows, filtered_rows }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    // SAFETY: PostgreSQL's own arguments, passed on; the plan state exists once the executor has started.
    unsafe {
        match NEXT.with_borrow(|next| next.start) {
            Some(start) => start(query, flags),
            None => pg_sys::standard_ExecutorStart(query, flags),
        }
        if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 == 0 {
            remember(query);
        }
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
    // SAFETY: PostgreSQL's own arguments, passed on.
    unsafe {
        set_run(
            query,
            if execute_once && count > 0 { ExecutorRun::Once { rows: count } } else { ExecutorRun::ToTheEnd },
        );
        match NEXT.with_borrow(|next| next.run) {
            Some(run) => run(query, direction, count, execute_once),
            None => pg_sys::standard_ExecutorRun(query, direction, count, execute_once),
        }
    }
}

#[cfg(feature = "pg18")]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) {
    // SAFETY: PostgreSQL's own arguments, passed on.
    unsafe {
        // There may be another run.
        set_run(query, ExecutorRun::ToTheEnd);
        match NEXT.with_borrow(|next| next.run) {
            Some(run) => run(query, direction, count),
            None => pg_sys::standard_ExecutorRun(query, direction, count),
        }
    }
}

/// # Safety
/// `query` is one whose executor has started.
unsafe fn set_run(query: *mut pg_sys::QueryDesc, run: ExecutorRun) {
    // SAFETY: the caller's promise.
    let state = unsafe { (*query).estate };
    QUERIES.with_borrow_mut(|queries| {
        if let Some(query) = queries.iter_mut().find(|query| query.state == state) {
            query.run = run;
        }
    });
}

/// # Safety
/// The executor of `query` has just started.
unsafe fn remember(query: *mut pg_sys::QueryDesc) {
    let mut scans = Vec::new();
    // SAFETY: plan states are valid nodes of the type that their tags say; the list holds plan states or nulls.
    unsafe {
        let state = (*query).estate;
        walk((*query).planstate, LimitSource::Query, &mut scans);
        for subplan in elements((*state).es_subplanstates) {
            walk(subplan, LimitSource::Unknown, &mut scans);
        }
        if scans.is_empty() {
            return;
        }
        let context = (*state).es_query_cxt;
        let callback: *mut pg_sys::MemoryContextCallback =
            pg_sys::MemoryContextAlloc(context, size_of::<pg_sys::MemoryContextCallback>()).cast();
        (*callback).func = Some(forget);
        (*callback).arg = state.cast();
        pg_sys::MemoryContextRegisterResetCallback(context, callback);
        QUERIES.with_borrow_mut(|queries| {
            queries.push(RunningQuery { state, scans, run: ExecutorRun::ToTheEnd })
        });
    }
}

/// Runs when the executor's memory context is deleted, also after an error.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn forget(state: *mut c_void) {
    // At process exit, the thread-local list may be gone already.
    let _ = QUERIES.try_with(|queries| queries.borrow_mut().retain(|query| query.state.cast() != state));
}

/// Collects the ordered scans at and below `node`, whose parent takes rows from it as `source` says.
///
/// # Safety
/// `node` is a valid plan state, or null.
unsafe fn walk(node: *mut PlanState, source: LimitSource, scans: &mut Vec<Scan>) {
    if node.is_null() {
        return;
    }
    // SAFETY: the tag says what the node is; the caller's promise for what it points to.
    unsafe {
        match (*node).type_ {
            NodeTag::T_IndexScanState => {
                let scan: *mut pg_sys::IndexScanState = node.cast();
                if (*scan).iss_NumOrderByKeys > 0 {
                    scans.push(Scan { key: (*scan).iss_OrderByKeys.cast(), node, source });
                }
            }
            NodeTag::T_CustomScanState => {
                scans.push(Scan { key: node.cast(), node, source });
                for child in elements((*node.cast::<pg_sys::CustomScanState>()).custom_ps) {
                    walk(child, LimitSource::Unknown, scans);
                }
            }
            NodeTag::T_LimitState => {
                let below = LimitSource::Limit { node: node.cast(), factor: 1.0 };
                walk((*node).lefttree, below, scans);
            }
            NodeTag::T_ResultState | NodeTag::T_LockRowsState | NodeTag::T_IncrementalSortState => {
                walk((*node).lefttree, source.through(node, (*node).lefttree), scans);
            }
            // They return at most one row for each input row.
            NodeTag::T_UniqueState | NodeTag::T_GroupState | NodeTag::T_AggState => {
                let is_sorted = (*node).type_ != NodeTag::T_AggState
                    || (*(*node).plan.cast::<pg_sys::Agg>()).aggstrategy == pg_sys::AggStrategy::AGG_SORTED;
                let below = if is_sorted { source.through(node, (*node).lefttree) } else { LimitSource::All };
                walk((*node).lefttree, below, scans);
            }
            NodeTag::T_WindowAggState => {
                let below = run_condition_rows((*node).plan.cast()).map_or(source, |rows| {
                    // One more row shows that the condition does not hold any longer.
                    LimitSource::Fixed { rows: rows + 1.0, factor: 1.0 }
                });
                walk((*node).lefttree, below, scans);
            }
            NodeTag::T_SubqueryScanState => {
                let below = (*node.cast::<pg_sys::SubqueryScanState>()).subplan;
                walk(below, source.through(node, below), scans);
            }
            NodeTag::T_AppendState => {
                let append: *mut pg_sys::AppendState = node.cast();
                for at in 0..(*append).as_nplans as usize {
                    walk(*(*append).appendplans.add(at), source, scans);
                }
            }
            NodeTag::T_MergeAppendState => {
                let append: *mut pg_sys::MergeAppendState = node.cast();
                for at in 0..(*append).ms_nplans as usize {
                    walk(*(*append).mergeplans.add(at), source, scans);
                }
            }
            NodeTag::T_NestLoopState => {
                walk((*node).lefttree, source.through(node, (*node).lefttree), scans);
                walk((*node).righttree, LimitSource::Unknown, scans);
            }
            NodeTag::T_SortState | NodeTag::T_HashState | NodeTag::T_ModifyTableState => {
                walk((*node).lefttree, LimitSource::All, scans);
            }
            _ => {
                walk((*node).lefttree, LimitSource::Unknown, scans);
                walk((*node).righttree, LimitSource::Unknown, scans);
            }
        }
    }
}

impl LimitSource {
    /// The limit of a node's child, given the limit of the node.
    ///
    /// # Safety
    /// Both are valid plan states, or `child` is null.
    unsafe fn through(self, node: *mut PlanState, child: *mut PlanState) -> Self {
        if child.is_null() {
            return self;
        }
        // SAFETY: the caller's promise.
        let (above, below) = unsafe { ((*(*node).plan).plan_rows, (*(*child).plan).plan_rows) };
        let share = (below / above.max(1.0)).max(1.0);
        match self {
            LimitSource::Limit { node, factor } => LimitSource::Limit { node, factor: factor * share },
            LimitSource::Fixed { rows, factor } => LimitSource::Fixed { rows, factor: factor * share },
            other => other,
        }
    }
}

/// Rows that a window function's run condition lets through, if it compares with a constant: `row_number() OVER (...)
/// <= 20`. A rank lets more through if rows tie.
///
/// # Safety
/// A valid plan node.
unsafe fn run_condition_rows(plan: *mut pg_sys::WindowAgg) -> Option<f64> {
    // SAFETY: a run condition is a list of expressions; the tag is each one's type, and an integer constant holds its
    // value.
    unsafe {
        elements::<pg_sys::OpExpr>((*plan).runCondition)
            .filter(|condition| (**condition).xpr.type_ == NodeTag::T_OpExpr)
            .flat_map(|condition| elements::<pg_sys::Const>((*condition).args))
            .find(|constant| {
                (**constant).xpr.type_ == NodeTag::T_Const
                    && !(**constant).constisnull
                    && matches!((**constant).consttype, pg_sys::INT8OID | pg_sys::INT4OID)
            })
            .map(|constant| ((*constant).constvalue.value() as i64).max(0) as f64)
    }
}
