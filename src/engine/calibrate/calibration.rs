//! Measuring what search parameters bring, on an index that is almost built, by rows that are still to come as queries.
//!
//! * A graph is searched with longer and longer queues.
//! * Of lists it is enough to know which of them a search scans first: a neighbour is found if its list is scanned. So
//!   one search of many lists tells about fewer of them too.
//! * Of lossy codes one search for many candidates tells about fewer: the candidates are ranked again by exact
//!   distance, so a neighbour is found if it is among them.
//!
//! A neighbour's *rank* is its place among the candidates; k_factor f finds those of rank below 10 f.

use super::exact_neighbours::{NEIGHBOURS, Sample};
use super::operating_points::{OperatingPoint, front};
use super::parameter_grid::{Step, Surface, ladder};
use crate::engine::EngineError;
use crate::engine::build::Builder;
use crate::engine::search::{SearchParams, search_raw};
use crate::engine::shim::ffi::{self, Description, Handle};
use crate::engine::threads::{SignalsBlocked, is_interrupted};
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Candidates that a search must bring for the largest of them.
const MAX_CANDIDATES: usize = 128 * NEIGHBOURS;
/// Queries that are searched between two looks at the clock; with fewer, recall would be a guess.
const ROUND: usize = 64;
/// Queries by which a time is measured.
const TIMED: usize = 16;
/// Queue lengths that are tried, at most.
const MAX_EF_SEARCH: usize = 8192;
/// Lists that are told apart, at most.
const MAX_LISTS: usize = 4096;
/// What ranking one more candidate takes, in microseconds and for each dimension: rows beside the codes, and rows of
/// the table.
const REFINE_US: (f64, f64) = (0.1, 0.0005);
const FETCH_US: (f64, f64) = (1.5, 0.003);

/// The cheapest parameters for each recall that the index reaches; none where it is exact. It ends soon after `budget`,
/// with what it knows by then, and uses `threads` threads. `sample` has seen the index's living rows; `dead`: as in
/// [`crate::engine::OpenIndex::search`].
pub fn calibrate(
    builder: &Builder,
    sample: &Sample,
    dead: Option<&[u8]>,
    threads: usize,
    budget: Duration,
) -> Result<Vec<OperatingPoint>, EngineError> {
    let (index, about) = (builder.handle(), builder.handle().describe());
    let work = Calibration { index, about, sample, dead, threads, end: Instant::now() + budget };
    if sample.is_empty() || about.rows <= 0 || !builder.is_approximate() {
        return Ok(Vec::new());
    }
    let surface = if about.lists > 0 {
        work.lists()?
    } else if about.scans_all != 0 {
        work.scan()?
    } else {
        work.graph()?
    };
    Ok(front(surface.points(work.ranking_us())))
}

struct Calibration<'a> {
    index: &'a Handle,
    about: Description,
    sample: &'a Sample,
    dead: Option<&'a [u8]>,
    threads: usize,
    end: Instant,
}

impl Calibration<'_> {
    /// Whether candidates are ranked again.
    fn is_lossy(&self) -> bool {
        self.about.ranks_exactly == 0 || self.about.refines != 0
    }

    /// Microseconds for one candidate more, where candidates are ranked again.
    fn ranking_us(&self) -> Option<f64> {
        let (row, value) = if self.about.ranks_exactly != 0 { REFINE_US } else { FETCH_US };
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

    /// The candidates of a query in the order of their codes.
    fn candidates(&self, query: usize, count: usize, params: &SearchParams) -> Result<Vec<u64>, EngineError> {
        if is_interrupted() {
            return Err(EngineError::Interrupted);
        }
        let hits = search_raw(self.index, self.sample.query(query), count, params, self.dead)?;
        Ok(hits.into_iter().map(|hit| hit.position).collect())
    }

    /// Microseconds of one search for ten rows, over some queries.
    fn time(&self, params: &SearchParams) -> Result<f64, EngineError> {
        let count = TIMED.min(self.sample.len());
        let start = Instant::now();
        for query in 0..count {
            self.candidates(query, NEIGHBOURS, params)?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / count.max(1) as f64)
    }

    // ------------------------------------------------------------ graphs

    fn graph(&self) -> Result<Surface, EngineError> {
        let rows = self.rows();
        let mut steps: Vec<Step> = ladder(NEIGHBOURS, rows.clamp(NEIGHBOURS, MAX_EF_SEARCH), 2f64.sqrt())
            .map(|queue| Step::new(SearchParams { ef_search: Some(queue), ..SearchParams::default() }))
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
                // One that found all is the last; where the time is over, there is no better one.
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
        Ok(Surface { steps, queries, neighbours })
    }

    fn graph_step(&self, step: &mut Step, round: std::ops::Range<usize>) -> Result<(), EngineError> {
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

    fn scan(&self) -> Result<Surface, EngineError> {
        let mut step = Step::new(SearchParams::default());
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
        Ok(Surface { steps: vec![step], queries, neighbours })
    }

    // ------------------------------------------------------------ lists

    fn lists(&self) -> Result<Surface, EngineError> {
        let most = self.list_count().min(MAX_LISTS);
        let list_of = self.lists_by_position()?;
        let orders = self.in_rounds(0.5, |query| self.order(query, most))?;
        let mut ranks = ListRanks::new(self.list_count());
        let mut steps: Vec<Step> = ladder(1, most, 1.1)
            .map(|lists| Step::new(SearchParams { nprobe: Some(lists), ..SearchParams::default() }))
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
        // More lists than hold all neighbours bring nothing.
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
        Ok(Surface { steps, queries, neighbours })
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

    /// `work` for queries from the first on: all of them, or as many as `part` of the time that is left allows, but one
    /// round at least.
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

    /// `work` for each query, in order, on some threads.
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
            // As for every thread of the engine: PostgreSQL's handlers are for the main thread.
            let blocked = SignalsBlocked::new();
            let helpers: Vec<_> = (0..threads)
                .filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, run).ok())
                .collect();
            drop(blocked);
            // Where the system gives no thread, this one does it all.
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

/// How soon a query's search comes to each list.
struct ListRanks(Vec<usize>);

impl ListRanks {
    fn new(lists: usize) -> Self {
        Self(vec![usize::MAX; lists])
    }

    /// Goes on to a query whose search scans lists in this order.
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
