//! `vekter_export()`: one FAISS index of all rows that a query sees.
//!
//! The largest segment is the base. If all of its rows are exported, it is copied as it is; otherwise only its trained
//! models are. All other rows come from the table, because a lossy segment could not give them exactly.

use std::sync::Arc;

use super::IndexView;
use super::error::IndexError;
use super::format::Tid;
use super::interruptible::interruptible;
use super::segment::OpenedSegment;
use super::table::{Table, TableRow};
use super::train::{Resources, TrainingSample, UNTRAINED_FACTORY, check_memory};
use crate::engine::Builder;
use crate::pg::relation::Rel;

/// A FAISS index, and the ids of its rows by position.
pub struct Exported {
    pub builder: Builder,
    pub ids: Vec<i64>,
}

/// A row of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct VisibleRow {
    tid: Tid,
    id: i64,
}

/// Builds one index of all rows visible in `table`.
pub fn merge(rel: Rel, table: &mut dyn Table, resources: Resources) -> Result<Exported, IndexError> {
    let mut rows: Vec<VisibleRow> = Vec::new();
    table.scan_visible(&mut |TableRow { tid, id, .. }| {
        let id = id.ok_or(IndexError::NoId)?;
        rows.try_reserve(1)?;
        rows.push(VisibleRow { tid, id });
        Ok(())
    })?;
    rows.sort_unstable();
    let view = IndexView::open(rel)?;
    let base = view.segments.iter().max_by_key(|segment| segment.reference.rows);
    let kept = base.map(|base| ids_of_all(base, &rows)).transpose()?.flatten();
    let mut exported = start(&view, base, kept, rows.len() as u64, resources)?;
    if let Some(base) = base.filter(|_| !exported.ids.is_empty()) {
        let present = tids_of(base)?;
        rows.retain(|row| present.binary_search(&row.tid).is_err());
    }
    add_rows(&mut exported, &rows, table, resources)?;
    Ok(exported)
}

/// The ids of the segment's rows by position; None unless every row of the segment is live and in `rows`.
fn ids_of_all(segment: &OpenedSegment, rows: &[VisibleRow]) -> Result<Option<Vec<i64>>, IndexError> {
    let mut ids = Vec::new();
    ids.try_reserve_exact(rows.len())?;
    for position in 0..segment.reference.rows {
        let tid = segment.segment.tid(position);
        match rows.binary_search_by_key(&tid, |row| row.tid) {
            Ok(at) if !segment.is_dead(position) => ids.push(rows[at].id),
            _ => return Ok(None),
        }
    }
    Ok(Some(ids))
}

/// The index to add rows to. `kept`: the ids of the base's rows, if they stay in it.
fn start(
    view: &IndexView,
    base: Option<&Arc<OpenedSegment>>,
    kept: Option<Vec<i64>>,
    rows: u64,
    resources: Resources,
) -> Result<Exported, IndexError> {
    let (dims, metric) = (view.dims(), view.metric);
    let factory = base.map_or(UNTRAINED_FACTORY, |base| base.reference.factory.as_str());
    let untrained = TrainingSample { rows: 0, table_rows: 0 };
    check_memory(&Builder::new(factory, dims, metric)?, factory, untrained, rows, resources)?;
    let mut builder = match base {
        Some(base) => {
            let serial = base.segment.serial();
            interruptible(1, || Builder::resume(factory, dims, metric, serial, kept.is_some()))?
        }
        None => Builder::new(factory, dims, metric)?,
    };
    let ids = kept.unwrap_or_default();
    if (ids.len() as u64) < rows {
        builder.reserve(rows)?;
    }
    Ok(Exported { builder, ids })
}

/// The segment's TIDs in ascending order.
fn tids_of(segment: &OpenedSegment) -> Result<Vec<Tid>, IndexError> {
    let mut tids = Vec::new();
    tids.try_reserve_exact(segment.reference.rows as usize)?;
    tids.extend((0..segment.reference.rows).map(|position| segment.segment.tid(position)));
    tids.sort_unstable();
    Ok(tids)
}

/// Adds table rows in batches; no page is pinned while FAISS works.
fn add_rows(
    exported: &mut Exported,
    rows: &[VisibleRow],
    table: &mut dyn Table,
    resources: Resources,
) -> Result<(), IndexError> {
    let Exported { builder, ids } = exported;
    let (metric, dims) = (builder.metric(), builder.dims());
    ids.try_reserve_exact(rows.len())?;
    let batch_rows = (resources.batch_bytes / (size_of::<f32>() * dims)).max(1);
    let mut batch = Vec::<f32>::new();
    for rows in rows.chunks(batch_rows) {
        batch.clear();
        for &VisibleRow { tid, id } in rows {
            pgrx::check_for_interrupts!();
            let at = batch.len();
            table.fetch(tid, &mut |vector| batch.extend_from_slice(vector));
            // Under cosine, a zero vector has no direction and is not indexed.
            if batch.len() - at != dims || !metric.prepare(&mut batch[at..]) {
                batch.truncate(at);
            } else if builder.accepts(&batch[at..]) {
                ids.push(id);
            } else {
                return Err(IndexError::TooLong { id });
            }
        }
        table.unpin();
        interruptible(resources.threads, || builder.add_unlinked(&batch))?;
    }
    Ok(interruptible(resources.threads, || builder.link(u64::MAX))?)
}
