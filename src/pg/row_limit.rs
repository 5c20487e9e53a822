//! How many rows the executor will take from a scan that returns them in order.
//!
//! An index scan is not told the LIMIT above it. When a query starts, a hook looks through its plan for scans with an order,
//! and keeps for each the Limit node whose rows pass through to it, and in what proportion. Limit has computed its values
//! before it asks for the first row, so the scan reads them when it begins: constants, parameters and expressions alike.
//!
//! What is kept belongs to the query: it goes with the memory context of its executor. Where the hook does not see through
//! a plan (or another extension's hook keeps it from running), nothing is known of a scan, which is never wrong.

use std::cell::RefCell;
use std::ffi::c_void;

use pgrx::pg_sys::{self, NodeTag, PlanState};

use super::list::elements;

/// What is known of the rows that will be taken from a scan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RowLimit {
    Unknown,
    /// Every row of the scan.
    All,
    /// The first rows, about so many.
    About {
        rows: f64,
        /// Of the scan's rows before and after its filter, by the planner's estimate; None: it has no filter.
        filtered_rows: Option<f64>,
    },
}

/// Where a scan's limit comes from.
#[derive(Clone, Copy)]
enum Source {
    Unknown,
    /// Whatever runs the query takes the rows as they come.
    Query,
    All,
    /// A number of rows times a factor, by the planner's estimates of what stands between.
    Limit {
        node: *mut pg_sys::LimitState,
        factor: f64,
    },
    /// As many as a run condition lets through.
    Fixed {
        rows: f64,
        factor: f64,
    },
}

struct Scan {
    /// An index scan's order-by keys, which `amrescan` is given; a custom scan's node.
    key: *const c_void,
    node: *mut PlanState,
    source: Source,
}

/// A query that is being executed and has scans with an order.
struct Query {
    state: *mut pg_sys::EState,
    scans: Vec<Scan>,
    run: Run,
}

/// What a run of the executor is to return.
#[derive(Clone, Copy)]
enum Run {
    /// All rows, or some of them while others may ask for more, as of a cursor.
    ToTheEnd,
    /// So many and no more.
    Once { rows: u64 },
}

thread_local! {
    static QUERIES: RefCell<Vec<Query>> = const { RefCell::new(Vec::new()) };
    static NEXT: RefCell<Next> = const { RefCell::new(Next { start: None, run: None }) };
}

/// The hooks that were there before.
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

/// The limit of the scan that is known by `key`: see [`Scan::key`].
pub fn of_scan(key: *const c_void) -> RowLimit {
    QUERIES.with_borrow(|queries| {
        let of_query = |query: &Query| {
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
    unsafe fn limit(&self, run: Run) -> RowLimit {
        let rows = match (self.source, run) {
            (Source::Unknown, _) => return RowLimit::Unknown,
            (Source::All, _) | (Source::Query, Run::ToTheEnd) => return RowLimit::All,
            (Source::Query, Run::Once { rows }) => rows as f64,
            (Source::Fixed { rows, factor }, _) => rows * factor,
            (Source::Limit { node, factor }, _) => {
                // SAFETY: the caller's promise.
                let limit = unsafe { &*node };
                if limit.lstate == pg_sys::LimitStateCond::LIMIT_INITIAL {
                    return RowLimit::Unknown;
                }
                if limit.noCount {
                    return RowLimit::All;
                }
                // WITH TIES takes one row more, to see whether it ties.
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
        set_run(query, if execute_once && count > 0 { Run::Once { rows: count } } else { Run::ToTheEnd });
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
        // Whether there will be another run is not known.
        set_run(query, Run::ToTheEnd);
        match NEXT.with_borrow(|next| next.run) {
            Some(run) => run(query, direction, count),
            None => pg_sys::standard_ExecutorRun(query, direction, count),
        }
    }
}

/// # Safety
/// `query` is one whose executor has started.
unsafe fn set_run(query: *mut pg_sys::QueryDesc, run: Run) {
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
        walk((*query).planstate, Source::Query, &mut scans);
        for subplan in elements((*state).es_subplanstates) {
            walk(subplan, Source::Unknown, &mut scans);
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
        QUERIES.with_borrow_mut(|queries| queries.push(Query { state, scans, run: Run::ToTheEnd }));
    }
}

/// Runs when the executor's memory goes, after an error too.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn forget(state: *mut c_void) {
    // While the process ends, the list may be gone already.
    let _ = QUERIES.try_with(|queries| queries.borrow_mut().retain(|query| query.state.cast() != state));
}

/// Looks for scans with an order at and below `node`, from which its parent takes rows as `source` says.
///
/// # Safety
/// `node` is a valid plan state, or null.
unsafe fn walk(node: *mut PlanState, source: Source, scans: &mut Vec<Scan>) {
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
                    walk(child, Source::Unknown, scans);
                }
            }
            NodeTag::T_LimitState => {
                let below = Source::Limit { node: node.cast(), factor: 1.0 };
                walk((*node).lefttree, below, scans);
            }
            NodeTag::T_ResultState | NodeTag::T_LockRowsState | NodeTag::T_IncrementalSortState => {
                walk((*node).lefttree, source.through(node, (*node).lefttree), scans);
            }
            // They return a row for one row, or fewer.
            NodeTag::T_UniqueState | NodeTag::T_GroupState | NodeTag::T_AggState => {
                let is_sorted = (*node).type_ != NodeTag::T_AggState
                    || (*(*node).plan.cast::<pg_sys::Agg>()).aggstrategy == pg_sys::AggStrategy::AGG_SORTED;
                let below = if is_sorted { source.through(node, (*node).lefttree) } else { Source::All };
                walk((*node).lefttree, below, scans);
            }
            NodeTag::T_WindowAggState => {
                let below = run_condition_rows((*node).plan.cast()).map_or(source, |rows| {
                    // One more shows that the condition holds no longer.
                    Source::Fixed { rows: rows + 1.0, factor: 1.0 }
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
                walk((*node).righttree, Source::Unknown, scans);
            }
            NodeTag::T_SortState | NodeTag::T_HashState | NodeTag::T_ModifyTableState => {
                walk((*node).lefttree, Source::All, scans);
            }
            _ => {
                walk((*node).lefttree, Source::Unknown, scans);
                walk((*node).righttree, Source::Unknown, scans);
            }
        }
    }
}

impl Source {
    /// What a node's child has to return where the node itself has to return so many rows.
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
            Source::Limit { node, factor } => Source::Limit { node, factor: factor * share },
            Source::Fixed { rows, factor } => Source::Fixed { rows, factor: factor * share },
            other => other,
        }
    }
}

/// Rows that a window function's run condition lets through, where it compares with a constant: `row_number() OVER (...) <=
/// 20`. A rank lets more through where rows tie.
///
/// # Safety
/// A valid plan node.
unsafe fn run_condition_rows(plan: *mut pg_sys::WindowAgg) -> Option<f64> {
    // SAFETY: a run condition is a list of expressions; the tag says what each is, and an integer constant holds its value.
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
