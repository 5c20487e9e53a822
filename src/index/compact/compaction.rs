//! Compaction: seals the delta and merges segments until no merge is due.

use std::time::{Duration, Instant};

use super::host::Host;
use super::merge::merge;
use super::plan::{self, Goal, Limits};
use super::seal;
use super::source_rows::Outcome;
use crate::failpoint;
use crate::index::error::IndexError;
use crate::index::format::{Meta, Tiers};
use crate::index::storage::free_pages;
use crate::index::table::TableAccess;
use crate::index::train::{RequestedFactory, Resources};
use crate::index::{Definition, IndexView, metric_of, read_manifest, read_meta, retry};
use crate::pg::lock::{IndexLock, Purpose};
use crate::pg::relation::Rel;

/// Throttling of merges: while inserts bring more than this in `THROTTLE_PERIOD` (8 MB/s), no merge starts. Most graphs
/// and codes are built more slowly than that, so a merge would compete with the inserts for processor time, and its
/// result would soon be merged again.
const THROTTLE_BYTES: u64 = 2 << 20;
const THROTTLE_PERIOD: Duration = Duration::from_millis(250);
/// Limit on throttling: after this time, merges start under any load.
const MAX_THROTTLE: Duration = Duration::from_secs(10);
/// Interval between checks of the delta while throttled.
const SEAL_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Clone, Copy)]
pub struct Settings {
    pub resources: Resources,
    /// Size of the delta, in bytes of pages, above which it is sealed.
    pub delta_limit_bytes: u64,
    /// The index's `recall` option, up to 1.
    pub recall: f64,
    /// Whether every value of the column is one of IEEE's 16-bit floats.
    pub are_halves: bool,
}

impl Settings {
    fn definition(self, meta: &Meta) -> Result<Definition, IndexError> {
        let (dims, metric, factory) = (meta.dims as usize, metric_of(meta)?, meta.factory.clone());
        Ok(Definition { dims, metric, factory, recall: self.recall, are_halves: self.are_halves })
    }
}

/// Whether `run` would find a delta to seal or segments to merge, judging by the manifest alone.
pub fn is_due(rel: Rel, settings: Settings) -> Result<bool, IndexError> {
    retry(|| {
        let meta = read_meta(rel)?;
        if seal::is_due(&meta, settings.delta_limit_bytes) {
            return Ok(true);
        }
        let segments = read_manifest(rel, &meta)?.segments;
        let unknown = vec![0; segments.len()];
        let definition = settings.definition(&meta)?;
        let option = RequestedFactory::new(&definition, settings.resources);
        let tiers = Tiers::of_dims(meta.dims as usize);
        Ok(plan::next(&segments, &unknown, tiers, &option, Goal::Tiers, Limits::NONE).is_some())
    })
}

/// Throttles a background worker before its first merge: seals the delta until the rate of inserts drops, or another
/// process waits for the index.
pub fn throttle(rel: Rel, settings: Settings, access: &mut dyn TableAccess) -> Result<(), IndexError> {
    let mut host = Host::new(rel, settings.delta_limit_bytes, access);
    let begun = Instant::now();
    while begun.elapsed() < MAX_THROTTLE {
        let (period, start) = (Instant::now(), read_meta(rel)?);
        while period.elapsed() < THROTTLE_PERIOD {
            if !host.should_continue()? {
                return Ok(());
            }
            host.rest(SEAL_INTERVAL);
        }
        if read_meta(rel)?.inserted_bytes_since(&start) < THROTTLE_BYTES {
            break;
        }
    }
    Ok(())
}

/// Seals and merges until nothing is due. False if it stopped early because another process waits or rows were
/// unavailable. The caller holds the compaction lock.
pub fn run(
    rel: Rel,
    goal: Goal,
    settings: Settings,
    access: &mut dyn TableAccess,
    _lock: &IndexLock,
) -> Result<bool, IndexError> {
    failpoint::reach("compact.started");
    let mut compaction =
        Compaction { rel, settings, host: Host::new(rel, settings.delta_limit_bytes, access), merges: 0 };
    if goal == Goal::Everything {
        seal::all(rel)?;
    }
    let is_finished = compaction.merge_all(goal)?;
    // Reclaiming looks at every free page, so it only pays off after a merge.
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
    /// Number of merges done.
    merges: usize,
}

impl Compaction<'_> {
    fn merge_all(&mut self, goal: Goal) -> Result<bool, IndexError> {
        // Without the table, quantisers could only be trained on decoded rows, which would lose precision twice.
        let mut limits = Limits { retrains: self.host.has_table(), ..Limits::NONE };
        let mut is_complete = true;
        loop {
            if !self.host.should_continue()? {
                return Ok(false);
            }
            let view = IndexView::open(self.rel)?;
            let segments: Vec<_> = view.segments.iter().map(|segment| segment.reference.clone()).collect();
            let imbalance: Vec<u32> =
                view.segments.iter().map(|segment| segment.segment.imbalance_percent()).collect();
            let definition = self.settings.definition(&view.meta)?;
            let option = RequestedFactory::new(&definition, self.settings.resources);
            let tiers = Tiers::of_dims(view.meta.dims as usize);
            let Some(plan) = plan::next(&segments, &imbalance, tiers, &option, goal, limits) else {
                return Ok(is_complete);
            };
            match merge(self.rel, &view, &plan, self.settings.resources, &mut self.host) {
                Ok(Outcome::Done) => self.merges += 1,
                Ok(Outcome::Yielded) => return self.host.failure.take().map_or(Ok(false), Err),
                // Exclude a merge whose rows or memory are unavailable, and continue with the others.
                Ok(Outcome::RowsMissing) | Err(IndexError::Memory(_)) if goal == Goal::Tiers => {
                    limits = limits.without(&plan, &segments, tiers);
                    is_complete = false;
                }
                Ok(Outcome::RowsMissing) => return Ok(false),
                Err(error) => return Err(error),
            }
            if goal == Goal::Everything {
                return Ok(is_complete);
            }
        }
    }
}
