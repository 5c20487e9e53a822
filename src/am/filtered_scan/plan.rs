//! Paths of the node for the planner, and the plan that becomes of the one it takes.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::pg_sys::{self, NodeTag};

use super::cost::{self, Work};
use super::distance_expression::{IndexedDistance, Radius};
use super::execute;
use super::order::{Ordering, ordering};
use crate::am::cost::amcostestimate;
use crate::am::plan_hint;
use crate::pg::list::{element, elements, list_of};

/// As EXPLAIN shows it.
pub const NAME: &CStr = c"FaissScan";

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
        let is_table = (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
            && !(*entry).inh
            && (*entry).tablesample.is_null()
            && !pg_sys::is_dummy_rel(table);
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
        for index in elements::<pg_sys::IndexOptInfo>(indexes) {
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
            let key: *mut pg_sys::PathKey = element(wanted, 0);
            if let Some(order) = IndexedDistance::new(root, index)
                && let Some(ordering) = ordering(&order, table, key)
                && (!ordering.is_plain || !(*table).baserestrictinfo.is_null() || (*wanted).length > 1)
            {
                add_path(root, table, index, &order, &ordering, key);
            }
        }
    }
}

/// # Safety
/// Everything belongs to the query that is being planned.
unsafe fn add_path(
    root: *mut pg_sys::PlannerInfo,
    table: *mut pg_sys::RelOptInfo,
    index: *mut pg_sys::IndexOptInfo,
    order: &IndexedDistance,
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
        path.path.pathkeys = list_of([key]);
        // A hinted index is to be taken, whatever it costs.
        let is_hinted = plan_hint::is_filtered(root, (*index).indexoid).is_some();
        (path.path.startup_cost, path.path.total_cost) = if is_hinted { (0.0, 0.0) } else { cost::of(&work) };
        path.flags = pg_sys::CUSTOMPATH_SUPPORT_PROJECTION;
        if let Some(bitmap) = bitmap {
            path.custom_paths = list_of([bitmap]);
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
        let stays = |path: &*mut pg_sys::IndexPath| {
            let is_scan = (**path).path.type_ == NodeTag::T_IndexPath && (**path).indexinfo == index;
            !is_scan || !pg_sys::bms_equal(required_outer((**path).path.param_info), (*table).lateral_relids)
        };
        (*table).pathlist = list_of(elements((*table).pathlist).filter(stays));
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
    order: &IndexedDistance,
    table: *mut pg_sys::RelOptInfo,
    query: *mut pg_sys::Node,
) -> Option<Radius> {
    // SAFETY: the table's conditions are RestrictInfo nodes.
    unsafe {
        elements::<pg_sys::RestrictInfo>((*table).baserestrictinfo)
            .find_map(|condition| order.radius((*condition).clause.cast(), query))
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
        let has_bitmaps = |index: &*mut pg_sys::IndexOptInfo| (**index).amhasgetbitmap;
        let indexes = list_of(elements((*table).indexlist).filter(has_bitmaps));
        if (*table).baserestrictinfo.is_null() || indexes.is_null() {
            return None;
        }
        // PostgreSQL has discarded paths that cost more than reading the table or than another path, because it does
        // not know that the table need not be read. So the paths of these indexes are made again, to compete with each
        // other only.
        let lists = ((*table).pathlist, (*table).partial_pathlist, (*table).indexlist);
        ((*table).pathlist, (*table).partial_pathlist) = (core::ptr::null_mut(), core::ptr::null_mut());
        (*table).indexlist = indexes;
        pg_sys::create_index_paths(root, table);
        let paths = (*table).pathlist;
        ((*table).pathlist, (*table).partial_pathlist, (*table).indexlist) = lists;
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
        let is_usable = |path: &*mut pg_sys::Path| {
            pg_sys::bms_equal(required_outer((**path).param_info), outer) && (**path).parallel_workers == 0
        };
        let by_cost =
            |a: &*mut pg_sys::Path, b: &*mut pg_sys::Path| (**a).total_cost.total_cmp(&(**b).total_cost);
        let bitmaps =
            elements::<pg_sys::Path>(paths).filter(|path| (**path).type_ == NodeTag::T_BitmapHeapPath);
        if let Some(path) = bitmaps.filter(is_usable).min_by(by_cost) {
            return Some(path.cast());
        }
        // An index scan that is cheaper than the bitmap of the same index has taken its place.
        let scans = elements::<pg_sys::Path>(paths).filter(|path| {
            let scan: *mut pg_sys::IndexPath = (*path).cast();
            (**path).type_ == NodeTag::T_IndexPath
                && !(*scan).indexclauses.is_null()
                && (*(*scan).indexinfo).amhasgetbitmap
        });
        let cheapest = scans.filter(is_usable).min_by(by_cost)?;
        Some(pg_sys::create_bitmap_heap_path(root, table, cheapest, outer, 1.0, 0))
    }
}

/// What the plan needs: `[index, falls, order, query, [bound, scale, offset]]`, of which the first two are integers and
/// the rest expressions, the last three those of the radius.
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
        let nodes: [*mut pg_sys::Node; 4] =
            [index.cast(), falls.cast(), ordering.expression, ordering.monotonic.query];
        let radius = radius.map(|radius| {
            let constants =
                [radius.linear.scale, radius.linear.offset].map(|value| float8_constant(value).cast());
            [radius.bound, constants[0], constants[1]]
        });
        list_of(nodes.into_iter().chain(radius.into_iter().flatten()))
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
        let nodes: Vec<*mut pg_sys::Node> = elements(private).collect();
        scan.custom_private = list_of(nodes[..2].iter().copied());
        scan.custom_exprs = list_of(nodes[2..].iter().copied());
        scan.methods = &raw const SCAN_METHODS.0;
        scan.into_pg().cast()
    }
}
