//! The table's rows in their indexed form: single rows by TID, or all rows visible to a snapshot.

use core::ffi::c_void;

use pgrx::{PgMemoryContexts, pg_sys};

use super::{item_pointer, tid_of};
use crate::index::format::Tid;
use crate::pg::relation::Rel;
use crate::vector::ValueKind;

/// A table opened for fetching rows under one snapshot. It holds pins: drop it before the end of the call that created
/// it, or leave it to the transaction's abort.
pub struct TableRows {
    info: *mut pg_sys::IndexInfo,
    estate: *mut pg_sys::EState,
    slot: *mut pg_sys::TupleTableSlot,
    fetch: *mut pg_sys::IndexFetchTableData,
    snapshot: pg_sys::Snapshot,
    /// Of the indexed values.
    kind: ValueKind,
}

impl TableRows {
    /// # Safety
    /// The relations and the snapshot stay open and valid while the value lives, and `kind` is that of the index's
    /// values.
    pub unsafe fn open(heap: Rel, index: Rel, kind: ValueKind, snapshot: pg_sys::Snapshot) -> Self {
        // All of this is freed in `drop`, or by the transaction's abort.
        // SAFETY: called in a transaction.
        let estate = unsafe { pg_sys::CreateExecutorState() };
        // SAFETY: just made.
        let memory = unsafe { (*estate).es_query_cxt };
        // SAFETY: the index is open.
        let build = |_: &mut PgMemoryContexts| unsafe { pg_sys::BuildIndexInfo(index.as_ptr()) };
        // SAFETY: the executor's memory, which is freed with it.
        let info = unsafe { PgMemoryContexts::For(memory).switch_to(build) };
        // SAFETY: the table is open.
        let slot = unsafe { pg_sys::table_slot_create(heap.as_ptr(), core::ptr::null_mut()) };
        // SAFETY: the table is open.
        let fetch = unsafe { pg_sys::table_index_fetch_begin(heap.as_ptr()) };
        TableRows { info, estate, slot, fetch, snapshot, kind }
    }

    /// Calls `visit` with the indexed value of the visible version of the row. None if no version is visible, or its
    /// value is NULL.
    pub fn with_row<T>(&mut self, tid: Tid, visit: impl FnOnce(&[f32]) -> T) -> Option<T> {
        let mut values = [pg_sys::Datum::from(0); pg_sys::INDEX_MAX_KEYS as usize];
        let mut nulls = [true; pg_sys::INDEX_MAX_KEYS as usize];
        if !self.fetch(tid) {
            return None;
        }
        self.expression_context().ecxt_scantuple = self.slot;
        let (datums, flags) = (values.as_mut_ptr(), nulls.as_mut_ptr());
        // SAFETY: everything was opened in `open`; the arrays have room for any index.
        unsafe { pg_sys::FormIndexDatum(self.info, self.slot, self.estate, datums, flags) };
        // SAFETY: the column is of this kind, and the value is dropped before its memory.
        let value = (!nulls[0]).then(|| visit(&unsafe { self.kind.read(values[0]) }));
        // SAFETY: nobody uses what was made for this row any more.
        unsafe { pg_sys::MemoryContextReset(self.expression_context().ecxt_per_tuple_memory) };
        value
    }

    /// TID of the visible version of the row, if there is one.
    pub fn visible_version(&mut self, tid: Tid) -> Option<Tid> {
        if !self.fetch(tid) {
            return None;
        }
        // SAFETY: the slot was just filled with a tuple of the table.
        let pointer = unsafe { &raw mut (*self.slot).tts_tid };
        // SAFETY: the slot was just filled with a tuple of the table.
        Some(unsafe { tid_of(pointer) })
    }

    /// Puts the visible version into the slot; false if there is none.
    fn fetch(&mut self, tid: Tid) -> bool {
        let mut pointer = item_pointer(tid);
        let (mut call_again, mut all_dead) = (false, false);
        // SAFETY: everything was opened in `open`.
        unsafe {
            pg_sys::table_index_fetch_tuple(
                self.fetch,
                &mut pointer,
                self.snapshot,
                self.slot,
                &mut call_again,
                &mut all_dead,
            )
        }
    }

    /// PostgreSQL's `GetPerTupleExprContext` (executor/executor.h).
    fn expression_context(&mut self) -> &mut pg_sys::ExprContext {
        // SAFETY: the executor state is open.
        let mut context = unsafe { (*self.estate).es_per_tuple_exprcontext };
        if context.is_null() {
            // SAFETY: the executor state is open, and has no such context yet.
            context = unsafe { pg_sys::MakePerTupleExprContext(self.estate) };
        }
        // SAFETY: the executor state frees the context with itself.
        unsafe { &mut *context }
    }
}

impl Drop for TableRows {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened in `open` and not closed since.
            unsafe { pg_sys::table_index_fetch_end(self.fetch) };
            // SAFETY: made in `open` and not dropped since.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) };
            // SAFETY: made in `open` and not freed since.
            unsafe { pg_sys::FreeExecutorState(self.estate) };
        }
    }
}

/// Calls `collect` with every visible row that belongs in the index, under the TID that an index has for it, as CREATE
/// INDEX CONCURRENTLY does. `starts_anywhere`: allows a synchronised scan to start in the middle of the table.
///
/// # Safety
/// The relations and the snapshot are open, `info` is the index's, and `state` is what `collect` takes for its last
/// argument.
pub unsafe fn scan_visible<S>(
    (heap, index): (Rel, Rel),
    info: *mut pg_sys::IndexInfo,
    snapshot: pg_sys::Snapshot,
    starts_anywhere: bool,
    collect: pg_sys::IndexBuildCallback,
    state: &mut S,
) {
    // SAFETY: the caller's promise. It makes the scan go by the snapshot.
    unsafe { (*info).ii_Concurrent = true };
    let (table, no_keys) = (heap.as_ptr(), core::ptr::null_mut());
    // SAFETY: table and snapshot are open; table_index_build_scan ends the scan.
    let scan = unsafe { pg_sys::table_beginscan_strat(table, snapshot, 0, no_keys, true, starts_anywhere) };
    let (index, state) = (index.as_ptr(), core::ptr::from_mut(state).cast::<c_void>());
    // SAFETY: the caller's promise, and the scan that was just begun.
    unsafe { pg_sys::table_index_build_scan(table, index, info, true, false, collect, state, scan) };
}
