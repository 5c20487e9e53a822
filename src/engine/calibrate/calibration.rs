//! Measures the recall and the cost of search parameters on an index that is almost built. The queries are rows that
//! are not in the index yet, or that are held out of it.
//!
//! * Graphs: the queries are searched with each queue length of the grid.
//! * Lists: a neighbour is found if its list is scanned. So the order in which a search scans the lists gives the
//!   recall of every nprobe at once.
//! * Lossy codes: candidates are ranked again by exact distance, so a neighbour is found if it is among them. One
//!   search for many candidates gives the recall of every k_factor at once.
//!
//! The *rank* of a neighbour is its place among the candidates; k_factor f finds the neighbours of rank below 10 f.

use super::exact_neighbours::{HoldoutQueries, NEIGHBOURS};
use super::operating_points::{OperatingPoint, pareto_front};
use super::parameter_grid::{GridRow, ParameterGrid, geometric_values};
use crate::EngineError;
use crate::build::Builder;
use crate::search::{SearchParams, search_raw};
use crate::shim::ffi::{self, Description, Handle};
use crate::threads::{SignalsBlocked, is_interrupted};
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Candidates of a search: enough for the largest factor of the grid.
const MAX_CANDIDATES: usize = 128 * NEIGHBOURS;
/// Queries between two checks of the time budget. Recall over fewer queries would be a guess.
const ROUND: usize = 64;
/// Queries over which the time of a search is averaged.
const TIMED: usize = 16;
/// The longest queue in the grid.
const MAX_EF_SEARCH: usize = 8192;
/// The most lists in the grid.
const MAX_LISTS: usize = 4096;
/// Cost of ranking one more candidate, in microseconds: a constant, and an amount for each dimension. First for rows
/// stored beside the codes, then for rows of the table.
const REFINE_US: (f64, f64) = (0.1, 0.0005);
const FETCH_US: (f64, f64) = (1.5, 0.003);

/// The cheapest parameters for each level of recall that the index reaches; none for an exact index. Stops soon after
/// `budget` with the results so far. Uses `threads` threads. `sample` knows the nearest of the index's living rows;
/// `dead` is as in [`crate::OpenIndex::search`].
pub fn calibrate(
    builder: &Builder,
    sample: &HoldoutQueries,
    dead: Option<&[u8]>,
    threads: usize,
    budget: Duration,
) -> Result<Vec<OperatingPoint>, EngineError> {
    let (index, about) = (builder.handle(), builder.handle().describe());
    let work = Calibration { index, about, sample, dead, threads, end: Instant::now() + budget };
    if sample.is_empty() || about.rows <= 0 || !builder.is_approximate() {
        return Ok(Vec::new());
    }
    let grid = if about.lists > 0 {
        work.lists()?
    } else if about.scans_all != 0 {
        work.scan()?
    } else {
        work.graph()?
    };
    Ok(pareto_front(grid.points(work.ranking_us())))
}

struct Calibration<'a> {
    index: &'a Handle,
    about: Description,
    sample: &'a HoldoutQueries,
    dead: Option<&'a [u8]>,
    threads: usize,
    end: Instant,
}

impl Calibration<'_> {
    /// Whether candidates are ranked again by exact distance.
    fn is_lossy(&self) -> bool {
        self.about.stores_rows == 0 || self.about.refines != 0
    }

    /// Microseconds to rank one more candidate; None where candidates are not ranked again.
    fn ranking_us(&self) -> Option<f64> {
        let (row, value) = if self.about.stores_rows != 0 { REFINE_US } else { FETCH_US };
        self.is_lossy().then(|| row + value * f64::from(self.about.dims))
    }

    fn rows(&self) -> usize {
        usize::try_from(self.about.rows).unwrap_or(0)
    }

    fn list_count(&self) -> usize {
        usize::try_from(self.about.lists).unwrap_or(0)
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// The candidates of a query, in the order of their codes' distances.
    fn candidates(&self, query: usize, count: usize, params: &SearchParams) -> Result<Vec<u64>, EngineError> {
        if is_interrupted() {
            return Err(EngineError::Interrupted);
        }
        let hits = search_raw(self.index, self.sample.query(query), count, params, self.dead)?;
        Ok(hits.into_iter().map(|hit| hit.position).collect())
    }

    /// Microseconds of one search for ten rows, averaged over some queries.
    fn time(&self, params: &SearchParams) -> Result<f64, EngineError> {
        let count = TIMED.min(self.sample.len());
        let start = Instant::now();
        for query in 0..count {
            self.candidates(query, NEIGHBOURS, params)?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / count.max(1) as f64)
    }

    // ------------------------------------------------------------ graphs

    fn graph(&self) -> Result<ParameterGrid, EngineError> {
        let rows = self.rows();
        let mut steps: Vec<GridRow> =
            geometric_values(NEIGHBOURS, rows.clamp(NEIGHBOURS, MAX_EF_SEARCH), 2f64.sqrt())
                .map(|queue| GridRow::new(SearchParams { ef_search: Some(queue), ..SearchParams::default() }))
                .collect();
        let (mut queries, mut neighbours) = (0, 0);
        while queries < self.sample.len() {
            let round = queries..(queries + ROUND).min(self.sample.len());
            let round_neighbours: usize =
                round.clone().map(|query| self.sample.neighbours(query).count()).sum();
            let start = Instant::now();
            let mut measured = 0;
            for step in &mut steps {
                let found = step.most();
                self.graph_step(step, round.clone())?;
                measured += 1;
                // A longer queue cannot beat one that found all neighbours; and without time left there are no more
                // measurements.
                if queries == 0 && ((step.most() - found) as usize == round_neighbours || self.is_over()) {
                    break;
                }
            }
            steps.truncate(measured);
            queries = round.end;
            neighbours += round_neighbours;
            if Instant::now() + start.elapsed() > self.end {
                break;
            }
        }
        for step in &mut steps {
            step.cost_us /= queries.max(1) as f64;
        }
        Ok(ParameterGrid { steps, queries, neighbours })
    }

    fn graph_step(&self, step: &mut GridRow, round: std::ops::Range<usize>) -> Result<(), EngineError> {
        let queue = step.params.ef_search.unwrap_or(NEIGHBOURS);
        let count = if self.is_lossy() { queue.min(MAX_CANDIDATES) } else { NEIGHBOURS };
        let start = Instant::now();
        let found = self.each(round.clone(), |query| self.candidates(query, count, &step.params))?;
        let busy = self.threads.clamp(1, round.len()) as f64;
        step.cost_us += start.elapsed().as_secs_f64() * 1e6 * busy;
        for (query, candidates) in round.zip(found) {
            let neighbours: Vec<u64> = self.sample.neighbours(query).collect();
            for rank in (0..candidates.len()).filter(|&rank| neighbours.contains(&candidates[rank])) {
                step.count(rank);
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------ scans

    fn scan(&self) -> Result<ParameterGrid, EngineError> {
        let mut step = GridRow::new(SearchParams::default());
        step.cost_us = self.time(&step.params)?;
        let (mut queries, mut neighbours) = (0, 0);
        while queries < self.sample.len() && (queries == 0 || !self.is_over()) {
            let round = queries..(queries + ROUND).min(self.sample.len());
            let found =
                self.each(round.clone(), |query| self.candidates(query, MAX_CANDIDATES, &step.params))?;
            for (query, candidates) in round.clone().zip(found) {
                let near: Vec<u64> = self.sample.neighbours(query).collect();
                neighbours += near.len();
                for rank in (0..candidates.len()).filter(|&rank| near.contains(&candidates[rank])) {
                    step.count(rank);
                }
            }
            queries = round.end;
        }
        Ok(ParameterGrid { steps: vec![step], queries, neighbours })
    }

    // ------------------------------------------------------------ lists

    fn lists(&self) -> Result<ParameterGrid, EngineError> {
        let most = self.list_count().min(MAX_LISTS);
        let list_of = self.lists_by_position()?;
        let orders = self.in_rounds(0.5, |query| self.order(query, most))?;
        let mut ranks = ListRanks::new(self.list_count());
        let mut steps: Vec<GridRow> = geometric_values(1, most, 1.1)
            .map(|lists| GridRow::new(SearchParams { nprobe: Some(lists), ..SearchParams::default() }))
            .collect();
        let (mut queries, mut neighbours) = (orders.len(), 0);
        for (query, order) in orders.iter().enumerate() {
            ranks.set(order);
            for position in self.sample.neighbours(query) {
                neighbours += 1;
                let rank = ranks.of(list_of[position as usize]);
                steps.iter_mut().filter(|step| step.lists() > rank).for_each(|step| step.count(0));
            }
        }
        // Scanning more lists than those that hold all neighbours finds nothing more.
        let enough =
            steps.iter().position(|step| step.most() as usize == neighbours).unwrap_or(steps.len() - 1);
        steps.truncate(enough + 1);
        let widest = steps[enough].params;
        let (narrow_us, wide_us) = (self.time(&steps[0].params)?, self.time(&widest)?);
        if self.is_lossy() {
            for step in &mut steps {
                step.found = Default::default();
            }
            let found = self.in_rounds(1.0, |query| self.candidates(query, MAX_CANDIDATES, &widest))?;
            queries = found.len().min(orders.len());
            neighbours = 0;
            for query in 0..queries {
                ranks.set(&orders[query]);
                let near: Vec<u64> = self.sample.neighbours(query).collect();
                neighbours += near.len();
                let listed: Vec<(usize, bool)> = found[query]
                    .iter()
                    .map(|position| (ranks.of(list_of[*position as usize]), near.contains(position)))
                    .collect();
                steps.iter_mut().for_each(|step| step.count_listed(&listed));
            }
        }
        let span = (widest.nprobe.unwrap_or(1) - 1).max(1) as f64;
        for step in &mut steps {
            let part = (step.lists() - 1) as f64 / span;
            step.cost_us = narrow_us + (wide_us - narrow_us).max(0.0) * part;
        }
        Ok(ParameterGrid { steps, queries, neighbours })
    }

    fn lists_by_position(&self) -> Result<Vec<i32>, EngineError> {
        let rows = self.rows();
        let mut lists = Vec::new();
        lists.try_reserve_exact(rows).map_err(|_| EngineError::OutOfMemory)?;
        lists.resize(rows, -1);
        // SAFETY: the handle is a live index, and the array has an element for each of its rows.
        let code = unsafe { ffi::vekter_index_lists_by_position(self.index.as_ptr(), lists.as_mut_ptr()) };
        EngineError::from_code(code, |reason| EngineError::Failed { reason })?;
        Ok(lists)
    }

    /// The lists that a search for a query scans, in order, at most `most`.
    fn order(&self, query: usize, most: usize) -> Result<Vec<u32>, EngineError> {
        let mut lists = vec![-1i64; most];
        // SAFETY: the handle is a live index, the query has its dimension, and the array `most` elements, which are no
        // more than it has lists.
        let code = unsafe {
            ffi::vekter_index_nearest_lists(
                self.index.as_ptr(),
                self.sample.query(query).as_ptr(),
                most as i64,
                lists.as_mut_ptr(),
            )
        };
        EngineError::from_code(code, |reason| EngineError::Failed { reason })?;
        Ok(lists.into_iter().filter_map(|list| u32::try_from(list).ok()).collect())
    }

    // ------------------------------------------------------------ threads

    /// Runs `work` for the queries, first to last, until `part` of the remaining budget is used up; at least one round.
    fn in_rounds<T: Send>(
        &self,
        part: f64,
        work: impl Fn(usize) -> Result<T, EngineError> + Sync,
    ) -> Result<Vec<T>, EngineError> {
        let now = Instant::now();
        let end = now + self.end.saturating_duration_since(now).mul_f64(part);
        let mut done = Vec::new();
        while done.len() < self.sample.len() && (done.is_empty() || Instant::now() < end) {
            let round = done.len()..(done.len() + ROUND).min(self.sample.len());
            done.extend(self.each(round, &work)?);
        }
        Ok(done)
    }

    /// Runs `work` for each query on several threads. Results are in the order of the queries.
    fn each<T: Send>(
        &self,
        queries: std::ops::Range<usize>,
        work: impl Fn(usize) -> Result<T, EngineError> + Sync,
    ) -> Result<Vec<T>, EngineError> {
        let threads = NonZeroUsize::new(self.threads.min(queries.len())).map_or(1, NonZeroUsize::get);
        let next = Mutex::new(queries.clone());
        let take = || next.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
        let run = || {
            // SAFETY: sets a property of this thread, which has no other work.
            unsafe { ffi::vekter_set_threads(1) };
            let mut done = Vec::new();
            while let Some(query) = take() {
                done.push((query, work(query)));
            }
            done
        };
        let mut done = std::thread::scope(|scope| {
            // No thread of the engine may run PostgreSQL's signal handlers: they belong to the main thread.
            let blocked = SignalsBlocked::new();
            let helpers: Vec<_> = (0..threads)
                .filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, run).ok())
                .collect();
            drop(blocked);
            // If the system starts no thread, this one does all the work.
            let mut done = if helpers.is_empty() { run() } else { Vec::new() };
            for helper in helpers {
                done.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            done
        });
        done.sort_by_key(|(query, _)| *query);
        done.into_iter().map(|(_, outcome)| outcome).collect()
    }
}

/// For each list, its place in the order in which a query's search scans the lists.
struct ListRanks(Vec<usize>);

impl ListRanks {
    fn new(lists: usize) -> Self {
        Self(vec![usize::MAX; lists])
    }

    /// Takes the order of another query.
    fn set(&mut self, order: &[u32]) {
        self.0.fill(usize::MAX);
        for (rank, &list) in order.iter().enumerate() {
            if let Some(place) = self.0.get_mut(list as usize) {
                *place = rank;
            }
        }
    }

    fn of(&self, list: i32) -> usize {
        let rank = usize::try_from(list).ok().and_then(|list| self.0.get(list).copied());
        rank.unwrap_or(usize::MAX)
    }
}
