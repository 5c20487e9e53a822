//! Which rows of a table a query could read, found through the table's indexes alone.

use pgrx::{PgMemoryContexts, pg_sys};

use super::relation::OpenRelation;
use super::spi::{Plan, connect};

/// What the planner says of a query over one table.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// Rows that the query returns.
    pub rows: f64,
    /// Row pointers that the indexes give for it; None where it would not be answered by a bitmap of them.
    pub bitmap_rows: Option<f64>,
    /// Rows of the table.
    pub table_rows: f64,
}

impl Estimate {
    /// Share of the table's rows that the query returns: above 0, at most 1.
    pub fn part(&self) -> f64 {
        (self.rows.max(1.0) / self.table_rows.max(1.0)).min(1.0)
    }
}

/// Settings that have the planner answer by a bitmap wherever an index makes that possible.
const PREFER_BITMAPS: [(&core::ffi::CStr, &core::ffi::CStr); 4] = [
    (c"enable_bitmapscan", c"on"),
    (c"enable_seqscan", c"off"),
    (c"enable_indexscan", c"off"),
    (c"enable_indexonlyscan", c"off"),
];

/// A query whose rows are found by a bitmap of indexes, where there are some for it.
pub struct BitmapQuery {
    /// Planned under the session's own settings: functions that the planner calls plan queries of their own meanwhile, which
    /// they keep, and are to do so here.
    plain: Plan,
    preferred: Plan,
}

impl BitmapQuery {
    /// `query`: `SELECT ... FROM table WHERE ...`, without parameters.
    pub fn prepare(query: &str) -> Self {
        BitmapQuery { plain: Plan::prepare(query, &[]), preferred: Plan::prepare(query, &[]) }
    }
}

/// Plans the query WHERE ...`, without parameters, by preference as a bitmap scan of `table`. If `wants`
/// says so after the planner's estimate, reads the indexes, and only those, and shows `visit` the heap blocks in
/// ascending order, each with the offsets of its rows (None: all of them). Those are the roots of HOT chains, as in any
/// index, and beside every row that the active snapshot lets the query return there may be others. The indexes
/// are read with the caller's privileges.
pub fn for_each_page(
    query: &BitmapQuery,
    table: pg_sys::Oid,
    wants: impl FnOnce(&Estimate) -> bool,
    visit: &mut dyn FnMut(u32, Option<&[u16]>),
) -> Estimate {
    // SAFETY: the plan is alive and the connection ends below; an error ends both, and whatever was opened under them.
    unsafe {
        connect();
        let plain = cached_plan(&query.plain);
        pg_sys::ReleaseCachedPlan(plain, pg_sys::CurrentResourceOwner);
        let cached = preferred_plan(&query.preferred);
        let statement: *mut pg_sys::PlannedStmt = (*(*(*cached).stmt_list).elements).ptr_value.cast();
        let scan = bitmap_scan(statement, table);
        let estimate = Estimate {
            rows: (*(*statement).planTree).plan_rows,
            table_rows: table_rows(table),
            bitmap_rows: scan.map(|scan| (*(*scan).lefttree).plan_rows),
        };
        if scan.is_some() && wants(&estimate) {
            execute(statement, visit);
        }
        pg_sys::ReleaseCachedPlan(cached, pg_sys::CurrentResourceOwner);
        pg_sys::SPI_finish();
        estimate
    }
}

/// As the planner reckons, which knows the table's size where no VACUUM or ANALYZE has counted its rows.
fn table_rows(table: pg_sys::Oid) -> f64 {
    let open = OpenRelation::open(table, pg_sys::AccessShareLock);
    open.map_or(0.0, |table| table.rel().estimated_rows())
}

/// The cached plan, made or made anew with a preference for bitmaps where it is not there.
///
/// # Safety
/// Under an SPI connection; the caller releases the plan.
unsafe fn preferred_plan(plan: &Plan) -> *mut pg_sys::CachedPlan {
    // SAFETY: the strings are constants; the level is ended below, or by the abort that an error leads to.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in PREFER_BITMAPS {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
        let cached = cached_plan(plan);
        pg_sys::AtEOXact_GUC(true, level);
        cached
    }
}

/// # Safety
/// Under an SPI connection; the caller releases the plan.
unsafe fn cached_plan(plan: &Plan) -> *mut pg_sys::CachedPlan {
    // SAFETY: the plan is alive.
    let cached = unsafe { pg_sys::SPI_plan_get_cached_plan(plan.as_ptr()) };
    if cached.is_null() {
        pgrx::error!("could not plan a query over the table");
    }
    cached
}

/// The plan if all of it is a bitmap scan of `table`.
///
/// # Safety
/// `statement` is a valid plan of one SELECT.
unsafe fn bitmap_scan(statement: *mut pg_sys::PlannedStmt, table: pg_sys::Oid) -> Option<*mut pg_sys::Plan> {
    // SAFETY: the tag says what the node is, and a scan's range table entry exists.
    unsafe {
        let top = (*statement).planTree;
        if (*top).type_ != pg_sys::NodeTag::T_BitmapHeapScan {
            return None;
        }
        let relation = (*top.cast::<pg_sys::Scan>()).scanrelid;
        let entry: *mut pg_sys::RangeTblEntry =
            pg_sys::list_nth((*statement).rtable, relation as i32 - 1).cast();
        // Rows that a subquery locks are locked by the query proper, if at all.
        ((*entry).relid == table && (*statement).rowMarks.is_null()).then_some(top)
    }
}

/// # Safety
/// `statement` is a valid plan whose top is a bitmap scan.
unsafe fn execute(statement: *mut pg_sys::PlannedStmt, visit: &mut dyn FnMut(u32, Option<&[u16]>)) {
    // SAFETY: the executor is started and ended as for any query, under the active snapshot; what it opens goes with an
    // error's abort. The bitmap is made in the executor's memory and read before that goes.
    unsafe {
        let query = pg_sys::CreateQueryDesc(
            statement,
            c"vekter: rows that pass a filter".as_ptr(),
            pg_sys::GetActiveSnapshot(),
            core::ptr::null_mut(),
            pg_sys::None_Receiver,
            core::ptr::null_mut(),
            core::ptr::null_mut(),
            0,
        );
        pg_sys::ExecutorStart(query, 0);
        let mut memory = PgMemoryContexts::For((*(*query).estate).es_query_cxt);
        let indexes = (*(*query).planstate).lefttree;
        memory.switch_to(|_| read(indexes, visit));
        pg_sys::ExecutorFinish(query);
        pg_sys::ExecutorEnd(query);
        pg_sys::FreeQueryDesc(query);
    }
}

/// Has `indexes` make a bitmap, in the memory that is current, and shows `visit` its heap blocks in ascending order, each
/// with the offsets of its rows (None: all of them).
///
/// # Safety
/// `indexes` is the child of a bitmap scan that is being executed: a scan of an index, or an AND or OR of such.
pub unsafe fn read(indexes: *mut pg_sys::PlanState, visit: &mut dyn FnMut(u32, Option<&[u16]>)) {
    // SAFETY: the caller's promise; the tag says what the node has made.
    unsafe {
        let bitmap = pg_sys::MultiExecProcNode(indexes);
        if bitmap.is_null() || (*bitmap).type_ != pg_sys::NodeTag::T_TIDBitmap {
            pgrx::error!("a bitmap scan made no bitmap");
        }
        each_page(bitmap.cast(), visit);
        pg_sys::tbm_free(bitmap.cast());
    }
}

/// # Safety
/// `bitmap` is valid and not being iterated over.
#[cfg(not(feature = "pg18"))]
unsafe fn each_page(bitmap: *mut pg_sys::TIDBitmap, visit: &mut dyn FnMut(u32, Option<&[u16]>)) {
    // SAFETY: a page's result is valid until the next is asked for, with as many offsets as it says; -1: all.
    unsafe {
        let iterator = pg_sys::tbm_begin_iterate(bitmap);
        loop {
            let page = pg_sys::tbm_iterate(iterator);
            if page.is_null() {
                break;
            }
            let offsets = usize::try_from((*page).ntuples).ok();
            visit((*page).blockno, offsets.map(|count| (*page).offsets.as_slice(count)));
        }
        pg_sys::tbm_end_iterate(iterator);
    }
}

/// # Safety
/// `bitmap` is valid and not being iterated over.
#[cfg(feature = "pg18")]
unsafe fn each_page(bitmap: *mut pg_sys::TIDBitmap, visit: &mut dyn FnMut(u32, Option<&[u16]>)) {
    let mut page = pg_sys::TBMIterateResult::default();
    let mut offsets = [0u16; pg_sys::BLCKSZ as usize / 4];
    // SAFETY: the result belongs to this function; there is room for the offsets of any page, at 4 bytes a line pointer.
    unsafe {
        let iterator = pg_sys::tbm_begin_private_iterate(bitmap);
        while pg_sys::tbm_private_iterate(iterator, &mut page) {
            if page.lossy {
                visit(page.blockno, None);
            } else {
                let room = offsets.len() as u32;
                let count = pg_sys::tbm_extract_page_tuple(&mut page, offsets.as_mut_ptr(), room);
                visit(page.blockno, Some(&offsets[..count as usize]));
            }
        }
        pg_sys::tbm_end_private_iterate(iterator);
    }
}
