//! Element access, `v[i]`: subscripts start at 1; outside of the vector the result is NULL, as for arrays.
//!
//! The protocol is that of src/include/nodes/subscripting.h: parse analysis calls [`transform`], executor startup calls
//! [`exec_setup`], and each row calls [`fetch`].

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use pgrx::PgSqlErrorCode::{ERRCODE_DATATYPE_MISMATCH, ERRCODE_FEATURE_NOT_SUPPORTED};
use pgrx::datum::Internal;
use pgrx::pg_sys::CoercionContext::COERCION_ASSIGNMENT;
use pgrx::pg_sys::CoercionForm::COERCE_IMPLICIT_CAST;
use pgrx::{pg_extern, pg_guard, pg_sys};

use super::Vector;
use super::error::raise;
use crate::pg::error::SqlError;
use crate::pg::list::{element, list_of};

static ROUTINES: pg_sys::SubscriptRoutines = pg_sys::SubscriptRoutines {
    transform: Some(transform),
    exec_setup: Some(exec_setup),
    fetch_strict: true,
    // A damaged vector raises an error; like PostgreSQL for its arrays, this does not count as a leak.
    fetch_leakproof: true,
    store_leakproof: false,
};

/// `vector_subscript(internal) -> internal`; PostgreSQL calls it without the argument that SQL declares.
#[pg_extern]
fn vector_subscript() -> Internal {
    // PostgreSQL only reads it.
    Internal::from(Some(pg_sys::Datum::from(&raw const ROUTINES)))
}

/// Parse analysis of `v[i]`. Errors point to the subscript.
///
/// # Safety
/// The parser calls it, with a node whose container type and expression are set.
unsafe extern "C-unwind" fn transform(
    node: *mut pg_sys::SubscriptingRef,
    indirection: *mut pg_sys::List,
    parse_state: *mut pg_sys::ParseState,
    is_slice: bool,
    is_assignment: bool,
) {
    // SAFETY: the parser passes at least one subscript.
    let first = unsafe { first_of(indirection) };
    let shown = if first.lidx.is_null() { first.uidx } else { first.lidx };
    // SAFETY: a subscript has an expression.
    let location = unsafe { pg_sys::exprLocation(shown) };
    let mut place = QueryLocation { parse_state, location };
    // SAFETY: a pointer of this process.
    let previous = unsafe { pg_sys::error_context_stack };
    let arg = (&raw mut place).cast();
    let mut callback = pg_sys::ErrorContextCallback { previous, callback: Some(point_to), arg };
    // SAFETY: the error that `analyse` raises at its boundary runs the callback while this frame is alive, and then
    // jumps over it: no value here needs to be dropped, and whoever catches the error restores the stack of callbacks.
    unsafe { pg_sys::error_context_stack = &raw mut callback };
    // SAFETY: the parser's own arguments.
    unsafe { analyse(node, indirection, parse_state, is_slice, is_assignment) };
    // SAFETY: the callbacks that were there before.
    unsafe { pg_sys::error_context_stack = previous };
}

/// # Safety
/// `indirection` is the parser's list of at least one A_Indices.
unsafe fn first_of<'a>(indirection: *mut pg_sys::List) -> &'a pg_sys::A_Indices {
    // SAFETY: the caller's promise.
    let first: *mut pg_sys::A_Indices = unsafe { element(indirection, 0) };
    // SAFETY: the caller's promise.
    unsafe { &*first }
}

/// A location in a query's text, for errors.
struct QueryLocation {
    parse_state: *mut pg_sys::ParseState,
    location: c_int,
}

/// # Safety
/// `place` is a [`QueryLocation`], and an error is being raised.
unsafe extern "C-unwind" fn point_to(place: *mut c_void) {
    // SAFETY: the caller's promise.
    let QueryLocation { parse_state, location } = *unsafe { &*place.cast() };
    // SAFETY: the parser's state, and an error is being raised.
    unsafe { pg_sys::parser_errposition(parse_state, location) };
}

/// # Safety
/// As [`transform`].
#[pg_guard]
unsafe extern "C-unwind" fn analyse(
    node: *mut pg_sys::SubscriptingRef,
    indirection: *mut pg_sys::List,
    parse_state: *mut pg_sys::ParseState,
    is_slice: bool,
    is_assignment: bool,
) {
    if is_slice {
        SqlError::new(ERRCODE_FEATURE_NOT_SUPPORTED, "slices of vectors are not supported")
            .hint("Use subvector(vector, start, count).")
            .raise();
    }
    if is_assignment {
        SqlError::new(ERRCODE_FEATURE_NOT_SUPPORTED, "assignment to elements of vectors is not supported")
            .hint("Assign a whole vector.")
            .raise();
    }
    // SAFETY: the parser's list.
    if unsafe { (*indirection).length } > 1 {
        raise(ERRCODE_FEATURE_NOT_SUPPORTED, "vector allows only one subscript");
    }
    // SAFETY: the parser passes at least one subscript.
    let written = unsafe { first_of(indirection) }.uidx;
    // SAFETY: the parser's state.
    let place = unsafe { (*parse_state).p_expr_kind };
    // The functions are those that PostgreSQL's array_subscript_transform uses, and raise errors.
    // SAFETY: the parser's state and a subscript that is not a slice, so it has this expression.
    let subscript = unsafe { pg_sys::transformExpr(parse_state, written, place) };
    // SAFETY: the expression that was just made.
    let kind = unsafe { pg_sys::exprType(subscript) };
    // SAFETY: the parser's state and the expression that was just made, of this type.
    let subscript = unsafe {
        pg_sys::coerce_to_target_type(
            parse_state,
            subscript,
            kind,
            pg_sys::INT4OID,
            -1,
            COERCION_ASSIGNMENT,
            COERCE_IMPLICIT_CAST,
            -1,
        )
    };
    if subscript.is_null() {
        raise(ERRCODE_DATATYPE_MISMATCH, "vector subscript must have type integer");
    }
    // SAFETY: the parser's node, which it is waiting for.
    let node = unsafe { &mut *node };
    node.refupperindexpr = list_of([subscript]);
    node.reflowerindexpr = null_mut();
    node.refrestype = pg_sys::FLOAT4OID;
    node.reftypmod = -1;
}

/// # Safety
/// The executor calls it with the structs to fill.
unsafe extern "C-unwind" fn exec_setup(
    _node: *const pg_sys::SubscriptingRef,
    _state: *mut pg_sys::SubscriptingRefState,
    steps: *mut pg_sys::SubscriptExecSteps,
) {
    // SAFETY: the caller's promise. Assignment does not pass `transform`.
    unsafe {
        *steps = pg_sys::SubscriptExecSteps { sbs_fetch: Some(fetch), ..Default::default() };
    }
}

/// Replaces the vector in the step's result by one of its elements.
///
/// # Safety
/// The executor calls it with a step that [`exec_setup`] prepared, after evaluating a vector, not null, to the step's
/// result and the subscript to its state.
#[pg_guard]
unsafe extern "C-unwind" fn fetch(
    _state: *mut pg_sys::ExprState,
    step: *mut pg_sys::ExprEvalStep,
    _context: *mut pg_sys::ExprContext,
) {
    // SAFETY: the caller's promise.
    let step = unsafe { &*step };
    // SAFETY: a step of this kind.
    let state = unsafe { step.d.sbsref.state };
    // SAFETY: such a step has its state.
    let subscripting = unsafe { &*state };
    // SAFETY: there is one subscript, as `analyse` made it.
    let is_null = unsafe { *subscripting.upperindexnull };
    // SAFETY: it is an int4.
    let position = (!is_null).then(|| unsafe { *subscripting.upperindex }.value() as i32);
    // SAFETY: the step's result is set.
    let value = unsafe { *step.resvalue };
    // SAFETY: it is a vector.
    let vector = unsafe { Vector::from_datum(value) };
    let found = position.and_then(|position| element_at(&vector, position));
    drop(vector);
    // SAFETY: the step's place for its result.
    unsafe { *step.resnull = found.is_none() };
    let value = found.map_or(pg_sys::Datum::null(), |element| pg_sys::Datum::from(element.to_bits()));
    // SAFETY: the step's place for its result.
    unsafe { *step.resvalue = value };
}

/// The element at a position that counts from 1.
fn element_at(elements: &[f32], position: c_int) -> Option<f32> {
    let index = usize::try_from(position).ok()?.checked_sub(1)?;
    elements.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_from_one() {
        assert_eq!(element_at(&[5.0, 6.0], 1), Some(5.0));
        assert_eq!(element_at(&[5.0, 6.0], 2), Some(6.0));
        for outside in [0, 3, -1, c_int::MIN, c_int::MAX] {
            assert_eq!(element_at(&[5.0, 6.0], outside), None);
        }
    }
}
