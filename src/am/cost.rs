//! What a scan costs, for the planner.
//!
//! A path without `ORDER BY column <op> value` is never taken. With it, the start is the first round of the search:
//! distances to the rows that it visits, in the same unit that the operator itself is charged, and the pages of their
//! vectors. Every row that is fetched then costs a share of the rounds that follow. PostgreSQL adds the table's pages
//! and the filter, and scales by LIMIT; so a selective condition with an index of its own wins by itself.

use pgrx::pg_sys;

use super::{plan_hint, search_options};
use crate::engine::{self, Reach, SearchParams};
use crate::guc;
use crate::index;
use crate::index::search::request;
use crate::index::segment::session;
use crate::pg::relation::Rel;
use crate::vector::cost::operators_per_distance;

#[pgrx::pg_guard]
#[expect(clippy::too_many_arguments, reason = "the signature is PostgreSQL's")]
pub unsafe extern "C-unwind" fn amcostestimate(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    _loop_count: f64,
    startup: *mut pg_sys::Cost,
    total: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    pages: *mut f64,
) {
    // SAFETY: PostgreSQL passes a valid path and room for each result.
    let cost = unsafe {
        if (*path).indexorderbys.is_null() { Cost::never(path) } else { Cost::of(root, (*path).indexinfo) }
    };
    // SAFETY: as above.
    unsafe {
        *startup = cost.startup;
        *total = cost.total;
        *selectivity = cost.selectivity;
        *correlation = 0.0;
        *pages = cost.pages;
    }
}

struct Cost {
    startup: f64,
    total: f64,
    pages: f64,
    /// Share of the table's rows that the scan returns, if nobody stops it.
    selectivity: f64,
}

impl Cost {
    /// # Safety
    /// `path` is a valid path.
    #[cfg(not(feature = "pg18"))]
    unsafe fn never(_path: *mut pg_sys::IndexPath) -> Self {
        Cost { startup: f64::INFINITY, total: f64::INFINITY, pages: 0.0, selectivity: 1.0 }
    }

    /// # Safety
    /// `path` is a valid path.
    #[cfg(feature = "pg18")]
    unsafe fn never(path: *mut pg_sys::IndexPath) -> Self {
        // SAFETY: the caller's promise. Since 18 a disabled path loses to any other by this count, not by its cost.
        unsafe { (*path).path.disabled_nodes = 2 };
        Cost { startup: f64::INFINITY, total: f64::INFINITY, pages: 0.0, selectivity: 1.0 }
    }

    /// # Safety
    /// `root` is the planner's state, `info` its description of a faiss index that is locked by the query.
    unsafe fn of(root: *const pg_sys::PlannerInfo, info: *const pg_sys::IndexOptInfo) -> Self {
        // SAFETY: the caller's promise; the cost settings are plain numbers.
        let (info, operator_cost, tuple_cost) =
            unsafe { (&*info, pg_sys::cpu_operator_cost, pg_sys::cpu_index_tuple_cost) };
        // SAFETY: the caller's promise.
        if let Some(selectivity) = unsafe { plan_hint::selectivity(root, info.indexoid) } {
            return Cost { startup: 0.0, total: 0.0, pages: 0.0, selectivity };
        }
        let mut random_page_cost = 0.0;
        // SAFETY: writes one cost; the other is not asked for.
        unsafe {
            pg_sys::get_tablespace_page_costs(
                info.reltablespace,
                &mut random_page_cost,
                core::ptr::null_mut(),
            )
        };
        let (rows, relation_pages) = (info.tuples.max(1.0), f64::from(info.pages));
        // A hypothetical index has no pages that could say what it is.
        let About { factory, dims, params } = match info.hypothetical {
            true => About { factory: engine::AUTO.into(), dims: 1, params: guc::search_params() },
            false => About::of(info.indexoid),
        };
        let visited_rows = visited_rows(&factory, dims, rows, &params);
        let distance_cost = operator_cost * operators_per_distance(dims);
        // Mapped pages are mostly in memory; what is charged is the read-ahead of a cold start.
        let pages = (relation_pages * visited_rows / rows).ceil();
        let startup = visited_rows * distance_cost + pages * random_page_cost * WARM_PAGE_PART;
        // Each doubling of the result costs a search of twice the size: constant per row.
        let per_row = tuple_cost + distance_cost * visited_rows / request::FIRST_ROUND_ROWS as f64;
        Cost { startup, total: startup + rows * per_row, pages, selectivity: 1.0 }
    }
}

/// Share of a page's cost that is charged: the segments are in the operating system's cache after their first use.
const WARM_PAGE_PART: f64 = 0.01;

/// What the cost of an index's searches hangs on.
struct About {
    factory: String,
    dims: usize,
    params: SearchParams,
}

impl About {
    /// A damaged index is reported by whoever scans it.
    fn of(index_oid: pg_sys::Oid) -> Self {
        let no_lock = pg_sys::NoLock as pg_sys::LOCKMODE;
        // SAFETY: the planner holds a lock on every relation of the query; closed again below.
        let relation = unsafe { pg_sys::index_open(index_oid, no_lock) };
        // SAFETY: open until the end of this function.
        let index = unsafe { Rel::new(relation) };
        let asked = search_options::effective(index, SearchParams::default());
        let largest = index::retry(|| {
            let meta = index::read_meta(index)?;
            let largest = session::largest(index, &meta)?;
            Ok((meta, largest))
        });
        // Of several segments the largest is the one that costs.
        let about = match largest {
            Ok((meta, Some(segment))) => {
                let params = request::segment_params(&segment.points, &asked, None);
                About { factory: segment.factory, dims: meta.dims as usize, params }
            }
            Ok((meta, None)) => About { factory: meta.factory, dims: meta.dims as usize, params: asked },
            Err(_) => About { factory: String::new(), dims: 1, params: asked },
        };
        // SAFETY: opened above.
        unsafe { pg_sys::index_close(relation, no_lock) };
        about
    }
}

/// Distances that a search of `factory` computes, roughly.
fn visited_rows(factory: &str, dims: usize, rows: f64, params: &SearchParams) -> f64 {
    // Each step of a graph search looks at about half the neighbours of a node.
    let along_links = |queue: usize| queue as f64 * 16.0;
    let reach = match factory {
        engine::AUTO if rows >= engine::scanned_rows(1) as f64 => Reach::Graph,
        _ => Reach::of(factory, dims).unwrap_or(Reach::All),
    };
    let visited = match reach {
        Reach::All => rows,
        // The descent adds a logarithm.
        Reach::Graph => {
            let queue = params.ef_search.unwrap_or(SearchParams::DEFAULT_EF_SEARCH);
            along_links(queue) + 32.0 * rows.ln().max(1.0)
        }
        Reach::Lists { lists, by_graph } => {
            let nprobe = params.nprobe.unwrap_or_else(|| SearchParams::default_nprobe(lists)).min(lists);
            let queue =
                params.quantizer_ef_search.unwrap_or_else(|| SearchParams::default_coarse_queue(nprobe));
            let centroids = if by_graph { along_links(queue).min(lists as f64) } else { lists as f64 };
            centroids + rows * nprobe as f64 / lists as f64
        }
    };
    visited.min(rows)
}

#[cfg(test)]
mod tests {
    use super::visited_rows;
    use crate::engine::SearchParams;

    #[test]
    fn an_approximate_index_visits_a_small_part_of_many_rows() {
        let params = SearchParams::default();
        for factory in ["auto", "HNSW32", "IVF1024,Flat", "OPQ16,IVF1024,PQ16"] {
            let visited = visited_rows(factory, 384, 1e6, &params);
            assert!(visited > 100.0 && visited < 1e5, "{factory}: {visited}");
            assert_eq!(visited_rows(factory, 384, 50.0, &params), 50.0, "{factory}");
        }
        assert_eq!(visited_rows("Flat", 384, 1e6, &params), 1e6);
        assert_eq!(visited_rows("auto", 384, 9_000.0, &params), 9_000.0);
        let probing = SearchParams { nprobe: Some(1024), ..params };
        assert_eq!(visited_rows("IVF1024,Flat", 384, 1e6, &probing), 1e6);
    }

    #[test]
    fn lists_are_counted_as_the_factory_string_means_them() {
        let params = SearchParams::default();
        let visited = |factory: &str| visited_rows(factory, 384, 1e7, &params);
        assert_eq!(visited("IVF4k,Flat"), visited("IVF4096,Flat"));
        assert_eq!(visited("OPQ16_64,IVF1M,PQ16"), visited("OPQ16_64,IVF1048576,PQ16"));
        assert_eq!(visited("PCA64,IVF4k,SQ8,RFlat"), visited("IVF4096,SQ8"));
        // A graph over the centroids looks at few of them.
        assert!(visited("IVF65536_HNSW32,Flat") < visited("IVF65536,Flat") - 40_000.0);
        // What cannot be built is read row by row.
        assert_eq!(visited("IVF4k"), 1e7);
    }
}
