//! Planner costs of distances.
//!
//! The cost in pg_proc is one number, which is right for vectors stored in their row. A long vector is stored in the
//! TOAST table, and fetching it takes a hundred times as long as the distance itself.

use pgrx::{PgList, pg_guard, pg_sys};

use super::HEADER_BYTES;

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
    // SAFETY: the caller's promise (`internal` cannot come from SQL): the first argument points to a node that lives
    // during the call, and the node's tag is its type.
    unsafe {
        let request: *mut pg_sys::Node = (*call).args.as_slice(1)[0].value.cast_mut_ptr();
        if (*request).type_ != pg_sys::NodeTag::T_SupportRequestCost {
            return pg_sys::Datum::from(0);
        }
        let request: *mut pg_sys::SupportRequestCost = request.cast();
        let Some(cost) = cost_of((*request).root, (*request).node) else {
            return pg_sys::Datum::from(0);
        };
        (*request).startup = 0.0;
        (*request).per_tuple = cost;
        pg_sys::Datum::from(request)
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_vector_distance_support() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// Cost of one call; None: use the cost in pg_proc.
///
/// # Safety
/// Both are NULL or what the planner has at hand.
unsafe fn cost_of(root: *mut pg_sys::PlannerInfo, node: *mut pg_sys::Node) -> Option<f64> {
    if root.is_null() || node.is_null() {
        return None;
    }
    // SAFETY: the caller's promise; the tag tells the kind. The costs are plain numbers.
    unsafe {
        let arguments = match (*node).type_ {
            pg_sys::NodeTag::T_OpExpr => (*node.cast::<pg_sys::OpExpr>()).args,
            pg_sys::NodeTag::T_FuncExpr => (*node.cast::<pg_sys::FuncExpr>()).args,
            _ => return None,
        };
        let arguments = PgList::<pg_sys::Node>::from_pg(arguments);
        // Both arguments have the same dimensions, or the call raises an error.
        let dims = arguments.iter_ptr().find_map(|argument| dims_of(argument))?;
        let bytes = (HEADER_BYTES + dims * size_of::<f32>()) as f64;
        let columns = arguments.iter_ptr().filter_map(|argument| column_of(root, argument));
        let fetched = columns.filter(|&(table, column)| is_elsewhere(table, column, bytes)).count();
        if fetched == 0 {
            return None;
        }
        let chunks = (bytes / TOAST_BYTES).ceil();
        let fetch = chunks * (pg_sys::cpu_index_tuple_cost + pg_sys::cpu_tuple_cost)
            + bytes / f64::from(pg_sys::BLCKSZ) * pg_sys::seq_page_cost;
        Some(pg_sys::cpu_operator_cost * operators_per_distance(dims) + fetched as f64 * fetch)
    }
}

/// The dimensions of an argument, if its type or its value has them.
///
/// # Safety
/// `argument` is an expression of type `vector`.
unsafe fn dims_of(argument: *mut pg_sys::Node) -> Option<usize> {
    // SAFETY: the caller's promise. A constant that is not NULL points to a vector, of which only the header is read.
    unsafe {
        if let Ok(dims @ 1..) = usize::try_from(pg_sys::exprTypmod(argument)) {
            return Some(dims);
        }
        if (*argument).type_ != pg_sys::NodeTag::T_Const {
            return None;
        }
        let constant = &*argument.cast::<pg_sys::Const>();
        if constant.constisnull {
            return None;
        }
        let bytes = pg_sys::toast_raw_datum_size(constant.constvalue);
        Some(bytes.saturating_sub(HEADER_BYTES) / size_of::<f32>()).filter(|&dims| dims > 0)
    }
}

/// Table and column of an argument that is a column, possibly under casts.
///
/// # Safety
/// `root` is the planner's, and `argument` an expression of its query.
unsafe fn column_of(
    root: *mut pg_sys::PlannerInfo,
    mut argument: *mut pg_sys::Node,
) -> Option<(pg_sys::Oid, pg_sys::AttrNumber)> {
    // SAFETY: the caller's promise; the tag is the node's type, and the planner has an entry for each number below the
    // size of its array.
    unsafe {
        loop {
            argument = match (*argument).type_ {
                pg_sys::NodeTag::T_RelabelType => (*argument.cast::<pg_sys::RelabelType>()).arg.cast(),
                pg_sys::NodeTag::T_FuncExpr => {
                    let arguments = (*argument.cast::<pg_sys::FuncExpr>()).args;
                    PgList::<pg_sys::Node>::from_pg(arguments).head()?
                }
                pg_sys::NodeTag::T_Var => break,
                _ => return None,
            };
        }
        let variable = &*argument.cast::<pg_sys::Var>();
        let number = usize::try_from(variable.varno).ok()?;
        let size = usize::try_from((*root).simple_rel_array_size).unwrap_or(0);
        let entries = (*root).simple_rte_array;
        if variable.varlevelsup > 0 || entries.is_null() || !(1..size).contains(&number) {
            return None;
        }
        let entry = (*entries.add(number)).as_ref()?;
        let is_table = entry.rtekind == pg_sys::RTEKind::RTE_RELATION && variable.varattno > 0;
        is_table.then_some((entry.relid, variable.varattno))
    }
}

/// Whether values of this size are in the TOAST table. The width that ANALYZE records is that of the part in the row.
fn is_elsewhere(table: pg_sys::Oid, column: pg_sys::AttrNumber, bytes: f64) -> bool {
    // SAFETY: reads the statistics through a cache; 0 where there are none.
    match unsafe { pg_sys::get_attavgwidth(table, column) } {
        width @ 1.. => f64::from(width) < bytes / 2.0,
        _ => bytes > TOAST_BYTES,
    }
}
