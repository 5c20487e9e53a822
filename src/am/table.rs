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
        // SAFETY: the caller's promise. All of this is freed in `drop`, or by the transaction's abort.
        unsafe {
            let estate = pg_sys::CreateExecutorState();
            let info = PgMemoryContexts::For((*estate).es_query_cxt)
                .switch_to(|_| pg_sys::BuildIndexInfo(index.as_ptr()));
            let slot = pg_sys::table_slot_create(heap.as_ptr(), core::ptr::null_mut());
            let fetch = pg_sys::table_index_fetch_begin(heap.as_ptr());
            TableRows { info, estate, slot, fetch, snapshot, kind }
        }
    }

    /// Calls `visit` with the indexed value of the visible version of the row. None if no version is visible, or its
    /// value is NULL.
    pub fn with_row<T>(&mut self, tid: Tid, visit: impl FnOnce(&[f32]) -> T) -> Option<T> {
        let mut values = [pg_sys::Datum::from(0); pg_sys::INDEX_MAX_KEYS as usize];
        let mut nulls = [true; pg_sys::INDEX_MAX_KEYS as usize];
        if !self.fetch(tid) {
            return None;
        }
        // SAFETY: everything was opened in `open`; the arrays have room for any index; the value is dropped before
        // the memory of the expression's result.
        unsafe {
            self.expression_context().ecxt_scantuple = self.slot;
            pg_sys::FormIndexDatum(
                self.info,
                self.slot,
                self.estate,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            let value = (!nulls[0]).then(|| visit(&self.kind.read(values[0])));
            pg_sys::MemoryContextReset(self.expression_context().ecxt_per_tuple_memory);
            value
        }
    }

    /// TID of the visible version of the row, if there is one.
    pub fn visible_version(&mut self, tid: Tid) -> Option<Tid> {
        // SAFETY: the slot was just filled with a tuple of the table.
        self.fetch(tid).then(|| unsafe { tid_of(&raw mut (*self.slot).tts_tid) })
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
        // SAFETY: the executor state is open, and frees the context with itself.
        unsafe {
            let estate = &mut *self.estate;
            if estate.es_per_tuple_exprcontext.is_null() {
                pg_sys::MakePerTupleExprContext(estate);
            }
            &mut *estate.es_per_tuple_exprcontext
        }
    }
}

impl Drop for TableRows {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened in `open` and not closed since.
            unsafe {
                pg_sys::table_index_fetch_end(self.fetch);
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::FreeExecutorState(self.estate);
            }
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
    // SAFETY: the caller's promise; table_index_build_scan ends the scan. `ii_Concurrent` makes it go by the snapshot.
    unsafe {
        (*info).ii_Concurrent = true;
        let scan = pg_sys::table_beginscan_strat(
            heap.as_ptr(),
            snapshot,
            0,
            core::ptr::null_mut(),
            true,
            starts_anywhere,
        );
        let state = core::ptr::from_mut(state).cast::<c_void>();
        pg_sys::table_index_build_scan(
            heap.as_ptr(),
            index.as_ptr(),
            info,
            true,
            false,
            collect,
            state,
            scan,
        );
    }
}
