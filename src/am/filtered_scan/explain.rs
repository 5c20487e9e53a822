//! What EXPLAIN shows of the node beside its filter and its child.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::pg::list::element;

#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn explain(
    node: *mut pg_sys::CustomScanState,
    ancestors: *mut pg_sys::List,
    explain: *mut pg_sys::ExplainState,
) {
    // SAFETY: PostgreSQL's own arguments; `plan_path` made the plan.
    unsafe {
        let plan: *mut pg_sys::CustomScan = (*node).ss.ps.plan.cast();
        let index: *mut pg_sys::Integer = element((*plan).custom_private, 0);
        let falls: *mut pg_sys::Integer = element((*plan).custom_private, 1);
        let name = pg_sys::get_rel_name(pg_sys::Oid::from((*index).ival.cast_unsigned()));
        if !name.is_null() {
            pg_sys::ExplainPropertyText(c"Index Name".as_ptr(), name, explain);
        }
        let context = pg_sys::set_deparse_context_plan((*explain).deparse_cxt, plan.cast(), ancestors);
        let several_tables = pg_sys::list_length((*explain).rtable) > 1 || (*explain).verbose;
        let order: *mut pg_sys::Node = element((*plan).custom_exprs, 0);
        let order = pg_sys::deparse_expression(order, context, several_tables, false);
        let order = CStr::from_ptr(order).to_bytes();
        let direction: &[u8] = if (*falls).ival != 0 { b" DESC\0" } else { b"\0" };
        let order = [order, direction].concat();
        pg_sys::ExplainPropertyText(c"Order By".as_ptr(), order.as_ptr().cast(), explain);
    }
}
