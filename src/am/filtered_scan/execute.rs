//! The callbacks of the node while it runs (nodes/extensible.h).

use std::rc::Rc;

use pgrx::{PgMemoryContexts, pg_sys};

use super::distance_expression::{Linear, float8};
use super::plan::NAME;
use super::run::{Executor, Run, start};
use crate::am::distance_operator::DistanceOperator;
use crate::am::expected_rows;
use crate::pg::error::OrRaise;
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
        let start = |child| pg_sys::ExecInitNode(child, estate, flags);
        (*node).custom_ps = list_of(elements((*plan).custom_plans).map(start));
        if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 != 0 {
            return;
        }
        use_table_slots(node, estate);
        let index: *mut pg_sys::Integer = element((*plan).custom_private, 0);
        let index = pg_sys::Oid::from((*index).ival.cast_unsigned());
        let entry: *mut pg_sys::RangeTblEntry =
            element((*estate).es_range_table, (*plan).scan.scanrelid as usize - 1);
        let index = pg_sys::index_open(index, (*entry).rellockmode);
        let expressions: Vec<*mut pg_sys::Expr> = elements((*plan).custom_exprs).collect();
        let parent = &raw mut (*node).ss.ps;
        let compile = |at: usize| pg_sys::ExecInitExpr(expressions[at], parent);
        let radius = (expressions.len() > 2).then(|| {
            let constant = |at: usize| float8(expressions[at].cast()).unwrap_or(f64::NAN);
            (compile(2), Linear { scale: constant(3), offset: constant(4) })
        });
        // While rows are locked, PostgreSQL checks the conditions on their new versions; else they are checked before
        // rows are sorted.
        let filter = if (*estate).es_epq_active.is_null() {
            std::mem::replace(&mut (*node).ss.ps.qual, core::ptr::null_mut())
        } else {
            core::ptr::null_mut()
        };
        let state = State {
            index,
            operator: Rc::new(DistanceOperator::of(Rel::new(index))),
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

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn rescan(node: *mut pg_sys::CustomScanState) {
    // SAFETY: an initialised node; the state is its own.
    unsafe {
        end_run(&mut *(*node.cast::<Node>()).state);
        for child in elements::<pg_sys::PlanState>((*node).custom_ps) {
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
        for child in elements((*node).custom_ps) {
            pg_sys::ExecEndNode(child);
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
