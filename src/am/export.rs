//! `vekter_export()`: the table's side, as the calling query's snapshot sees it.

use core::ffi::c_void;
use std::io::{self, Write};

use pgrx::pg_sys;

use super::resources::resources;
use super::table::{TableRows, scan_visible};
use super::table_scan::{id_bytes, integer};
use super::{search_options, tid_of};
use crate::engine::{EngineError, SearchParams, is_interrupted};
use crate::index::error::IndexError;
use crate::index::export::{self, Exported, Table};
use crate::index::format::Tid;
use crate::index::interruptible::interruptible;
use crate::pg::error::SqlError;
use crate::pg::owner::as_owner;
use crate::pg::relation::{IndexAndTable, Rel};

/// Bytes that are written between two looks at the interrupt flag.
const MAX_WRITE_BYTES: usize = 16 << 20;

/// One FAISS index of all rows of a faiss index that the calling query sees. `id_attribute`: number of the table's integer column that gives the ids.
pub fn merge(index: pg_sys::Oid, id_attribute: pg_sys::AttrNumber) -> Result<Export, SqlError> {
    let open = IndexAndTable::open(index)?;
    let (heap, index) = (open.table(), open.index());
    let params = search_options::effective(index, SearchParams::default());
    let outcome = as_owner(heap, || {
        // SAFETY: called in a query, which has a snapshot; an error's abort forgets it too.
        let snapshot = unsafe { pg_sys::RegisterSnapshot(pg_sys::GetActiveSnapshot()) };
        let mut rows = VisibleRows { heap, index, id_attribute, snapshot };
        let outcome = export::merge(index, &mut rows, resources());
        // SAFETY: registered above.
        unsafe { pg_sys::UnregisterSnapshot(snapshot) };
        outcome
    });
    Ok(Export { exported: outcome?, params })
}

/// An index with the ids of its rows, and the search parameters that are written into it.
pub struct Export {
    exported: Exported,
    params: SearchParams,
}

impl Export {
    pub fn rows(&self) -> usize {
        self.exported.ids.len()
    }

    pub fn write(&mut self, sink: &mut (dyn Write + Send)) -> Result<(), EngineError> {
        let Export { exported: Exported { builder, ids }, params } = self;
        interruptible(1, || {
            builder.write_labelled(ids, params, &mut Interruptible(sink))?;
            Ok(sink.flush()?)
        })
    }
}

/// Ends writing where FAISS would not look at the interrupt flag.
struct Interruptible<'a>(&'a mut (dyn Write + Send));

impl Write for Interruptible<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if is_interrupted() {
            return Err(io::ErrorKind::Other.into());
        }
        self.0.write(&bytes[..bytes.len().min(MAX_WRITE_BYTES)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

struct VisibleRows {
    heap: Rel,
    index: Rel,
    id_attribute: pg_sys::AttrNumber,
    snapshot: pg_sys::Snapshot,
}

impl Table for VisibleRows {
    fn scan(&mut self, visit: &mut dyn FnMut(Tid, i64) -> Result<(), IndexError>) -> Result<(), IndexError> {
        let id_bytes = id_bytes(self.heap, self.id_attribute);
        let mut collector = Collector { id_bytes, visit, outcome: Ok(()) };
        // SAFETY: relations and snapshot are open, and the state is the collector that `collect` takes. The second value of
        // each row is the id, in the index or not; the array has room for any index.
        unsafe {
            let info = pg_sys::BuildIndexInfo(self.index.as_ptr());
            (*info).ii_NumIndexAttrs = 2;
            (*info).ii_IndexAttrNumbers[1] = self.id_attribute;
            let relations = (self.heap, self.index);
            scan_visible(relations, info, self.snapshot, false, Some(collect), &mut collector);
        }
        collector.outcome
    }

    fn fetch(&mut self, tids: &[Tid], visit: &mut dyn FnMut(usize, &[f32])) {
        // SAFETY: relations and snapshot stay open until the end of `merge`.
        let mut rows = unsafe { TableRows::open(self.heap, self.index, self.snapshot) };
        for (place, &tid) in tids.iter().enumerate() {
            pgrx::check_for_interrupts!();
            rows.with_row(tid, |vector| visit(place, vector));
        }
    }
}

struct Collector<'a> {
    id_bytes: i16,
    visit: &'a mut dyn FnMut(Tid, i64) -> Result<(), IndexError>,
    outcome: Result<(), IndexError>,
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn collect(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    nulls: *mut bool,
    _is_alive: bool,
    state: *mut c_void,
) {
    // SAFETY: `state` is the collector of `scan`, which is waiting for this call to end; the arrays have two elements.
    let (collector, [_, id], [is_null, has_no_id]) = unsafe {
        (&mut *state.cast::<Collector>(), *values.cast::<[pg_sys::Datum; 2]>(), *nulls.cast::<[bool; 2]>())
    };
    if is_null || collector.outcome.is_err() {
        return;
    }
    if has_no_id {
        collector.outcome = Err(IndexError::NoId);
        return;
    }
    let id = integer(id, collector.id_bytes);
    // SAFETY: a pointer to the row's TID.
    let tid = unsafe { tid_of(tid) };
    collector.outcome = (collector.visit)(tid, id);
}
