//! Rows of a table as PostgreSQL's scan for an index build shows them to a callback.

use core::ffi::c_void;

use pgrx::pg_sys;

use super::tid_of;
use crate::index::error::IndexError;
use crate::index::table::VisitRow;
use crate::pg::relation::Rel;
use crate::vector::Vector;

pub(super) struct Collector<'a, 'v> {
    pub(super) visit: &'a mut VisitRow<'v>,
    pub(super) outcome: Result<(), IndexError>,
}

#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn collect(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    nulls: *mut bool,
    _is_alive: bool,
    state: *mut c_void,
) {
    // SAFETY: `state` is the collector of `scan`, which is waiting for this call to end; the arrays have an element
    // for each column of the index, at least one.
    let (collector, datum, is_null) = unsafe { (&mut *state.cast::<Collector>(), *values, *nulls) };
    if is_null || collector.outcome.is_err() {
        return;
    }
    // SAFETY: the column is of type vector, and the tuple stays while the callback runs.
    let (tid, vector) = unsafe { (tid_of(tid), Vector::from_datum(datum)) };
    collector.outcome = (collector.visit)(tid, vector.as_slice());
}

/// Width of the id column's type.
pub(super) fn id_bytes(heap: Rel, attribute: pg_sys::AttrNumber) -> i16 {
    // SAFETY: looks catalogue rows up.
    unsafe { pg_sys::get_typlen(pg_sys::get_atttype(heap.oid(), attribute)) }
}

/// The value of a smallint, integer or bigint.
pub(super) fn integer(datum: pg_sys::Datum, bytes: i16) -> i64 {
    match bytes {
        2 => i64::from(datum.value() as i16),
        4 => i64::from(datum.value() as i32),
        _ => datum.value() as i64,
    }
}
