//! INSERT, UPDATE and COPY: append a row to the delta.

use pgrx::{PgMemoryContexts, pg_sys};

use super::{maintenance, options, tid_of};
use crate::index::Inserter;
use crate::pg::error::OrRaise;
use crate::pg::relation::Rel;
use crate::vector::ValueKind;

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
    let is_null = unsafe { *nulls };
    if !is_null {
        // SAFETY: PostgreSQL keeps the relation open and locked.
        let index = unsafe { Rel::new(index) };
        // SAFETY: PostgreSQL's own argument.
        let tid = unsafe { tid_of(tid) };
        // SAFETY: the arrays have an element for each column of the index, at least one.
        let datum = unsafe { *values };
        // SAFETY: PostgreSQL passes one of these for all rows of a statement.
        let Statement { kind, inserter } = statement(index, unsafe { &mut *info });
        // SAFETY: the column is of this kind, and not NULL.
        let value = unsafe { kind.read(datum) };
        let growth = inserter.insert(index, tid, &value).or_raise();
        drop(value);
        if let Some(delta_bytes) = growth {
            maintenance::after_growth(index, delta_bytes).or_raise();
        }
    }
    // The result is used for unique indexes only.
    false
}

/// What is kept between the rows of a statement. It owns only memory (invariant 9).
struct Statement {
    /// Of the indexed values.
    kind: ValueKind,
    inserter: Inserter,
}

fn statement(index: Rel, info: &mut pg_sys::IndexInfo) -> &mut Statement {
    if info.ii_AmCache.is_null() {
        let mut context = PgMemoryContexts::For(info.ii_Context);
        let kind = options::value_kind(index).unwrap_or_default();
        let statement = Statement { kind, inserter: Inserter::open(index).or_raise() };
        info.ii_AmCache = context.leak_and_drop_on_delete(statement).cast();
    }
    // SAFETY: set above, for this or an earlier row, and dropped with the statement's memory. Rows are inserted one at
    // a time.
    unsafe { &mut *info.ii_AmCache.cast::<Statement>() }
}
