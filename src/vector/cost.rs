//! Planner costs of distances.
//!
//! The cost in pg_proc is one number, which is right for vectors stored in their row. A long vector is stored in the
//! TOAST table, and fetching it takes a hundred times as long as the distance itself.

use pgrx::{pg_guard, pg_sys};

use super::HEADER_BYTES;
use crate::pg::expression::Expression;
use crate::pg::{node, settings};

/// Number of dimensions whose distance costs as much as PostgreSQL charges for any operator. Wider vectors cost in
/// proportion; the cost of narrower ones is mostly that of the call.
const OPERATOR_DIMS: f64 = 512.0;
/// PostgreSQL moves the longest values of rows larger than this to the TOAST table (TOAST_TUPLE_THRESHOLD of
/// access/heaptoast.h), in chunks of about this size.
const TOAST_BYTES: f64 = 2000.0;

/// Cost of a distance between two vectors, in units of an operator's cost.
pub fn operators_per_distance(dims: usize) -> f64 {
    (dims as f64 / OPERATOR_DIMS).max(1.0)
}

/// `vector_distance_support(internal) -> internal`: planner support function of the distance functions.
///
/// # Safety
/// PostgreSQL calls it with a support request.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn vector_distance_support(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the call that PostgreSQL passed.
    let call = unsafe { &*call };
    // SAFETY: it has an argument.
    let request = unsafe { call.args.as_slice(1) }[0].value.cast_mut_ptr::<pg_sys::SupportRequestCost>();
    // SAFETY: the caller's promise (`internal` cannot come from SQL): a node that lives during the call.
    if unsafe { node::tag(request) } != Some(pg_sys::NodeTag::T_SupportRequestCost) {
        return pg_sys::Datum::from(0);
    }
    // SAFETY: the node's tag, and nobody else uses it during the call.
    let about = unsafe { &mut *request };
    // SAFETY: null, or an expression that the planner has at hand.
    let expression = unsafe { Expression::new(about.node) };
    // SAFETY: null, or the planner's state.
    let root = unsafe { about.root.as_ref() };
    let Some(cost) = root.zip(expression).and_then(|(root, expression)| cost_of(root, expression)) else {
        return pg_sys::Datum::from(0);
    };
    (about.startup, about.per_tuple) = (0.0, cost);
    pg_sys::Datum::from(request)
}

#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_vector_distance_support() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// Cost of one call; None: use the cost in pg_proc.
fn cost_of(root: &pg_sys::PlannerInfo, call: Expression) -> Option<f64> {
    // Both arguments have the same dimensions, or the call raises an error.
    let dims = call.arguments().find_map(dims_of)?;
    let bytes = (HEADER_BYTES + dims * size_of::<f32>()) as f64;
    let columns = call.arguments().filter_map(|argument| column_of(root, argument));
    let fetched = columns.filter(|&(table, column)| is_elsewhere(table, column, bytes)).count();
    if fetched == 0 {
        return None;
    }
    let chunks = (bytes / TOAST_BYTES).ceil();
    let fetch = chunks * (settings::cpu_index_tuple_cost() + settings::cpu_tuple_cost())
        + bytes / f64::from(pg_sys::BLCKSZ) * settings::seq_page_cost();
    Some(settings::cpu_operator_cost() * operators_per_distance(dims) + fetched as f64 * fetch)
}

/// The dimensions of an argument of type `vector`, if its type or its value has them.
fn dims_of(argument: Expression) -> Option<usize> {
    if let Ok(dims @ 1..) = usize::try_from(argument.typmod()) {
        return Some(dims);
    }
    let constant = argument.as_a::<pg_sys::Const>().filter(|constant| !constant.constisnull)?;
    // SAFETY: a constant that is not NULL points to a vector, of which only the header is read.
    let bytes = unsafe { pg_sys::toast_raw_datum_size(constant.constvalue) };
    Some(bytes.saturating_sub(HEADER_BYTES) / size_of::<f32>()).filter(|&dims| dims > 0)
}

/// Table and column of an argument that is a column, possibly under casts.
fn column_of(
    root: &pg_sys::PlannerInfo,
    mut argument: Expression,
) -> Option<(pg_sys::Oid, pg_sys::AttrNumber)> {
    let variable = loop {
        if let Some(variable) = argument.as_a::<pg_sys::Var>() {
            break variable;
        }
        argument = match argument.as_a::<pg_sys::RelabelType>() {
            // SAFETY: it belongs to the argument, and stays as long.
            Some(relabelled) => unsafe { Expression::new(relabelled.arg) }?,
            None if argument.as_a::<pg_sys::FuncExpr>().is_some() => argument.arguments().next()?,
            None => return None,
        };
    };
    let number = usize::try_from(variable.varno).ok()?;
    let size = usize::try_from(root.simple_rel_array_size).unwrap_or(0);
    let entries = root.simple_rte_array;
    if variable.varlevelsup > 0 || entries.is_null() || !(1..size).contains(&number) {
        return None;
    }
    // SAFETY: the planner has an entry for each number below the size of its array.
    let entry = unsafe { *entries.wrapping_add(number) };
    // SAFETY: null, or an entry.
    let entry = unsafe { entry.as_ref() }?;
    let is_table = entry.rtekind == pg_sys::RTEKind::RTE_RELATION && variable.varattno > 0;
    is_table.then_some((entry.relid, variable.varattno))
}

/// Whether values of this size are in the TOAST table. The width that ANALYZE records is that of the part in the row.
fn is_elsewhere(table: pg_sys::Oid, column: pg_sys::AttrNumber, bytes: f64) -> bool {
    // SAFETY: reads the statistics through a cache; 0 where there are none.
    match unsafe { pg_sys::get_attavgwidth(table, column) } {
        width @ 1.. => f64::from(width) < bytes / 2.0,
        _ => bytes > TOAST_BYTES,
    }
}
