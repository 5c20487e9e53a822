//! What EXPLAIN shows of the node beside its filter and its child.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::plan::{falls, index_of, plan_of};
use crate::pg::list::element;

#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn explain(
    node: *mut pg_sys::CustomScanState,
    ancestors: *mut pg_sys::List,
    explain: *mut pg_sys::ExplainState,
) {
    // SAFETY: PostgreSQL's own argument, a node of ours.
    let plan = unsafe { plan_of(node) };
    // SAFETY: looks a catalogue row up by its oid.
    let name = unsafe { pg_sys::get_rel_name(index_of(plan)) };
    if !name.is_null() {
        // SAFETY: a name, and the output that PostgreSQL gave.
        unsafe { pg_sys::ExplainPropertyText(c"Index Name".as_ptr(), name, explain) };
    }
    // SAFETY: PostgreSQL's own argument.
    let output = unsafe { &*explain };
    let node = core::ptr::from_ref(plan).cast_mut().cast();
    // SAFETY: the context that PostgreSQL made for this query, and a plan in it.
    let context = unsafe { pg_sys::set_deparse_context_plan(output.deparse_cxt, node, ancestors) };
    // SAFETY: the query's list of tables.
    let several_tables = unsafe { pg_sys::list_length(output.rtable) } > 1 || output.verbose;
    // SAFETY: `plan_path` made the list.
    let order: *mut pg_sys::Node = unsafe { element(plan.custom_exprs, 0) };
    // SAFETY: an expression of the plan that the context is for.
    let order = unsafe { pg_sys::deparse_expression(order, context, several_tables, false) };
    // SAFETY: a C string in the current memory context.
    let order = unsafe { CStr::from_ptr(order) }.to_bytes();
    let direction: &[u8] = if falls(plan) { b" DESC\0" } else { b"\0" };
    let order = [order, direction].concat();
    // SAFETY: a string that ends with a zero byte, and the output that PostgreSQL gave.
    unsafe { pg_sys::ExplainPropertyText(c"Order By".as_ptr(), order.as_ptr().cast(), explain) };
}
