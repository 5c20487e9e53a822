//! Compaction: sealing what is due and merging segments until there is nothing left to do.

use std::time::{Duration, Instant};

use super::host::Host;
use super::merge::merge;
use super::plan::{self, Effort, Limits};
use super::seal;
use super::source_rows::Outcome;
use crate::failpoint;
use crate::index::error::IndexError;
use crate::index::format::{Meta, Tiers};
use crate::index::storage::free_pages;
use crate::index::table::Surroundings;
use crate::index::train::{FactoryOption, Resources};
use crate::index::{Snapshot, metric_of, read_manifest, read_meta, retry};
use crate::pg::lock::{IndexLock, Purpose};
use crate::pg::relation::Rel;

/// Rows that come faster than this, 8 MB/s, are not merged at once: graphs and most codes are built more slowly, so a merge
/// would take the processor from the inserts, and most of its result would be merged again soon.
const CALM_BYTES: u64 = 2 << 20;
const CALM_PERIOD: Duration = Duration::from_millis(250);
/// Those of a load that lasts so long are.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the delta is looked at meanwhile.
const SEAL_LOOK: Duration = Duration::from_millis(20);

#[derive(Clone, Copy)]
pub struct Settings {
    pub resources: Resources,
    /// A delta of more bytes than this is sealed.
    pub delta_limit_bytes: u64,
    /// The recall that is asked of the index, up to 1.
    pub recall: f64,
}

impl Settings {
    fn option(self, meta: &Meta) -> Result<FactoryOption<'_>, IndexError> {
        let dims = meta.dims as usize;
        Ok(FactoryOption::new(&meta.factory, dims, metric_of(meta)?, self.recall, self.resources))
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
        let option = settings.option(&meta)?;
        let tiers = Tiers::of_dims(meta.dims as usize);
        Ok(plan::next(&segments, &unknown, tiers, &option, Effort::Tiers, Limits::NONE).is_some())
    })
}

/// Seals what inserts bring, until they bring less or others wait: what a background worker does before it merges.
pub fn await_calm(
    rel: Rel,
    settings: Settings,
    surroundings: &mut dyn Surroundings,
) -> Result<(), IndexError> {
    let mut host = Host::new(rel, settings.delta_limit_bytes, surroundings);
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let (period, start) = (Instant::now(), read_meta(rel)?);
        while period.elapsed() < CALM_PERIOD {
            if !host.goes_on()? {
                return Ok(());
            }
            host.rest(SEAL_LOOK);
        }
        if read_meta(rel)?.inserted_bytes_since(&start) < CALM_BYTES {
            break;
        }
    }
    Ok(())
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
    let mut compaction = Compaction {
        rel,
        settings,
        host: Host::new(rel, settings.delta_limit_bytes, surroundings),
        merges: 0,
    };
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
    host: Host<'a>,
    /// Done so far.
    merges: usize,
}

impl Compaction<'_> {
    fn merge_all(&mut self, effort: Effort) -> Result<bool, IndexError> {
        // Without the table there are only codes to learn from, and what they lost would be lost twice.
        let mut limits = Limits { retrains: self.host.knows_table(), ..Limits::NONE };
        let mut is_complete = true;
        loop {
            if !self.host.goes_on()? {
                return Ok(false);
            }
            let snapshot = Snapshot::open(self.rel)?;
            let segments: Vec<_> =
                snapshot.segments.iter().map(|segment| segment.reference.clone()).collect();
            let imbalance: Vec<u32> =
                snapshot.segments.iter().map(|segment| segment.segment.imbalance_percent()).collect();
            let option = self.settings.option(&snapshot.meta)?;
            let tiers = Tiers::of_dims(snapshot.meta.dims as usize);
            let Some(plan) = plan::next(&segments, &imbalance, tiers, &option, effort, limits) else {
                return Ok(is_complete);
            };
            match merge(self.rel, &snapshot, &plan, self.settings.resources, &mut self.host) {
                Ok(Outcome::Done) => self.merges += 1,
                Ok(Outcome::Yielded) => return self.host.failure.take().map_or(Ok(false), Err),
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
