//! Paths of the node for the planner, and the plan that becomes of the one it takes.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::pg_sys::{self, NodeTag};

use super::cost::{self, Work};
use super::execute;
use super::shape::{IndexOrder, Linear, Monotonic, Radius};
use crate::am::cost::amcostestimate;
use crate::am::plan_hint;

/// As EXPLAIN shows it.
pub const NAME: &CStr = c"FaissScan";

/// The operator family of B-trees over floats (pg_opfamily.dat).
const FLOAT_OPERATORS: u32 = 1970;
/// PostgreSQL's strategy numbers of ascending and descending order (access/stratnum.h, executor/cmptype.h).
const ASCENDING: u32 = 1;
const DESCENDING: u32 = 5;

/// A static structure of function pointers and names.
#[repr(transparent)]
struct Methods<T>(T);
// SAFETY: never written; PostgreSQL reads it on the main thread.
unsafe impl<T> Sync for Methods<T> {}

static PATH_METHODS: Methods<pg_sys::CustomPathMethods> = Methods(pg_sys::CustomPathMethods {
    CustomName: NAME.as_ptr(),
    PlanCustomPath: Some(plan_path),
    ReparameterizeCustomPathByChild: None,
});

static SCAN_METHODS: Methods<pg_sys::CustomScanMethods> = Methods(pg_sys::CustomScanMethods {
    CustomName: NAME.as_ptr(),
    CreateCustomScanState: Some(execute::create),
});

thread_local! {
    /// The hook that was there before.
    static NEXT: Cell<pg_sys::set_rel_pathlist_hook_type> = const { Cell::new(None) };
}

/// Installs the planner's hook, in `_PG_init`.
pub fn initialise() {
    // SAFETY: on the main thread, while the library is loaded.
    unsafe {
        NEXT.set(pg_sys::set_rel_pathlist_hook);
        pg_sys::set_rel_pathlist_hook = Some(set_rel_pathlist);
        pg_sys::RegisterCustomScanMethods(&raw const SCAN_METHODS.0);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn set_rel_pathlist(
    root: *mut pg_sys::PlannerInfo,
    table: *mut pg_sys::RelOptInfo,
    number: pg_sys::Index,
    entry: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: PostgreSQL's own arguments.
    unsafe {
        if let Some(next) = NEXT.get() {
            next(root, table, number, entry);
        }
        let is_table = (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION && !(*entry).inh;
        if is_table && pg_sys::enable_indexscan {
            add_paths(root, table);
        }
    }
}

/// Offers a path for each faiss index that gives the order that the query asks for first.
///
/// # Safety
/// `table` is a table of the query that `root` plans, whose other paths are made.
unsafe fn add_paths(root: *mut pg_sys::PlannerInfo, table: *mut pg_sys::RelOptInfo) {
    // SAFETY: lists of the planner's nodes.
    unsafe {
        let (wanted, indexes) = ((*root).query_pathkeys, (*table).indexlist);
        if wanted.is_null() {
            return;
        }
        for at in 0..length(indexes) {
            let index: *mut pg_sys::IndexOptInfo = pg_sys::list_nth(indexes, at).cast();
            let is_faiss = (*index).amcostestimate.is_some_and(|estimate| {
                std::ptr::fn_addr_eq(
                    estimate,
                    amcostestimate as unsafe extern "C-unwind" fn(_, _, _, _, _, _, _, _),
                )
            });
            let hint = plan_hint::is_filtered(root, (*index).indexoid);
            if !is_faiss
                || (*index).hypothetical
                || (!(*index).indpred.is_null() && !(*index).predOK)
                || hint == Some(false)
            {
                continue;
            }
            let key: *mut pg_sys::PathKey = pg_sys::list_nth(wanted, 0).cast();
            if let Some(order) = IndexOrder::new(root, index)
                && let Some(ordering) = ordering(&order, table, key)
                && (!ordering.is_plain || !(*table).baserestrictinfo.is_null() || length(wanted) > 1)
            {
                add_path(root, table, index, &order, &ordering, key);
            }
        }
    }
}

/// An order that an index gives.
struct Ordering {
    expression: *mut pg_sys::Node,
    monotonic: Monotonic,
    /// Whether PostgreSQL itself sees that it does.
    is_plain: bool,
}

/// How a path key orders the rows of `table`, if the index gives that order.
///
/// # Safety
/// `table` and `key` belong to the query that is being planned.
unsafe fn ordering(
    order: &IndexOrder,
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
        // Rows without a vector are not in the index. Where they would come last, they are left out as from any such scan.
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
    lists.into_iter().flat_map(|list| unsafe {
        (0..length(list)).map(move |at| pg_sys::list_nth(list, at).cast::<pg_sys::EquivalenceMember>())
    })
}

/// Whether no row can pass the query's conditions on `table` of which `expression` is NULL.
///
/// # Safety
/// Both belong to the query that is being planned.
unsafe fn rejects_nulls(table: *mut pg_sys::RelOptInfo, expression: *mut pg_sys::Node) -> bool {
    // SAFETY: the planner's own nodes. Conditions that cannot hold for a NULL name the variables that are not NULL then.
    unsafe {
        let conditions = pg_sys::extract_actual_clauses((*table).baserestrictinfo, false);
        let not_null = pg_sys::find_nonnullable_vars(conditions.cast());
        let variables = pg_sys::pull_var_clause(expression, 0);
        length(variables) > 0
            && (0..length(variables)).all(|at| {
                let variable: *mut pg_sys::Var = pg_sys::list_nth(variables, at).cast();
                let number = (*variable).varattno;
                is_declared_not_null(table, number) || is_among(not_null, table, number)
            })
    }
}

/// # Safety
/// `variables` is what `find_nonnullable_vars` returned.
unsafe fn is_among(variables: *mut pg_sys::List, table: *mut pg_sys::RelOptInfo, number: i16) -> bool {
    // SAFETY: a multi-bitmapset: for each table of the query a set of columns (nodes/multibitmapset.h); in PostgreSQL 15
    // a list of variables.
    unsafe {
        let relation = (*table).relid as i32;
        #[cfg(feature = "pg15")]
        return (0..length(variables)).any(|at| {
            let variable: *mut pg_sys::Var = pg_sys::list_nth(variables, at).cast();
            #[allow(clippy::unnecessary_cast, reason = "its type differs between majors")]
            let of_table = (*variable).varno as i32 == relation;
            of_table && (*variable).varattno == number
        });
        #[cfg(not(feature = "pg15"))]
        return relation < length(variables) && {
            let columns: *mut pg_sys::Bitmapset = pg_sys::list_nth(variables, relation).cast();
            pg_sys::bms_is_member(i32::from(number) - pg_sys::FirstLowInvalidHeapAttributeNumber, columns)
        };
    }
}

/// # Safety
/// `table` is a table of the query, locked.
unsafe fn is_declared_not_null(table: *mut pg_sys::RelOptInfo, number: i16) -> bool {
    // SAFETY: the planner keeps the set of columns that are declared NOT NULL since PostgreSQL 17; before, an index's
    // description leads to its table.
    unsafe {
        let indexes = (*table).indexlist;
        let index: *mut pg_sys::IndexOptInfo = pg_sys::list_nth(indexes, 0).cast();
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

/// # Safety
/// Everything belongs to the query that is being planned.
unsafe fn add_path(
    root: *mut pg_sys::PlannerInfo,
    table: *mut pg_sys::RelOptInfo,
    index: *mut pg_sys::IndexOptInfo,
    order: &IndexOrder,
    ordering: &Ordering,
    key: *mut pg_sys::PathKey,
) {
    // SAFETY: the node's memory is the planner's; its fields are set as PostgreSQL's own path functions do
    // (optimizer/util/pathnode.c).
    unsafe {
        let outer = (*table).lateral_relids;
        let bitmap = bitmap_path(root, table, outer);
        let radius = radius(order, table, ordering.monotonic.query);
        let work = Work { root, table, index, bitmap, has_radius: radius.is_some() };
        let mut path = pgrx::PgBox::<pg_sys::CustomPath>::alloc_node(NodeTag::T_CustomPath);
        path.path.pathtype = NodeTag::T_CustomScan;
        path.path.parent = table;
        path.path.pathtarget = (*table).reltarget;
        path.path.param_info = pg_sys::get_baserel_parampathinfo(root, table, outer);
        path.path.rows = (*table).rows;
        path.path.pathkeys = pg_sys::lappend(core::ptr::null_mut(), key.cast());
        // A hinted index is to be taken, whatever it costs.
        let is_hinted = plan_hint::is_filtered(root, (*index).indexoid).is_some();
        (path.path.startup_cost, path.path.total_cost) = if is_hinted { (0.0, 0.0) } else { cost::of(&work) };
        path.flags = pg_sys::CUSTOMPATH_SUPPORT_PROJECTION;
        if let Some(bitmap) = bitmap {
            path.custom_paths = pg_sys::lappend(core::ptr::null_mut(), bitmap.cast());
        }
        path.custom_private = private(index, ordering, radius);
        path.methods = &raw const PATH_METHODS.0;
        if ordering.is_plain && !(*table).baserestrictinfo.is_null() {
            remove_index_scans(table, index);
        }
        pg_sys::add_path(table, path.into_pg().cast());
    }
}

/// Takes away the scans of a faiss index that know nothing of the conditions.
///
/// # Safety
/// Both belong to the query that is being planned.
unsafe fn remove_index_scans(table: *mut pg_sys::RelOptInfo, index: *mut pg_sys::IndexOptInfo) {
    // SAFETY: the tag says what a path is.
    unsafe {
        let paths = (*table).pathlist;
        (*table).pathlist = (0..length(paths))
            .map(|at| pg_sys::list_nth(paths, at).cast::<pg_sys::IndexPath>())
            .filter(|path| {
                let is_scan = (**path).path.type_ == NodeTag::T_IndexPath && (**path).indexinfo == index;
                !is_scan
                    || !pg_sys::bms_equal(required_outer((**path).path.param_info), (*table).lateral_relids)
            })
            .fold(core::ptr::null_mut(), |list, path| pg_sys::lappend(list, path.cast()));
    }
}

/// # Safety
/// `info` is a path's, or null.
unsafe fn required_outer(info: *mut pg_sys::ParamPathInfo) -> pg_sys::Relids {
    // SAFETY: the caller's promise.
    if info.is_null() { core::ptr::null_mut() } else { unsafe { (*info).ppi_req_outer } }
}

/// The radius of a condition on the distance that the order goes by.
///
/// # Safety
/// Everything belongs to the query that is being planned.
unsafe fn radius(
    order: &IndexOrder,
    table: *mut pg_sys::RelOptInfo,
    query: *mut pg_sys::Node,
) -> Option<Radius> {
    // SAFETY: the table's conditions are RestrictInfo nodes.
    unsafe {
        let conditions = (*table).baserestrictinfo;
        (0..length(conditions)).find_map(|at| {
            let condition: *mut pg_sys::RestrictInfo = pg_sys::list_nth(conditions, at).cast();
            order.radius((*condition).clause.cast(), query)
        })
    }
}

/// A bitmap of the table's own indexes that answers the conditions, or a part of them.
///
/// # Safety
/// Everything belongs to the query that is being planned.
unsafe fn bitmap_path(
    root: *mut pg_sys::PlannerInfo,
    table: *mut pg_sys::RelOptInfo,
    outer: pg_sys::Relids,
) -> Option<*mut pg_sys::BitmapHeapPath> {
    // SAFETY: the lists are the table's own, and put back before anybody else sees them.
    unsafe {
        if (*table).baserestrictinfo.is_null() || length((*table).indexlist) < 2 {
            return None;
        }
        // PostgreSQL has thrown away what is dearer than reading the table, or than another of its paths: it does not
        // know that the table need not be read. So its paths are made once more, among themselves.
        let lists = ((*table).pathlist, (*table).partial_pathlist);
        ((*table).pathlist, (*table).partial_pathlist) = (core::ptr::null_mut(), core::ptr::null_mut());
        pg_sys::create_index_paths(root, table);
        let paths = (*table).pathlist;
        ((*table).pathlist, (*table).partial_pathlist) = lists;
        cheapest_bitmap(root, table, paths, outer)
    }
}

/// # Safety
/// Everything belongs to the query that is being planned; `paths` are the table's.
unsafe fn cheapest_bitmap(
    root: *mut pg_sys::PlannerInfo,
    table: *mut pg_sys::RelOptInfo,
    paths: *mut pg_sys::List,
    outer: pg_sys::Relids,
) -> Option<*mut pg_sys::BitmapHeapPath> {
    // SAFETY: the tag says what a path is.
    unsafe {
        let at = |at| -> *mut pg_sys::Path { pg_sys::list_nth(paths, at).cast() };
        let is_usable = |path: &*mut pg_sys::Path| {
            pg_sys::bms_equal(required_outer((**path).param_info), outer) && (**path).parallel_workers == 0
        };
        let by_cost =
            |a: &*mut pg_sys::Path, b: &*mut pg_sys::Path| (**a).total_cost.total_cmp(&(**b).total_cost);
        let bitmaps = (0..length(paths)).map(at).filter(|path| (**path).type_ == NodeTag::T_BitmapHeapPath);
        if let Some(path) = bitmaps.filter(is_usable).min_by(by_cost) {
            return Some(path.cast());
        }
        // An index scan that is cheaper than the bitmap of the same index has taken its place.
        let scans = (0..length(paths)).map(at).filter(|path| {
            let scan: *mut pg_sys::IndexPath = (*path).cast();
            (**path).type_ == NodeTag::T_IndexPath
                && !(*scan).indexclauses.is_null()
                && (*(*scan).indexinfo).amhasgetbitmap
        });
        let cheapest = scans.filter(is_usable).min_by(by_cost)?;
        Some(pg_sys::create_bitmap_heap_path(root, table, cheapest, outer, 1.0, 0))
    }
}

/// What the plan needs: `[index, falls, order, query, [bound, scale, offset]]`, of which the first two are integers and the
/// rest expressions, the last three those of the radius.
///
/// # Safety
/// Nodes of the query that is being planned.
unsafe fn private(
    index: *mut pg_sys::IndexOptInfo,
    ordering: &Ordering,
    radius: Option<Radius>,
) -> *mut pg_sys::List {
    // SAFETY: makes list cells in the planner's memory.
    unsafe {
        let index = pg_sys::makeInteger((*index).indexoid.to_u32().cast_signed());
        let falls = pg_sys::makeInteger(i32::from(ordering.monotonic.falls));
        let list = pg_sys::lappend(core::ptr::null_mut(), index.cast());
        let list = pg_sys::lappend(list, falls.cast());
        let list = pg_sys::lappend(list, ordering.expression.cast());
        let list = pg_sys::lappend(list, ordering.monotonic.query.cast());
        radius.map_or(list, |radius| {
            let list = pg_sys::lappend(list, radius.bound.cast());
            [radius.linear.scale, radius.linear.offset]
                .into_iter()
                .fold(list, |list, value| pg_sys::lappend(list, float8_constant(value).cast()))
        })
    }
}

fn float8_constant(value: f64) -> *mut pg_sys::Const {
    let datum = pg_sys::Datum::from(value.to_bits());
    // SAFETY: a constant of a type that is passed by value.
    unsafe { pg_sys::makeConst(pg_sys::FLOAT8OID, -1, pg_sys::InvalidOid, 8, datum, false, true) }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn plan_path(
    _root: *mut pg_sys::PlannerInfo,
    table: *mut pg_sys::RelOptInfo,
    path: *mut pg_sys::CustomPath,
    targets: *mut pg_sys::List,
    conditions: *mut pg_sys::List,
    children: *mut pg_sys::List,
) -> *mut pg_sys::Plan {
    // SAFETY: `path` is one of those above; PostgreSQL sorts the conditions as they must be evaluated, and copies the
    // costs into the plan.
    unsafe {
        let mut scan = pgrx::PgBox::<pg_sys::CustomScan>::alloc_node(NodeTag::T_CustomScan);
        scan.scan.plan.targetlist = targets;
        scan.scan.plan.qual = pg_sys::extract_actual_clauses(conditions, false);
        scan.scan.scanrelid = (*table).relid;
        scan.flags = (*path).flags;
        scan.custom_plans = children;
        // PostgreSQL looks through expressions.
        let private = (*path).custom_private;
        let part = |range: std::ops::Range<i32>| {
            range.fold(core::ptr::null_mut(), |list, at| pg_sys::lappend(list, pg_sys::list_nth(private, at)))
        };
        (scan.custom_private, scan.custom_exprs) = (part(0..2), part(2..length(private)));
        scan.methods = &raw const SCAN_METHODS.0;
        scan.into_pg().cast()
    }
}

/// # Safety
/// A valid list, or null, which is the empty one.
pub unsafe fn length(list: *const pg_sys::List) -> i32 {
    // SAFETY: the caller's promise.
    if list.is_null() { 0 } else { unsafe { (*list).length } }
}
