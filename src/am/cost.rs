//! What a scan costs, for the planner.
//!
//! A path without `ORDER BY column <op> value` is never taken. With it, the start is the search for as many rows as the
//! LIMIT and the conditions make it look at: distances to the rows that it visits, in the same unit that the operator
//! itself is charged. Reading to the end ranks every row. PostgreSQL adds the table's pages and the filter, and scales
//! by LIMIT; so a selective condition with an index of its own wins by itself.

use pgrx::pg_sys;

use super::{plan_hint, search_options};
use crate::engine::{self, Reach, SearchParams};
use crate::guc;
use crate::index;
use crate::index::search::request;
use crate::index::segment::session;
use crate::pg::relation::Rel;
use crate::pg::settings;
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
    // SAFETY: PostgreSQL's own argument.
    let (index, has_order) = unsafe { index_and_order(path) };
    let cost = match has_order {
        // SAFETY: PostgreSQL's own arguments.
        true => unsafe { Cost::of(root, index) },
        // SAFETY: PostgreSQL's own argument.
        false => unsafe { Cost::never(path) },
    };
    let results = [
        (startup, cost.startup),
        (total, cost.total),
        (selectivity, cost.selectivity),
        (correlation, 0.0),
        (pages, cost.pages),
    ];
    for (result, value) in results {
        // SAFETY: PostgreSQL passes room for each result.
        unsafe { *result = value };
    }
}

/// The index of a path, and whether the path gives an order.
///
/// # Safety
/// `path` is a valid path.
unsafe fn index_and_order(path: *const pg_sys::IndexPath) -> (*const pg_sys::IndexOptInfo, bool) {
    // SAFETY: the caller's promise.
    let path = unsafe { &*path };
    (path.indexinfo, !path.indexorderbys.is_null())
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
        // SAFETY: the caller's promise.
        let info = unsafe { &*info };
        // SAFETY: the caller's promise.
        if let Some(selectivity) = unsafe { plan_hint::selectivity(root, info.indexoid) } {
            return Cost { startup: 0.0, total: 0.0, pages: 0.0, selectivity };
        }
        let rows = info.tuples.max(1.0);
        // SAFETY: the caller's promise.
        let limit = unsafe { (*root).limit_tuples };
        // SAFETY: the planner's description of the index's table.
        let table = unsafe { &*info.rel };
        let passing = table.rows / table.tuples.max(1.0);
        let wanted = match limit > 0.0 {
            true => limit / passing.clamp(1.0 / rows, 1.0),
            false => request::FIRST_ROUND_ROWS as f64,
        };
        // A hypothetical index has no pages that could say what it is.
        let about = match info.hypothetical {
            true => About { factory: engine::AUTO.into(), dims: 1, params: guc::search_params() },
            false => About::of(info.indexoid),
        };
        let startup = about.search_cost(rows, wanted);
        // Who reads on reads everything.
        let tuples = rows * settings::cpu_index_tuple_cost();
        let all = about.search_cost(rows, rows).max(startup) + tuples + About::sort_cost(rows);
        let pages = (f64::from(info.pages) * about.visited_rows(rows, wanted) / rows).ceil();
        Cost { startup, total: all, pages, selectivity: 1.0 }
    }
}

/// A round for more than this part of the rows ranks all of them instead (`index::request::candidates`).
const LARGEST_ROUND_PART: f64 = 8.0;

/// What the cost of an index's searches hangs on.
pub struct About {
    factory: String,
    dims: usize,
    params: SearchParams,
}

impl About {
    /// Of one distance, as the operator is charged.
    pub fn distance_cost(&self) -> f64 {
        settings::cpu_operator_cost() * operators_per_distance(self.dims)
    }

    /// Of the search for the `wanted` nearest of `rows`.
    pub fn search_cost(&self, rows: f64, wanted: f64) -> f64 {
        self.visited_rows(rows, wanted) * self.distance_cost()
    }

    /// Of the order of so many rows, as PostgreSQL charges a sort (`cost_tuplesort`, optimizer/path/costsize.c).
    pub fn sort_cost(rows: f64) -> f64 {
        2.0 * settings::cpu_operator_cost() * rows * rows.max(2.0).log2()
    }

    /// Of finding the nearest of so many candidates.
    pub fn ranking_cost(&self, candidates: f64) -> f64 {
        candidates * (self.distance_cost() + settings::cpu_index_tuple_cost())
    }

    fn visited_rows(&self, rows: f64, wanted: f64) -> f64 {
        match wanted > rows / LARGEST_ROUND_PART {
            true => rows,
            false => visited_rows(&self.factory, self.dims, rows, &self.params, wanted),
        }
    }

    /// A damaged index is reported by whoever scans it.
    pub fn of(index_oid: pg_sys::Oid) -> Self {
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
fn visited_rows(factory: &str, dims: usize, rows: f64, params: &SearchParams, wanted: f64) -> f64 {
    // Each step of a graph search looks at about half the neighbours of a node.
    let along_links = |queue: f64| queue * 16.0;
    let reach = match factory {
        engine::AUTO if rows >= engine::scanned_rows(1) as f64 => Reach::Graph,
        _ => Reach::of(factory, dims).unwrap_or(Reach::All),
    };
    let visited = match reach {
        Reach::All => rows,
        // The descent adds a logarithm.
        Reach::Graph => {
            let queue = params.ef_search.unwrap_or(SearchParams::DEFAULT_EF_SEARCH);
            along_links((queue as f64).max(wanted)) + 32.0 * rows.ln().max(1.0)
        }
        Reach::Lists { lists, by_graph } => {
            let nprobe = params.nprobe.unwrap_or_else(|| SearchParams::default_nprobe(lists)).min(lists);
            let queue =
                params.quantizer_ef_search.unwrap_or_else(|| SearchParams::default_coarse_queue(nprobe));
            let centroids = if by_graph { along_links(queue as f64).min(lists as f64) } else { lists as f64 };
            centroids + (rows * nprobe as f64 / lists as f64).max(wanted)
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
            let visited = visited_rows(factory, 384, 1e6, &params, 10.0);
            assert!(visited > 100.0 && visited < 1e5, "{factory}: {visited}");
            assert_eq!(visited_rows(factory, 384, 50.0, &params, 10.0), 50.0, "{factory}");
        }
        assert_eq!(visited_rows("Flat", 384, 1e6, &params, 10.0), 1e6);
        assert_eq!(visited_rows("auto", 384, 9_000.0, &params, 10.0), 9_000.0);
        let probing = SearchParams { nprobe: Some(1024), ..params };
        assert_eq!(visited_rows("IVF1024,Flat", 384, 1e6, &probing, 10.0), 1e6);
    }

    #[test]
    fn lists_are_counted_as_the_factory_string_means_them() {
        let params = SearchParams::default();
        let visited = |factory: &str| visited_rows(factory, 384, 1e7, &params, 10.0);
        assert_eq!(visited("IVF4k,Flat"), visited("IVF4096,Flat"));
        assert_eq!(visited("OPQ16_64,IVF1M,PQ16"), visited("OPQ16_64,IVF1048576,PQ16"));
        assert_eq!(visited("PCA64,IVF4k,SQ8,RFlat"), visited("IVF4096,SQ8"));
        // A graph over the centroids looks at few of them.
        assert!(visited("IVF65536_HNSW32,Flat") < visited("IVF65536,Flat") - 40_000.0);
        // What cannot be built is read row by row.
        assert_eq!(visited("IVF4k"), 1e7);
    }
}
