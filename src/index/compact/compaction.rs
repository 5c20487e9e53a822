//! Compaction: sealing what is due and merging segments until there is nothing left to do.

use std::time::{Duration, Instant};

use super::merge::merge;
use super::plan::{self, Effort, Limits};
use super::seal;
use super::source_rows::{Host, Outcome};
use crate::failpoint;
use crate::index::error::IndexError;
use crate::index::format::{Meta, Tid, Tiers};
use crate::index::storage::free_pages;
use crate::index::train::{Resources, Target};
use crate::index::{Snapshot, metric_of, read_manifest, read_meta, retry};
use crate::pg::lock::{IndexLock, Purpose};
use crate::pg::relation::Rel;
use crate::pg::worker;

/// Rows that come faster than this, 8 MB/s, are not merged at once: graphs and most codes are built more slowly, so a merge
/// would take the processor from the inserts, and most of its result would be merged again soon.
const CALM_BYTES: u64 = 2 << 20;
const CALM_PERIOD: Duration = Duration::from_millis(250);
/// Those of a load that lasts so long are.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the delta is looked at meanwhile.
const SEAL_LOOK: Duration = Duration::from_millis(20);

/// The table under the index, and those who wait.
pub trait Surroundings {
    /// Whether the table is there to be asked for rows, now or later.
    fn knows_table(&self) -> bool;
    /// Whether it can be asked now; opens it.
    fn has_table(&mut self) -> bool;
    /// Appends the row at `tid` as the table has it; false if no version of it is visible.
    fn exact_row(&mut self, tid: Tid, row: &mut Vec<f32>) -> bool;
    /// Lets go of the table, and of everything else that keeps VACUUM from removing rows.
    fn leave_table(&mut self);
    /// Whether somebody waits for a lock that conflicts with those of this process. Leaves the table now and then.
    fn must_yield(&mut self) -> bool;
}

#[derive(Clone, Copy)]
pub struct Settings {
    pub resources: Resources,
    /// A delta of more bytes than this is sealed.
    pub delta_limit_bytes: u64,
    /// The recall that is asked of the index, up to 1.
    pub recall: f64,
}

impl Settings {
    fn target(self, meta: &Meta) -> Result<Target<'_>, IndexError> {
        let dims = meta.dims as usize;
        Ok(Target::new(&meta.factory, dims, metric_of(meta)?, self.recall, self.resources))
    }
}

/// Whether `run` would find something to do, as far as the manifest tells.
pub fn is_due(rel: Rel, settings: Settings) -> Result<bool, IndexError> {
    retry(|| {
        let meta = read_meta(rel)?;
        if seal::is_due(&meta, settings.delta_limit_bytes) {
            return Ok(true);
        }
        let segments = read_manifest(rel, &meta)?.segments;
        let unknown = vec![0; segments.len()];
        let target = settings.target(&meta)?;
        let tiers = Tiers::of_dims(meta.dims as usize);
        Ok(plan::next(&segments, &unknown, tiers, &target, Effort::Tiers, Limits::NONE).is_some())
    })
}

/// Seals what inserts bring, until they bring less or others wait: what a background worker does before it merges.
pub fn await_calm(
    rel: Rel,
    settings: Settings,
    surroundings: &mut dyn Surroundings,
) -> Result<(), IndexError> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let (period, start) = (Instant::now(), read_meta(rel)?);
        while period.elapsed() < CALM_PERIOD {
            if !seal_what_came(rel, settings, surroundings)? {
                return Ok(());
            }
            surroundings.leave_table();
            worker::nap(SEAL_LOOK);
        }
        if read_meta(rel)?.inserted_bytes_since(&start) < CALM_BYTES {
            break;
        }
    }
    Ok(())
}

/// Seals what is due, holding nothing that keeps rows from being removed. False: others wait.
fn seal_what_came(
    rel: Rel,
    settings: Settings,
    surroundings: &mut dyn Surroundings,
) -> Result<bool, IndexError> {
    surroundings.leave_table();
    seal::down_to(rel, settings.delta_limit_bytes)?;
    Ok(!surroundings.must_yield())
}

/// Seals and merges until all is as it should be, or until others wait. Returns whether it came to that end. The caller
/// holds the compaction lock.
pub fn run(
    rel: Rel,
    effort: Effort,
    settings: Settings,
    surroundings: &mut dyn Surroundings,
    _lock: &IndexLock,
) -> Result<bool, IndexError> {
    failpoint::reach("compact.started");
    let mut compaction = Compaction { rel, settings, surroundings, merges: 0, failure: None };
    if effort == Effort::Everything {
        seal::all(rel)?;
    }
    let is_finished = compaction.merge_all(effort)?;
    // It looks at every free page, which a seal alone is not worth.
    if compaction.merges > 0 {
        let _lock = IndexLock::acquire(rel, Purpose::Maintenance);
        free_pages::reclaim(rel, free_pages::Trust::FreeSpaceMap)?;
    }
    Ok(is_finished)
}

struct Compaction<'a> {
    rel: Rel,
    settings: Settings,
    surroundings: &'a mut dyn Surroundings,
    /// Done so far.
    merges: usize,
    /// Why sealing by the way failed.
    failure: Option<IndexError>,
}

impl Compaction<'_> {
    fn merge_all(&mut self, effort: Effort) -> Result<bool, IndexError> {
        // Without the table there are only codes to learn from, and what they lost would be lost twice.
        let mut limits = Limits { retrains: self.surroundings.knows_table(), ..Limits::NONE };
        let mut is_complete = true;
        loop {
            if !self.goes_on()? {
                return Ok(false);
            }
            let snapshot = Snapshot::open(self.rel)?;
            let segments: Vec<_> =
                snapshot.segments.iter().map(|segment| segment.reference.clone()).collect();
            let imbalance: Vec<u32> =
                snapshot.segments.iter().map(|segment| segment.segment.imbalance_percent()).collect();
            let target = self.settings.target(&snapshot.meta)?;
            let tiers = Tiers::of_dims(snapshot.meta.dims as usize);
            let Some(plan) = plan::next(&segments, &imbalance, tiers, &target, effort, limits) else {
                return Ok(is_complete);
            };
            match merge(self.rel, &snapshot, &plan, self.settings.resources, self) {
                Ok(Outcome::Done) => self.merges += 1,
                Ok(Outcome::Yielded) => return self.failure.take().map_or(Ok(false), Err),
                // What cannot be had now must not hold up the rest.
                Ok(Outcome::RowsMissing) | Err(IndexError::Memory(_)) if effort == Effort::Tiers => {
                    limits = limits.without(&plan, &segments, tiers);
                    is_complete = false;
                }
                Ok(Outcome::RowsMissing) => return Ok(false),
                Err(error) => return Err(error),
            }
            if effort == Effort::Everything {
                return Ok(is_complete);
            }
        }
    }
}

impl Host for Compaction<'_> {
    fn knows_table(&self) -> bool {
        self.surroundings.knows_table()
    }

    fn has_table(&mut self) -> bool {
        self.surroundings.has_table()
    }

    fn exact_row(&mut self, tid: Tid, row: &mut Vec<f32>) -> bool {
        self.surroundings.exact_row(tid, row)
    }

    /// Inserts go on during a merge. What they bring is sealed here, while FAISS's threads are at work, so that the
    /// inserters need not do it.
    fn must_yield(&mut self) -> bool {
        if self.failure.is_none() && !self.surroundings.must_yield() {
            self.failure = seal::try_down_to(self.rel, self.settings.delta_limit_bytes).err();
            return self.failure.is_some();
        }
        true
    }

    fn goes_on(&mut self) -> Result<bool, IndexError> {
        seal_what_came(self.rel, self.settings, self.surroundings)
    }
}
