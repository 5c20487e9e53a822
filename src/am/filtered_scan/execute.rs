//! The callbacks of the node while it runs (nodes/extensible.h).

use std::rc::Rc;

use pgrx::{PgMemoryContexts, pg_sys};

use super::distance_expression::{Linear, float8};
use super::plan::{Methods, NAME, index_of, plan_of};
use super::run::{Executor, Run, start};
use crate::am::distance_operator::DistanceOperator;
use crate::am::expected_rows;
use crate::pg::error::OrRaise;
use crate::pg::expression::Expression;
use crate::pg::list::{element, elements, list_of};
use crate::pg::relation::Rel;

/// PostgreSQL's node, and ours behind it.
#[repr(C)]
pub struct Node {
    pub custom: pg_sys::CustomScanState,
    state: *mut State,
}

/// It lives as long as the executor's memory, error or not, so it owns memory, maps and FAISS handles only (invariant
/// 9).
pub struct State {
    pub index: pg_sys::Relation,
    pub operator: Rc<DistanceOperator>,
    pub query: *mut pg_sys::ExprState,
    pub radius: Option<(*mut pg_sys::ExprState, Linear)>,
    pub filter: *mut pg_sys::ExprState,
    /// Whether the filter may be asked once at most for each row.
    pub is_volatile: bool,
    /// Whether the child has made a bitmap, with the parameters of an earlier scan.
    pub has_run_child: bool,
    run: Option<Run>,
}

static EXECUTE: Methods<pg_sys::CustomExecMethods> = Methods(pg_sys::CustomExecMethods {
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

#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn create(_scan: *mut pg_sys::CustomScan) -> *mut pg_sys::Node {
    // SAFETY: raises an error where there is no memory.
    let node: *mut Node = unsafe { pg_sys::palloc0(size_of::<Node>()) }.cast();
    // SAFETY: zeroed memory of that size is a node once it has its tag.
    let custom = unsafe { &mut (*node).custom };
    custom.ss.ps.type_ = pg_sys::NodeTag::T_CustomScanState;
    custom.methods = &raw const EXECUTE.0;
    node.cast()
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn begin(
    node: *mut pg_sys::CustomScanState,
    estate: *mut pg_sys::EState,
    flags: i32,
) {
    // SAFETY: `create` made the node.
    let plan = unsafe { plan_of(node) };
    // SAFETY: a child's plan, for the executor that initialises this node.
    let start = |child| unsafe { pg_sys::ExecInitNode(child, estate, flags) };
    // SAFETY: the list of the children's plans.
    let children = list_of(unsafe { elements(plan.custom_plans) }.map(start));
    // SAFETY: the node is being initialised here.
    unsafe { (*node).custom_ps = children };
    if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 != 0 {
        return;
    }
    // SAFETY: the node is being initialised, and PostgreSQL has opened its table.
    unsafe { use_table_slots(node, estate) };
    // SAFETY: the executor that initialises this node.
    let executor = unsafe { &*estate };
    let index = open_index(plan, executor);
    // SAFETY: the plan's list of expressions.
    let expressions: Vec<Expression> = unsafe { Expression::all(plan.custom_exprs) }.collect();
    let parent: *mut pg_sys::PlanState = node.cast();
    // SAFETY: an expression of the plan, and the node that evaluates it.
    let compile = |at: usize| unsafe { pg_sys::ExecInitExpr(expressions[at].as_ptr().cast(), parent) };
    let radius = (expressions.len() > 2).then(|| {
        let constant = |at: usize| float8(expressions[at]).unwrap_or(f64::NAN);
        (compile(2), Linear { scale: constant(3), offset: constant(4) })
    });
    // While rows are locked, PostgreSQL checks the conditions on their new versions; else they are checked before rows
    // are sorted.
    let filter = match executor.es_epq_active.is_null() {
        // SAFETY: the node is being initialised here.
        true => std::mem::replace(unsafe { &mut (*node).ss.ps.qual }, core::ptr::null_mut()),
        false => core::ptr::null_mut(),
    };
    let state = State {
        index: index.as_ptr(),
        operator: Rc::new(DistanceOperator::of(index)),
        query: compile(1),
        radius,
        filter,
        // SAFETY: the plan's conditions.
        is_volatile: unsafe { pg_sys::contain_volatile_functions(plan.scan.plan.qual.cast()) },
        has_run_child: false,
        run: None,
    };
    let state = PgMemoryContexts::For(executor.es_query_cxt).leak_and_drop_on_delete(state);
    // SAFETY: `create` made the node with a place for it.
    unsafe { (*node.cast::<Node>()).state = state };
}

/// Opens the index that a plan searches, under the lock that the query holds on its table.
fn open_index(plan: &pg_sys::CustomScan, executor: &pg_sys::EState) -> Rel {
    let number = plan.scan.scanrelid as usize;
    // SAFETY: the executor has an entry for each table of the query.
    let entry: *mut pg_sys::RangeTblEntry = unsafe { element(executor.es_range_table, number - 1) };
    // SAFETY: an entry for a table.
    let mode = unsafe { (*entry).rellockmode };
    // SAFETY: an error where it does not exist.
    let index = unsafe { pg_sys::index_open(index_of(plan), mode) };
    // SAFETY: open until the node ends.
    unsafe { Rel::new(index) }
}

/// PostgreSQL gives custom scans slots for rows that they make; this one fetches rows of the table. So what PostgreSQL
/// has set up for the one kind of slot is set up again for the other.
///
/// # Safety
/// The node is being initialised.
unsafe fn use_table_slots(node: *mut pg_sys::CustomScanState, estate: *mut pg_sys::EState) {
    let scan: *mut pg_sys::ScanState = node.cast();
    // SAFETY: the caller's promise.
    let table = unsafe { (*scan).ss_currentRelation };
    // SAFETY: the table is open.
    let rows = unsafe { (*table).rd_att };
    // SAFETY: the table is open.
    let callbacks = unsafe { pg_sys::table_slot_callbacks(table) };
    // SAFETY: as `ExecInitCustomScan` of executor/nodeCustom.c does.
    unsafe { pg_sys::ExecInitScanTupleSlot(estate, scan, rows, callbacks) };
    // SAFETY: the slot was just made.
    unsafe { pg_sys::ExecAssignScanProjectionInfo(scan) };
    // SAFETY: a node of ours.
    let conditions = unsafe { plan_of(node) }.scan.plan.qual;
    // SAFETY: the plan's conditions, and the node that evaluates them.
    let filter = unsafe { pg_sys::ExecInitQual(conditions, node.cast()) };
    // SAFETY: the caller's promise.
    unsafe { (*scan).ps.qual = filter };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn next_slot(node: *mut pg_sys::CustomScanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: an initialised node.
    unsafe { pg_sys::ExecScan(node.cast(), Some(next_row), Some(recheck)) }
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
    let node = scan.cast::<Node>();
    // SAFETY: an initialised node, whose state nobody else uses during the call.
    let Some(state) = (unsafe { state_of(node) }) else {
        pgrx::error!("a scan that was not begun is asked for a row");
    };
    // SAFETY: an initialised node.
    let executor = unsafe { Executor::of(node, state) };
    if state.run.is_none() {
        // SAFETY: an initialised node.
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
        // SAFETY: an initialised node, whose slot is free for the next row.
        let is_within_budget = unsafe { executor.collect(run) }.or_raise();
        if !is_within_budget {
            // SAFETY: an initialised node.
            state.run = Some(unsafe { start(node, state, true) }.or_raise());
        }
    }
    // SAFETY: the slot is the node's own.
    unsafe { pg_sys::ExecClearTuple(executor.slot) }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn rescan(node: *mut pg_sys::CustomScanState) {
    // SAFETY: an initialised node, whose state nobody else uses during the call.
    if let Some(state) = unsafe { state_of(node.cast()) } {
        end_run(state);
    }
    // SAFETY: an initialised node.
    let children = unsafe { (*node).custom_ps };
    // SAFETY: an initialised node.
    let changed = unsafe { (*node).ss.ps.chgParam };
    // SAFETY: the list of the node's children.
    for child in unsafe { elements::<pg_sys::PlanState>(children) } {
        if !changed.is_null() {
            // SAFETY: a child, and the parameters that have changed for this node.
            unsafe { pg_sys::UpdateChangedParamSet(child, changed) };
        }
    }
    // SAFETY: an initialised node.
    unsafe { pg_sys::ExecScanReScan(node.cast()) };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn end(node: *mut pg_sys::CustomScanState) {
    // SAFETY: an initialised node, or one that was only made for EXPLAIN.
    let children = unsafe { (*node).custom_ps };
    // SAFETY: the list of the node's children.
    for child in unsafe { elements(children) } {
        // SAFETY: initialised with the node.
        unsafe { pg_sys::ExecEndNode(child) };
    }
    // SAFETY: a node of ours, whose state nobody else uses during the call.
    if let Some(state) = unsafe { state_of(node.cast()) } {
        end_run(state);
        // SAFETY: opened in `begin`.
        unsafe { pg_sys::index_close(state.index, pg_sys::NoLock as pg_sys::LOCKMODE) };
    }
}

/// None for a node that was only made for EXPLAIN.
///
/// # Safety
/// `node` is one of ours, and no other reference to its state is in use.
unsafe fn state_of<'a>(node: *mut Node) -> Option<&'a mut State> {
    // SAFETY: the caller's promise.
    let state = unsafe { (*node).state };
    // SAFETY: null, or what `begin` put there, which lives as long as the executor's memory.
    unsafe { state.as_mut() }
}

/// The index is open.
fn end_run(state: &mut State) {
    if let Some(rows) = state.run.take().and_then(|run| run.returned_rows) {
        // SAFETY: opened in `begin`, and closed in `end`.
        expected_rows::remember(unsafe { Rel::new(state.index) }.oid(), rows);
    }
}
