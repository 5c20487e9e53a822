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
use crate::pg::callback::{self, Function};
use crate::pg::expression::Expression;
use crate::pg::list::{element, elements, list_of, references};
use crate::pg::{node, settings};

/// As EXPLAIN shows it.
pub const NAME: &CStr = c"FaissScan";

/// A static structure of function pointers and names.
#[repr(transparent)]
pub struct Methods<T>(pub T);
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
    let hook = &raw mut pg_sys::set_rel_pathlist_hook;
    // SAFETY: PostgreSQL's hook, and the library is being loaded.
    NEXT.set(unsafe { callback::install(hook, set_rel_pathlist) });
    // SAFETY: the methods are static.
    unsafe { pg_sys::RegisterCustomScanMethods(&raw const SCAN_METHODS.0) };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn set_rel_pathlist(
    root: *mut pg_sys::PlannerInfo,
    table: *mut pg_sys::RelOptInfo,
    number: pg_sys::Index,
    entry: *mut pg_sys::RangeTblEntry,
) {
    if let Some(next) = NEXT.get() {
        // SAFETY: PostgreSQL's own arguments, passed on; this frame owns nothing.
        unsafe { next.call_next((root, table, number, entry)) };
    }
    // SAFETY: the table's entry in the query.
    let entry = unsafe { &*entry };
    let is_table =
        entry.rtekind == pg_sys::RTEKind::RTE_RELATION && !entry.inh && entry.tablesample.is_null();
    // SAFETY: PostgreSQL's own argument.
    if is_table && settings::enable_indexscan() && !unsafe { pg_sys::is_dummy_rel(table) } {
        // SAFETY: a table of the query, whose other paths are made.
        unsafe { add_paths(root, table) };
    }
}

/// Offers a path for each faiss index that gives the order that the query asks for first.
///
/// # Safety
/// `table` is a table of the query that `root` plans, whose other paths are made.
unsafe fn add_paths(root: *mut pg_sys::PlannerInfo, table: *mut pg_sys::RelOptInfo) {
    // SAFETY: the caller's promise.
    let wanted = unsafe { (*root).query_pathkeys };
    // SAFETY: a list of path keys, which stays as it is.
    let mut keys = unsafe { elements::<pg_sys::PathKey>(wanted) };
    let Some(first) = keys.next() else {
        return;
    };
    let has_more_keys = keys.next().is_some();
    // SAFETY: the caller's promise.
    let indexes = unsafe { (*table).indexlist };
    // SAFETY: a list of indexes, which is put back as it was where it is replaced (`bitmap_path`).
    for index in unsafe { elements::<pg_sys::IndexOptInfo>(indexes) } {
        // SAFETY: an index of the query that is being planned.
        if !unsafe { is_usable(root, index) } {
            continue;
        }
        // SAFETY: a faiss index of the query that is being planned.
        let Some(order) = (unsafe { IndexedDistance::new(root, index) }) else {
            continue;
        };
        // SAFETY: the caller's promise; nothing changes the table while it is looked at.
        let about = unsafe { &*table };
        // SAFETY: a path key of the query.
        let key = unsafe { &*first };
        // SAFETY: of the query that is being planned.
        if let Some(ordering) = unsafe { ordering(&order, about, key) }
            && (!ordering.is_plain || !about.baserestrictinfo.is_null() || has_more_keys)
        {
            // SAFETY: of the query that is being planned.
            unsafe { add_path(root, table, index, &order, &ordering, first) };
        }
    }
}

/// Whether it is a faiss index that may answer the query.
///
/// # Safety
/// `index` belongs to the query that `root` plans.
unsafe fn is_usable(root: *const pg_sys::PlannerInfo, index: *const pg_sys::IndexOptInfo) -> bool {
    // SAFETY: the caller's promise.
    let index = unsafe { &*index };
    let is_faiss = index.amcostestimate.is_some_and(|estimate| {
        std::ptr::fn_addr_eq(estimate, amcostestimate as unsafe extern "C-unwind" fn(_, _, _, _, _, _, _, _))
    });
    is_faiss
        && !index.hypothetical
        && (index.indpred.is_null() || index.predOK)
        // SAFETY: the caller's promise.
        && unsafe { plan_hint::is_filtered(root, index.indexoid) } != Some(false)
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
    // SAFETY: the caller's promise.
    let index_oid = unsafe { (*index).indexoid };
    // SAFETY: the node's memory is the planner's, and the tag belongs to the type. Its fields are set as PostgreSQL's
    // own path functions do (optimizer/util/pathnode.c).
    let mut path = unsafe { pgrx::PgBox::<pg_sys::CustomPath>::alloc_node(NodeTag::T_CustomPath) };
    path.path.pathtype = NodeTag::T_CustomScan;
    path.path.parent = table;
    // SAFETY: the caller's promise; nothing changes the table while it is looked at.
    let about = unsafe { &*table };
    path.path.pathtarget = about.reltarget;
    path.path.rows = about.rows;
    path.path.pathkeys = list_of([key]);
    let (outer, has_conditions) = (about.lateral_relids, !about.baserestrictinfo.is_null());
    // SAFETY: the table's conditions.
    let radius = unsafe { radius(order, about, ordering.monotonic.query) };
    // SAFETY: the caller's promise.
    path.path.param_info = unsafe { pg_sys::get_baserel_parampathinfo(root, table, outer) };
    // SAFETY: the caller's promise.
    let bitmap = unsafe { bitmap_path(root, table, outer) };
    // SAFETY: the caller's promise. A hinted index is to be taken, whatever it costs.
    let is_hinted = unsafe { plan_hint::is_filtered(root, index_oid) }.is_some();
    (path.path.startup_cost, path.path.total_cost) = if is_hinted {
        (0.0, 0.0)
    } else {
        // SAFETY: everything belongs to the same query.
        unsafe { cost::of(&Work { root, table, index, bitmap, has_radius: radius.is_some() }) }
    };
    path.flags = pg_sys::CUSTOMPATH_SUPPORT_PROJECTION;
    if let Some(bitmap) = bitmap {
        path.custom_paths = list_of([bitmap]);
    }
    path.custom_private = private(index_oid, ordering, radius);
    path.methods = &raw const PATH_METHODS.0;
    if ordering.is_plain && has_conditions {
        // SAFETY: nobody else looks at the table now.
        remove_index_scans(unsafe { &mut *table }, index);
    }
    // SAFETY: a complete path.
    unsafe { pg_sys::add_path(table, path.into_pg().cast()) };
}

/// Takes away the scans of a faiss index that know nothing of the conditions.
fn remove_index_scans(table: &mut pg_sys::RelOptInfo, index: *mut pg_sys::IndexOptInfo) {
    let outer = table.lateral_relids;
    let stays = |path: &*mut pg_sys::Path| {
        // SAFETY: a path of the table.
        let scan = unsafe { node::read::<pg_sys::IndexPath>(*path) };
        !scan.is_some_and(|scan| scan.indexinfo == index && requires(&scan.path, outer))
    };
    // SAFETY: the list of the table's paths, of which another one is made.
    table.pathlist = list_of(unsafe { elements(table.pathlist) }.filter(stays));
}

/// Whether these are the tables that a path needs to be given values of.
fn requires(path: &pg_sys::Path, outer: pg_sys::Relids) -> bool {
    // SAFETY: null, or what belongs to the path.
    let info = unsafe { path.param_info.as_ref() };
    // SAFETY: two sets of the planner's, or null, which is the empty one.
    unsafe { pg_sys::bms_equal(info.map_or(core::ptr::null_mut(), |info| info.ppi_req_outer), outer) }
}

/// The radius of a condition on the distance that the order goes by.
///
/// # Safety
/// Everything belongs to the query that is being planned, for as long as the result is used.
unsafe fn radius(order: &IndexedDistance, table: &pg_sys::RelOptInfo, query: Expression) -> Option<Radius> {
    // SAFETY: the table's conditions.
    let mut conditions = unsafe { references::<pg_sys::RestrictInfo>(table.baserestrictinfo) };
    // SAFETY: a condition's expression, which the planner keeps.
    conditions.find_map(|condition| order.radius(unsafe { Expression::new(condition.clause) }?, query))
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
    // SAFETY: an element of the list of the table's indexes.
    let has_bitmaps = |index: &*mut pg_sys::IndexOptInfo| unsafe { (**index).amhasgetbitmap };
    // SAFETY: the caller's promise; nobody else looks at the table now.
    let about = unsafe { &mut *table };
    // SAFETY: the list of the table's indexes, of which another one is made.
    let indexes = list_of(unsafe { elements(about.indexlist) }.filter(has_bitmaps));
    if about.baserestrictinfo.is_null() || indexes.is_null() {
        return None;
    }
    // PostgreSQL has discarded paths that cost more than reading the table or than another path, because it does not
    // know that the table need not be read. So the paths of these indexes are made again, to compete with each other
    // only. The lists are put back before anybody else sees them.
    let lists = (about.pathlist, about.partial_pathlist, about.indexlist);
    let nothing = core::ptr::null_mut();
    (about.pathlist, about.partial_pathlist, about.indexlist) = (nothing, nothing, indexes);
    // SAFETY: the caller's promise.
    unsafe { pg_sys::create_index_paths(root, table) };
    // SAFETY: nobody else looks at the table now.
    let about = unsafe { &mut *table };
    let paths = about.pathlist;
    (about.pathlist, about.partial_pathlist, about.indexlist) = lists;
    // SAFETY: the paths of the table that were just made.
    unsafe { cheapest_bitmap(root, table, paths, outer) }
}

/// # Safety
/// Everything belongs to the query that is being planned; `paths` are the table's.
unsafe fn cheapest_bitmap(
    root: *mut pg_sys::PlannerInfo,
    table: *mut pg_sys::RelOptInfo,
    paths: *mut pg_sys::List,
    outer: pg_sys::Relids,
) -> Option<*mut pg_sys::BitmapHeapPath> {
    // SAFETY: an element of the list of paths, which nobody changes meanwhile.
    let about = |path: &*mut pg_sys::Path| unsafe { &**path };
    let usable = |is_wanted: &dyn Fn(&pg_sys::Path) -> bool| {
        // SAFETY: the caller's promise.
        unsafe { elements::<pg_sys::Path>(paths) }
            .filter(|path| is_wanted(about(path)))
            .filter(|path| requires(about(path), outer) && about(path).parallel_workers == 0)
            .min_by(|a, b| about(a).total_cost.total_cmp(&about(b).total_cost))
    };
    if let Some(path) = usable(&|path| path.type_ == NodeTag::T_BitmapHeapPath) {
        return Some(path.cast());
    }
    // An index scan that is cheaper than the bitmap of the same index has taken its place.
    let cheapest = usable(&|path| {
        // SAFETY: a path of the planner's.
        let scan = unsafe { node::read::<pg_sys::IndexPath>(path) };
        // SAFETY: a scan has an index.
        scan.is_some_and(|scan| !scan.indexclauses.is_null() && unsafe { (*scan.indexinfo).amhasgetbitmap })
    })?;
    // SAFETY: a path of an index of the table.
    Some(unsafe { pg_sys::create_bitmap_heap_path(root, table, cheapest, outer, 1.0, 0) })
}

/// What the plan needs: `[index, falls, order, query, [bound, scale, offset]]`, of which the first two are integers and
/// the rest expressions, the last three those of the radius.
fn private(index: pg_sys::Oid, ordering: &Ordering, radius: Option<Radius>) -> *mut pg_sys::List {
    // SAFETY: makes a node in the planner's memory.
    let integer = |value| unsafe { pg_sys::makeInteger(value) }.cast();
    let nodes: [*mut pg_sys::Node; 4] = [
        integer(index.to_u32().cast_signed()),
        integer(i32::from(ordering.monotonic.falls)),
        ordering.expression.as_ptr(),
        ordering.monotonic.query.as_ptr(),
    ];
    let radius = radius.map(|Radius { bound, linear }| {
        [bound.as_ptr(), float8_constant(linear.scale).cast(), float8_constant(linear.offset).cast()]
    });
    list_of(nodes.into_iter().chain(radius.into_iter().flatten()))
}

/// A node's plan.
///
/// # Safety
/// `node` is one of ours, and lives for 'a.
pub unsafe fn plan_of<'a>(node: *const pg_sys::CustomScanState) -> &'a pg_sys::CustomScan {
    // SAFETY: the caller's promise.
    let plan = unsafe { (*node).ss.ps.plan };
    // SAFETY: `plan_path` made it.
    unsafe { &*plan.cast() }
}

/// The index that a plan searches.
pub fn index_of(plan: &pg_sys::CustomScan) -> pg_sys::Oid {
    pg_sys::Oid::from(integer(plan, 0).cast_unsigned())
}

/// Whether a plan's order falls as the distance rises.
pub fn falls(plan: &pg_sys::CustomScan) -> bool {
    integer(plan, 1) != 0
}

fn integer(plan: &pg_sys::CustomScan, at: usize) -> i32 {
    // SAFETY: `plan_path` made the list, of integers.
    let integer: *mut pg_sys::Integer = unsafe { element(plan.custom_private, at) };
    // SAFETY: an integer.
    unsafe { (*integer).ival }
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
    // SAFETY: one of those above.
    let path = unsafe { &*path };
    // SAFETY: the node's memory is the planner's, and the tag belongs to the type. PostgreSQL copies the costs into it.
    let mut scan = unsafe { pgrx::PgBox::<pg_sys::CustomScan>::alloc_node(NodeTag::T_CustomScan) };
    scan.scan.plan.targetlist = targets;
    // SAFETY: the table's conditions, which PostgreSQL has sorted as they must be evaluated.
    scan.scan.plan.qual = unsafe { pg_sys::extract_actual_clauses(conditions, false) };
    // SAFETY: PostgreSQL's own argument.
    scan.scan.scanrelid = unsafe { (*table).relid };
    scan.flags = path.flags;
    scan.custom_plans = children;
    // SAFETY: a list that `private` made.
    let nodes: Vec<*mut pg_sys::Node> = unsafe { elements(path.custom_private) }.collect();
    // PostgreSQL looks through expressions.
    scan.custom_private = list_of(nodes[..2].iter().copied());
    scan.custom_exprs = list_of(nodes[2..].iter().copied());
    scan.methods = &raw const SCAN_METHODS.0;
    scan.into_pg().cast()
}
