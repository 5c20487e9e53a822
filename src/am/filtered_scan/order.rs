//! Whether an index gives the order that a query asks for.

use pgrx::pg_sys::{self, NodeTag};

use super::distance_expression::{IndexedDistance, Linear, Monotonic};
use crate::pg::list::{element, elements};

/// The operator family of B-trees over floats (pg_opfamily.dat).
const FLOAT_OPERATORS: u32 = 1970;
/// PostgreSQL's strategy numbers of ascending and descending order (access/stratnum.h, executor/cmptype.h).
const ASCENDING: u32 = 1;
const DESCENDING: u32 = 5;

/// An order that an index gives.
pub struct Ordering {
    pub expression: *mut pg_sys::Node,
    pub monotonic: Monotonic,
    /// Whether PostgreSQL itself sees that it does.
    pub is_plain: bool,
}

/// How a path key orders the rows of `table`, if the index gives that order.
///
/// # Safety
/// `table` and `key` belong to the query that is being planned.
pub unsafe fn ordering(
    order: &IndexedDistance,
    table: *mut pg_sys::RelOptInfo,
    key: *mut pg_sys::PathKey,
) -> Option<Ordering> {
    // SAFETY: the planner's own nodes.
    unsafe {
        let class = (*key).pk_eclass;
        if (*class).ec_has_volatile || (*key).pk_opfamily.to_u32() != FLOAT_OPERATORS {
            return None;
        }
        #[cfg(not(feature = "pg18"))]
        let direction = (*key).pk_strategy as u32;
        #[cfg(feature = "pg18")]
        let direction = (*key).pk_cmptype as u32;
        let falls = match direction {
            ASCENDING => false,
            DESCENDING => true,
            _ => return None,
        };
        let member =
            members(class, table).find(|member| pg_sys::bms_equal((**member).em_relids, (*table).relids))?;
        let expression: *mut pg_sys::Node = (*member).em_expr.cast();
        let monotonic = order.monotonic(expression)?;
        // Rows without a vector are not in the index. Where they would come last, they are left out as from any such
        // scan.
        if monotonic.falls != falls || ((*key).pk_nulls_first && !rejects_nulls(table, expression)) {
            return None;
        }
        let is_plain = (*expression).type_ == NodeTag::T_OpExpr
            && !falls
            && !(*key).pk_nulls_first
            && monotonic.linear == Some(Linear { scale: 1.0, offset: 0.0 });
        Some(Ordering { expression, monotonic, is_plain })
    }
}

/// The members of an equivalence class that can be about `table`.
///
/// # Safety
/// Both belong to the query that is being planned.
unsafe fn members(
    class: *mut pg_sys::EquivalenceClass,
    table: *mut pg_sys::RelOptInfo,
) -> impl Iterator<Item = *mut pg_sys::EquivalenceMember> {
    // SAFETY: a class has a list of members; since PostgreSQL 18 those of a partition are in a list of its own.
    let lists = unsafe {
        #[cfg(feature = "pg18")]
        let of_child = {
            let (children, number) = ((*class).ec_childmembers, (*table).relid as i32);
            let has_some = !children.is_null() && number < (*class).ec_childmembers_size;
            if has_some { *children.add(number as usize) } else { core::ptr::null_mut() }
        };
        #[cfg(not(feature = "pg18"))]
        let of_child = {
            let _ = table;
            core::ptr::null_mut()
        };
        [(*class).ec_members, of_child]
    };
    // SAFETY: lists of members.
    lists.into_iter().flat_map(|list| unsafe { elements(list) })
}

/// Whether no row can pass the query's conditions on `table` of which `expression` is NULL.
///
/// # Safety
/// Both belong to the query that is being planned.
unsafe fn rejects_nulls(table: *mut pg_sys::RelOptInfo, expression: *mut pg_sys::Node) -> bool {
    // SAFETY: the planner's own nodes. Conditions that cannot hold for a NULL name the variables that are not NULL
    // then.
    unsafe {
        let conditions = pg_sys::extract_actual_clauses((*table).baserestrictinfo, false);
        let not_null = pg_sys::find_nonnullable_vars(conditions.cast());
        let variables = pg_sys::pull_var_clause(expression, 0);
        !variables.is_null()
            && elements::<pg_sys::Var>(variables).all(|variable| {
                let number = (*variable).varattno;
                is_declared_not_null(table, number) || is_among(not_null, table, number)
            })
    }
}

/// # Safety
/// `variables` is what `find_nonnullable_vars` returned.
unsafe fn is_among(variables: *mut pg_sys::List, table: *mut pg_sys::RelOptInfo, number: i16) -> bool {
    // SAFETY: a multi-bitmapset: for each table of the query a set of columns (nodes/multibitmapset.h); in PostgreSQL
    // 15 a list of variables.
    unsafe {
        let relation = (*table).relid as i32;
        #[cfg(feature = "pg15")]
        return elements::<pg_sys::Var>(variables).any(|variable| {
            #[allow(clippy::unnecessary_cast, reason = "its type differs between majors")]
            let of_table = (*variable).varno as i32 == relation;
            of_table && (*variable).varattno == number
        });
        #[cfg(not(feature = "pg15"))]
        return elements::<pg_sys::Bitmapset>(variables).nth(relation as usize).is_some_and(|columns| {
            pg_sys::bms_is_member(i32::from(number) - pg_sys::FirstLowInvalidHeapAttributeNumber, columns)
        });
    }
}

/// # Safety
/// `table` is a table of the query, locked.
unsafe fn is_declared_not_null(table: *mut pg_sys::RelOptInfo, number: i16) -> bool {
    // SAFETY: the planner keeps the set of columns that are declared NOT NULL since PostgreSQL 17; before, an index's
    // description leads to its table.
    unsafe {
        let index: *mut pg_sys::IndexOptInfo = element((*table).indexlist, 0);
        let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
        let relation = pg_sys::index_open((*index).indexoid, no_lock);
        let oid = (*(*relation).rd_index).indrelid;
        pg_sys::index_close(relation, no_lock);
        let tuple = pg_sys::SearchSysCache2(
            pg_sys::SysCacheIdentifier::ATTNUM as i32,
            oid.into(),
            pg_sys::Datum::from(number),
        );
        if tuple.is_null() {
            return false;
        }
        let attribute: *mut pg_sys::FormData_pg_attribute = pg_sys::GETSTRUCT(tuple).cast();
        let not_null = (*attribute).attnotnull;
        pg_sys::ReleaseSysCache(tuple);
        not_null
    }
}
