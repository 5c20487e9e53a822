//! One merge: several segments become one.
//!
//! The sources are immutable, and only the holder of the compaction lock removes segments, so merging needs no other
//! lock. VACUUM may set tombstones in the sources meanwhile; just before publishing, under the maintenance lock, they
//! are carried over by TID.

mod add;
mod finish;
mod start;

use std::sync::Arc;
use std::time::Instant;

use super::host::Host;
use super::plan::MergePlan;
use super::source_rows::Outcome;
use crate::cache::SyncAt;
use crate::failpoint;
use crate::index::IndexView;
use crate::index::error::IndexError;
use crate::index::interruptible::stoppable;
use crate::index::segment::{self, OpenedSegment};
use crate::index::storage::blob;
use crate::index::train::Resources;
use crate::pg::relation::Rel;
use add::Merge;
use finish::Merged;

/// Merges the plan's sources. The caller has held the compaction lock since before it opened the index view.
pub fn merge(
    rel: Rel,
    view: &IndexView,
    plan: &MergePlan,
    resources: Resources,
    host: &mut Host,
) -> Result<Outcome, IndexError> {
    let sources: Vec<Arc<OpenedSegment>> = plan.sources.iter().map(|&at| view.segments[at].clone()).collect();
    let factory = start::factory_for(plan, &sources, host);
    let base = plan.base.filter(|_| factory == plan.factory).map(|at| view.segments[at].clone());
    failpoint::reach("merge.planned");
    let begun = Instant::now();
    let started = start::start(view, plan, factory, base.as_deref(), &sources, resources, host)?;
    let (mut builder, factory, models) = match started {
        Ok(started) => started,
        Err(outcome) => return Ok(outcome),
    };
    builder.reserve(plan.rows)?;
    let is_base = |source: &Arc<OpenedSegment>| base.as_ref().is_some_and(|base| Arc::ptr_eq(source, base));
    let added: Vec<Arc<OpenedSegment>> = sources.iter().filter(|source| !is_base(source)).cloned().collect();
    let held = match start::hold_back(view, &builder, base.as_deref(), &added, begun, host)? {
        Ok(held) => held,
        Err(outcome) => return Ok(outcome),
    };
    let mut merge = Merge::new(view.metric, resources, host, builder, held);
    if let Some(base) = &base {
        merge.tids.extend((0..base.segment.rows()).map(|position| base.segment.tid(position)));
        if !merge.compare_base(base)? {
            return Ok(Outcome::Yielded);
        }
    }
    for source in &added {
        merge.add_segment(source)?;
        if merge.outcome != Outcome::Done {
            return Ok(merge.outcome);
        }
    }
    if !merge.flush()? {
        return Ok(Outcome::Yielded);
    }
    let Some(points) = merge.calibrate(base.as_deref())? else {
        return Ok(Outcome::Yielded);
    };
    let Merge { host, builder, tids, rejected, .. } = merge;
    let staged = if tids.is_empty() {
        None
    } else {
        let cache = segment::cache();
        let key = segment::file_key(rel, blob::random_id()?);
        let staged = stoppable(resources.threads, &mut || !host.must_yield(), || {
            segment::stage(&cache, key, &builder, view.metric, &factory, &tids, SyncAt::Writing)
        })?;
        if staged.is_none() {
            return Ok(Outcome::Yielded);
        }
        staged
    };
    drop(builder);

    failpoint::reach("merge.staged");
    let merged = Merged { staged, models, points, tids, rejected, base };
    finish::finish(rel, view, plan, &sources, merged)?;
    Ok(Outcome::Done)
}
