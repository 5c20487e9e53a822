//! INSERT, UPDATE and COPY: append a row to the delta.

use pgrx::{PgMemoryContexts, pg_sys};

use super::{maintenance, tid_of};
use crate::index::Inserter;
use crate::pg::error::OrRaise;
use crate::pg::relation::Rel;
use crate::vector::Vector;

#[pgrx::pg_guard]
#[expect(clippy::too_many_arguments, reason = "the signature is PostgreSQL's")]
pub unsafe extern "C-unwind" fn aminsert(
    index: pg_sys::Relation,
    values: *mut pg_sys::Datum,
    nulls: *mut bool,
    tid: pg_sys::ItemPointer,
    _heap: pg_sys::Relation,
    _check_unique: pg_sys::IndexUniqueCheck::Type,
    _index_unchanged: bool,
    info: *mut pg_sys::IndexInfo,
) -> bool {
    // SAFETY: the arrays have an element for each column of the index, at least one.
    let (datum, is_null) = unsafe { (*values, *nulls) };
    if !is_null {
        // SAFETY: PostgreSQL keeps the relation open and locked, the pointer valid, and the datum is a vector.
        let (index, tid, vector) = unsafe { (Rel::new(index), tid_of(tid), Vector::from_datum(datum)) };
        // SAFETY: PostgreSQL passes one of these for all rows of a statement.
        let inserter = unsafe { inserter(index, &mut *info) };
        let growth = inserter.insert(index, tid, vector.as_slice()).or_raise();
        drop(vector);
        if let Some(delta_bytes) = growth {
            maintenance::after_growth(index, delta_bytes).or_raise();
        }
    }
    // The result is used for unique indexes only.
    false
}

/// The statement's inserter, kept between its rows. It owns only memory (invariant 9).
fn inserter(index: Rel, info: &mut pg_sys::IndexInfo) -> &mut Inserter {
    if info.ii_AmCache.is_null() {
        let mut context = PgMemoryContexts::For(info.ii_Context);
        info.ii_AmCache = context.leak_and_drop_on_delete(Inserter::open(index).or_raise()).cast();
    }
    // SAFETY: set above, for this or an earlier row, and dropped with the statement's memory. Rows are inserted one at
    // a time.
    unsafe { &mut *info.ii_AmCache.cast::<Inserter>() }
}
