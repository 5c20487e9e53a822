//! The start of a merge: the index to add rows to, and the holdout queries that will calibrate it.

use std::sync::Arc;
use std::time::Instant;

use crate::engine::Builder;
use crate::failpoint;
use crate::index::IndexView;
use crate::index::compact::host::Host;
use crate::index::compact::plan::MergePlan;
use crate::index::compact::source_rows::{Outcome, read, sample};
use crate::index::error::IndexError;
use crate::index::interruptible::{interruptible, stoppable};
use crate::index::segment::{Models, OpenedSegment};
use crate::index::train::{
    HoldoutRows, Resources, TrainingSample, UNTRAINED_FACTORY, check_memory, wanted_queries,
};

/// The index to add rows to, its factory string, and the origin of its models.
pub(super) type Started = (Builder, String, Models);

/// Prepares the index to add rows to. An inner Err is the outcome of a merge that cannot start.
pub(super) fn start(
    view: &IndexView,
    plan: &MergePlan,
    factory: &str,
    base: Option<&OpenedSegment>,
    sources: &[Arc<OpenedSegment>],
    resources: Resources,
    host: &mut Host,
) -> Result<Result<Started, Outcome>, IndexError> {
    let (dims, metric) = (view.dims(), view.metric);
    let fresh = Builder::new(factory, dims, metric)?;
    let live_rows: u64 = view.segments.iter().map(|segment| segment.live_rows()).sum();
    let untrained = TrainingSample { rows: 0, table_rows: 0 };
    check_memory(&fresh, factory, untrained, plan.rows, resources)?;
    let quantiser = match base {
        Some(base) => Some((base, true)),
        None if plan.retrain || !fresh.needs_training() => None,
        None => newest_trained(view, factory).map(|donor| (donor, false)),
    };
    if let Some((donor, keep_rows)) = quantiser {
        let serial = donor.segment.serial();
        let builder = interruptible(1, || Builder::resume(factory, dims, metric, serial, keep_rows))?;
        return Ok(Ok((builder, factory.to_string(), Models::of(&donor.reference))));
    }
    if !fresh.needs_training() {
        return Ok(Ok((fresh, factory.to_string(), Models::None)));
    }
    let wanted = fresh.training_rows();
    let sample = match sample(metric, sources, &fresh, wanted.wanted as u64, host)? {
        Ok(sample) => sample,
        Err(outcome) => return Ok(Err(outcome)),
    };
    if sample.len() / dims < wanted.min {
        let flat = Builder::new(UNTRAINED_FACTORY, dims, metric)?;
        return Ok(Ok((flat, UNTRAINED_FACTORY.to_string(), Models::None)));
    }
    let mut builder = fresh;
    let taken = TrainingSample { rows: sample.len() / dims, table_rows: sample.len() / dims };
    check_memory(&builder, factory, taken, plan.rows, resources)?;
    let trained = stoppable(resources.threads, &mut || !host.must_yield(), || builder.train(&sample))?;
    if trained.is_none() {
        return Ok(Err(Outcome::Yielded));
    }
    failpoint::reach("merge.trained");
    Ok(Ok((builder, factory.to_string(), Models::Own { live_rows })))
}

/// The plan's factory string. If the table cannot be read, that of the largest lossy source: an index that stores or
/// refines by rows would store decoded ones, and other codes would lose precision a second time.
pub(super) fn factory_for<'a>(
    plan: &'a MergePlan,
    sources: &'a [Arc<OpenedSegment>],
    host: &Host,
) -> &'a str {
    let coded = sources.iter().filter(|source| !source.segment.index.stores_rows());
    match coded.max_by_key(|source| source.live_rows()) {
        Some(coded) if !host.has_table() => &coded.reference.factory,
        _ => &plan.factory,
    }
}

/// The segment whose quantiser was trained on the most rows.
fn newest_trained<'a>(view: &'a IndexView, factory: &str) -> Option<&'a OpenedSegment> {
    let trained = view
        .segments
        .iter()
        .filter(|segment| segment.reference.trained_rows > 0 && segment.reference.factory == factory);
    trained.max_by_key(|segment| segment.reference.trained_rows).map(Arc::as_ref)
}

/// Chooses the holdout queries among the rows to be added; an inner Err means that another process waits. If the base
/// does not store its rows, they cannot be compared with the queries, and its own operating points stay valid.
pub(super) fn hold_back(
    view: &IndexView,
    builder: &Builder,
    base: Option<&OpenedSegment>,
    added: &[Arc<OpenedSegment>],
    started: Instant,
    host: &mut Host,
) -> Result<Result<HoldoutRows, Outcome>, IndexError> {
    let (metric, dims) = (view.metric, view.dims());
    let none = || Ok(Ok(HoldoutRows::none(metric, dims)));
    if !builder.is_approximate() || base.is_some_and(|base| !base.segment.index.stores_rows()) {
        return none();
    }
    let live_rows: u64 = added.iter().map(|source| source.live_rows()).sum();
    let wanted = wanted_queries(live_rows, dims);
    if wanted == 0 {
        return none();
    }
    let step = (live_rows as usize / wanted).max(1);
    let mut chosen = Vec::with_capacity(wanted);
    for source in added {
        let positions: Vec<u64> = source.live_positions().step_by(step).collect();
        let outcome = read(metric, source, &positions, host, &mut |position, row| {
            if builder.accepts(row) {
                chosen.push((source.segment.tid(position), row.to_vec()));
            }
        })?;
        match outcome {
            Outcome::Done => {}
            Outcome::Yielded => return Ok(Err(outcome)),
            Outcome::RowsMissing => return none(),
        }
    }
    Ok(Ok(HoldoutRows::new(metric, dims, chosen, started)))
}
