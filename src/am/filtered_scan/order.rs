//! Whether an index gives the order that a query asks for.

use pgrx::pg_sys;

use super::distance_expression::{IndexedDistance, Linear, Monotonic};
use crate::pg::expression::Expression;
use crate::pg::list::{element, references};

/// The operator family of B-trees over floats (pg_opfamily.dat).
const FLOAT_OPERATORS: u32 = 1970;
/// PostgreSQL's strategy numbers of ascending and descending order (access/stratnum.h, executor/cmptype.h).
const ASCENDING: u32 = 1;
const DESCENDING: u32 = 5;

/// An order that an index gives.
pub struct Ordering {
    pub expression: Expression,
    pub monotonic: Monotonic,
    /// Whether PostgreSQL itself sees that it does.
    pub is_plain: bool,
}

/// How a path key orders the rows of `table`, if the index gives that order.
///
/// # Safety
/// `table` and `key` belong to the query that is being planned, for as long as the result is used.
pub unsafe fn ordering(
    order: &IndexedDistance,
    table: &pg_sys::RelOptInfo,
    key: &pg_sys::PathKey,
) -> Option<Ordering> {
    // SAFETY: a path key has a class.
    let class = unsafe { &*key.pk_eclass };
    if class.ec_has_volatile || key.pk_opfamily.to_u32() != FLOAT_OPERATORS {
        return None;
    }
    #[cfg(not(feature = "pg18"))]
    let direction = key.pk_strategy as u32;
    #[cfg(feature = "pg18")]
    let direction = key.pk_cmptype;
    let falls = match direction {
        ASCENDING => false,
        DESCENDING => true,
        _ => return None,
    };
    // SAFETY: both belong to the same query.
    let mut members = unsafe { members(class, table) };
    // SAFETY: two sets of the planner's.
    let member = members.find(|member| unsafe { pg_sys::bms_equal(member.em_relids, table.relids) })?;
    // SAFETY: the planner keeps it.
    let expression = unsafe { Expression::new(member.em_expr) }?;
    let monotonic = order.monotonic(expression)?;
    // Rows without a vector are not in the index. Where they would come last, they are left out as from any such scan.
    // SAFETY: both belong to the same query.
    if monotonic.falls != falls || (key.pk_nulls_first && !unsafe { rejects_nulls(table, expression) }) {
        return None;
    }
    let is_plain = expression.as_a::<pg_sys::OpExpr>().is_some()
        && !falls
        && !key.pk_nulls_first
        && monotonic.linear == Some(Linear { scale: 1.0, offset: 0.0 });
    Some(Ordering { expression, monotonic, is_plain })
}

/// The members of an equivalence class that can be about `table`.
///
/// # Safety
/// Both belong to the query that is being planned.
unsafe fn members<'a>(
    class: &'a pg_sys::EquivalenceClass,
    table: &pg_sys::RelOptInfo,
) -> impl Iterator<Item = &'a pg_sys::EquivalenceMember> + use<'a> {
    // Since PostgreSQL 18 the members of a partition are in a list of its own.
    #[cfg(feature = "pg18")]
    let of_child = {
        let (children, number) = (class.ec_childmembers, table.relid as i32);
        let has_some = !children.is_null() && number < class.ec_childmembers_size;
        // SAFETY: the array has a list for each number below its size.
        if has_some { unsafe { *children.wrapping_add(number as usize) } } else { core::ptr::null_mut() }
    };
    #[cfg(not(feature = "pg18"))]
    let of_child = {
        let _ = table;
        core::ptr::null_mut()
    };
    // SAFETY: lists of members, which stay as they are while orders are compared with the index's.
    [class.ec_members, of_child].into_iter().flat_map(|list| unsafe { references(list) })
}

/// Whether no row can pass the query's conditions on `table` of which `expression` is NULL.
///
/// # Safety
/// Both belong to the query that is being planned.
unsafe fn rejects_nulls(table: &pg_sys::RelOptInfo, expression: Expression) -> bool {
    // SAFETY: the table's conditions.
    let conditions = unsafe { pg_sys::extract_actual_clauses(table.baserestrictinfo, false) };
    // Conditions that cannot hold for a NULL name the variables that are not NULL then.
    // SAFETY: the list that was just made.
    let not_null = unsafe { pg_sys::find_nonnullable_vars(conditions.cast()) };
    // SAFETY: an expression of the query.
    let variables = unsafe { pg_sys::pull_var_clause(expression.as_ptr(), 0) };
    // SAFETY: a list of variables.
    let mut numbers = unsafe { references::<pg_sys::Var>(variables) }.map(|variable| variable.varattno);
    !variables.is_null()
        && numbers.all(|number| {
            // SAFETY: a table of the query, which is locked.
            let is_declared = unsafe { is_declared_not_null(table, number) };
            // SAFETY: what `find_nonnullable_vars` returned.
            is_declared || unsafe { is_among(not_null, table, number) }
        })
}

/// # Safety
/// `variables` is what `find_nonnullable_vars` returned.
unsafe fn is_among(variables: *mut pg_sys::List, table: &pg_sys::RelOptInfo, number: i16) -> bool {
    let relation = table.relid as i32;
    #[cfg(feature = "pg15")]
    {
        // SAFETY: a list of variables.
        unsafe { references::<pg_sys::Var>(variables) }.any(|variable| {
            #[allow(clippy::unnecessary_cast, reason = "its type differs between majors")]
            let of_table = variable.varno as i32 == relation;
            of_table && variable.varattno == number
        })
    }
    #[cfg(not(feature = "pg15"))]
    {
        // SAFETY: for each table of the query a set of columns, or null (nodes/multibitmapset.h).
        let mut tables = unsafe { crate::pg::list::elements::<pg_sys::Bitmapset>(variables) };
        tables.nth(relation as usize).is_some_and(|columns| {
            let column = i32::from(number) - pg_sys::FirstLowInvalidHeapAttributeNumber;
            // SAFETY: a set, or null, which is the empty one.
            unsafe { pg_sys::bms_is_member(column, columns) }
        })
    }
}

/// # Safety
/// `table` is a table of the query, locked, with an index.
unsafe fn is_declared_not_null(table: &pg_sys::RelOptInfo, number: i16) -> bool {
    // The planner keeps the set of columns that are declared NOT NULL since PostgreSQL 17; before, an index leads to
    // its table.
    // SAFETY: the list has an index, by the caller's promise.
    let index: *mut pg_sys::IndexOptInfo = unsafe { element(table.indexlist, 0) };
    // SAFETY: the planner's description of it.
    let index = unsafe { (*index).indexoid };
    // SAFETY: looks a catalogue row up by its oid.
    let oid = unsafe { pg_sys::IndexGetRelation(index, false) };
    let cache = pg_sys::SysCacheIdentifier::ATTNUM as i32;
    // SAFETY: looks a catalogue row up by its key.
    let tuple = unsafe { pg_sys::SearchSysCache2(cache, oid.into(), pg_sys::Datum::from(number)) };
    if tuple.is_null() {
        return false;
    }
    // SAFETY: a tuple of the cache.
    let attribute: *mut pg_sys::FormData_pg_attribute = unsafe { pg_sys::GETSTRUCT(tuple) }.cast();
    // SAFETY: of pg_attribute, until it is released.
    let not_null = unsafe { (*attribute).attnotnull };
    // SAFETY: looked up above.
    unsafe { pg_sys::ReleaseSysCache(tuple) };
    not_null
}
