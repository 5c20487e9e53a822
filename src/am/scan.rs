//! Index scans: `ORDER BY column <op> value`, forward.

use core::ffi::c_void;
use std::rc::Rc;

use pgrx::{PgMemoryContexts, PgSqlErrorCode as Code, pg_sys};

use super::distance_operator::DistanceOperator;
use super::table::TableRows;
use super::{expected_rows, item_pointer, plan_hint, search_options};
use crate::engine::SearchParams;
use crate::index::format::Tid;
use crate::index::search::{Cursor, ExactDistances, FirstRounds, Request};
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::relation::Rel;
use crate::pg::row_limit::RowLimit;

/// State of a scan. It lives as long as its memory context, error or not, so it owns memory, maps and FAISS handles
/// only (invariant 9).
struct ScanState {
    /// None before the first row of a (re)scan.
    cursor: Option<Cursor>,
    query: Option<Vec<f32>>,
    operator: DistanceOperator,
    /// By which `row_limit` knows the scan: the order-by keys of its plan node.
    key: *const c_void,
    /// Rows that were returned; None: how many will be asked for is known.
    returned_rows: Option<usize>,
}

impl ScanState {
    fn new(index: Rel) -> Self {
        ScanState {
            cursor: None,
            query: None,
            operator: DistanceOperator::of(index),
            key: core::ptr::null(),
            returned_rows: None,
        }
    }

    /// The end of a scan of `index`.
    fn reset(&mut self, index: pg_sys::Oid) {
        if let (Some(_), Some(rows)) = (self.cursor.take(), self.returned_rows.take()) {
            expected_rows::remember(index, rows);
        }
        self.query = None;
    }
}

#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn ambeginscan(
    index: pg_sys::Relation,
    keys: i32,
    order_bys: i32,
) -> pg_sys::IndexScanDesc {
    // SAFETY: PostgreSQL keeps the relation open while the descriptor lives.
    let scan = unsafe { pg_sys::RelationGetIndexScan(index, keys, order_bys) };
    // SAFETY: PostgreSQL keeps the relation open while the descriptor lives.
    let state = ScanState::new(unsafe { Rel::new(index) });
    let state = PgMemoryContexts::CurrentMemoryContext.leak_and_drop_on_delete(state);
    // SAFETY: the descriptor was just made.
    unsafe { (*scan).opaque = state.cast() };
    scan
}

#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn amrescan(
    scan: pg_sys::IndexScanDesc,
    _keys: pg_sys::ScanKey,
    _key_count: i32,
    order_bys: pg_sys::ScanKey,
    order_by_count: i32,
) {
    // SAFETY: a descriptor that `ambeginscan` made.
    let descriptor = unsafe { &*scan };
    let known = descriptor.numberOfOrderBys;
    if !order_bys.is_null() && known > 0 {
        let count = known.min(order_by_count) as usize;
        // SAFETY: the descriptor has room for as many keys as ambeginscan was told.
        unsafe { core::ptr::copy(order_bys, descriptor.orderByData, count) };
    }
    // SAFETY: the state is this scan's own, and nobody else uses it during the call.
    let state = unsafe { state_of(scan) };
    // SAFETY: PostgreSQL keeps the index open.
    state.reset(unsafe { Rel::new(descriptor.indexRelation) }.oid());
    state.key = order_bys.cast();
}

#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn amgettuple(
    scan: pg_sys::IndexScanDesc,
    _direction: pg_sys::ScanDirection::Type,
) -> bool {
    // SAFETY: the state is this scan's own, and nobody else uses it during the call.
    let state = unsafe { state_of(scan) };
    // SAFETY: a descriptor that PostgreSQL has set up for fetching.
    let descriptor = unsafe { &mut *scan };
    // SAFETY: PostgreSQL keeps the index open.
    let index = unsafe { Rel::new(descriptor.indexRelation) };
    if state.cursor.is_none() {
        // SAFETY: PostgreSQL has filled the order-by keys in.
        unsafe { start(descriptor, index, state) }.or_raise();
    }
    let ScanState { cursor: Some(cursor), query, operator, returned_rows, .. } = state else {
        return false;
    };
    // SAFETY: PostgreSQL keeps heap, index and snapshot of the scan.
    let mut exact = unsafe {
        ScanDistances::new(
            descriptor.heapRelation,
            index.as_ptr(),
            descriptor.xs_snapshot,
            operator,
            query.as_deref(),
        )
    };
    let next = cursor.next(&mut exact).or_raise();
    drop(exact);
    if let (Some(rows), true) = (returned_rows, next.is_some()) {
        *rows += 1;
    }
    descriptor.xs_recheck = false;
    descriptor.xs_recheckorderby = false;
    if let Some(row) = &next {
        // The executor fetches the row under its snapshot.
        descriptor.xs_heaptid = item_pointer(row.tid);
    }
    next.is_some()
}

#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn amendscan(scan: pg_sys::IndexScanDesc) {
    // SAFETY: a descriptor that `ambeginscan` made.
    let index = unsafe { (*scan).indexRelation };
    // SAFETY: PostgreSQL keeps the index open.
    let index = unsafe { Rel::new(index) };
    // SAFETY: the state is this scan's own; its shell goes with the memory context.
    unsafe { state_of(scan) }.reset(index.oid());
}

/// # Safety
/// `scan` was made by `ambeginscan`, and no other reference to its state is in use.
unsafe fn state_of<'a>(scan: pg_sys::IndexScanDesc) -> &'a mut ScanState {
    // SAFETY: the caller's promise.
    let state = unsafe { (*scan).opaque };
    // SAFETY: set by ambeginscan; the caller's promise for the rest.
    unsafe { &mut *state.cast::<ScanState>() }
}

/// # Safety
/// `scan` is a descriptor of an open index, with its order-by keys filled in.
unsafe fn start(scan: &pg_sys::IndexScanDescData, index: Rel, state: &mut ScanState) -> Result<(), SqlError> {
    let snapshot = scan.xs_snapshot;
    if scan.numberOfOrderBys < 1 {
        return Err(SqlError::new(
            Code::ERRCODE_FEATURE_NOT_SUPPORTED,
            "cannot scan faiss index without order",
        ));
    }
    // SAFETY: a scan that fetches rows has a snapshot.
    if unsafe { (*snapshot).snapshot_type } != pg_sys::SnapshotType::SNAPSHOT_MVCC {
        // A TID that VACUUM has freed and the heap reused is only harmless to a snapshot that cannot see the new row.
        let message = "non-MVCC snapshots are not supported with faiss indexes";
        return Err(SqlError::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, message));
    }
    // SAFETY: there is at least one order-by key.
    let key = unsafe { &*scan.orderByData };
    state.query = if key.sk_flags & pg_sys::SK_ISNULL as i32 != 0 {
        None
    } else {
        // SAFETY: the right argument of the operator is of its kind.
        Some(unsafe { state.operator.kind.read(key.sk_argument) }.to_vec())
    };
    let query = state.query.as_deref();
    // SAFETY: the right argument of the operator is a varlena.
    let hinted = query.and_then(|_| unsafe { plan_hint::request(index.oid(), key.sk_argument) });
    index.count_scan();
    // SAFETY: the descriptor's count, where a plan node that shows it has one.
    #[cfg(feature = "pg18")]
    if let Some(instrument) = unsafe { scan.instrument.as_mut() } {
        instrument.nsearches += 1;
    }
    let first_round = hinted.as_ref().and_then(|_| first_round(index, snapshot, query));
    state.cursor = Some(match first_round {
        Some((rounds, at)) => Cursor::continued(&rounds, at)?,
        None => {
            let request = match hinted {
                Some(hinted) => Request { params: search_options::effective(index, hinted.params), ..hinted },
                None => {
                    let params = search_options::effective(index, SearchParams::default());
                    let (request, limit) = expected_rows::request(index, state.key, params);
                    state.returned_rows = (limit == RowLimit::Unknown).then_some(0);
                    request
                }
            };
            // SAFETY: PostgreSQL keeps heap, index and snapshot of the scan.
            let exact = unsafe {
                ScanDistances::new(scan.heapRelation, index.as_ptr(), snapshot, &state.operator, query)
            };
            Cursor::open(index, query, &request, &exact)?
        }
    });
    Ok(())
}

/// The query's first round, if it is one of a batch.
fn first_round(
    index: Rel,
    snapshot: pg_sys::Snapshot,
    query: Option<&[f32]>,
) -> Option<(Rc<FirstRounds>, usize)> {
    let rounds = plan_hint::first_rounds(index.oid(), snapshot)?;
    let at = rounds.find(query?)?;
    Some((rounds, at))
}

/// Exact distances under a scan. The table is closed when the call ends that needed it: the scan's own state must hold
/// no pins.
pub struct ScanDistances<'a> {
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    operator: &'a DistanceOperator,
    /// None: NULL.
    query: Option<&'a [f32]>,
    open: Option<TableRows>,
}

impl<'a> ScanDistances<'a> {
    /// # Safety
    /// The relations and the snapshot stay open and valid while the value lives.
    pub unsafe fn new(
        table: pg_sys::Relation,
        index: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        operator: &'a DistanceOperator,
        query: Option<&'a [f32]>,
    ) -> Self {
        ScanDistances { table, index, snapshot, operator, query, open: None }
    }
}

impl ExactDistances for ScanDistances<'_> {
    fn at(&mut self, tid: Tid) -> Option<f64> {
        let (query, operator) = (self.query?, self.operator);
        let rows = self.open.get_or_insert_with(|| {
            // SAFETY: the promise of `new`.
            let [table, index] = [self.table, self.index].map(|relation| unsafe { Rel::new(relation) });
            // SAFETY: the promise of `new`.
            unsafe { TableRows::open(table, index, operator.kind, self.snapshot) }
        });
        rows.with_row(tid, |row| operator.distance(query, row))
    }

    fn of(&self, row: &[f32]) -> f64 {
        self.query.map_or(f64::NAN, |query| self.operator.distance(query, row))
    }
}
