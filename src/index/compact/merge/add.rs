//! Adds the sources' rows to the result of a merge.

use crate::engine::{Builder, Metric};
use crate::failpoint;
use crate::index::compact::host::Host;
use crate::index::compact::source_rows::{Outcome, read};
use crate::index::error::IndexError;
use crate::index::format::{PointRef, Tid};
use crate::index::interruptible::stoppable;
use crate::index::segment::OpenedSegment;
use crate::index::train::{HoldoutRows, Resources};

/// Rows read from a segment at a time.
const READ_ROWS: usize = 1024;

pub(super) struct Merge<'a, 'h> {
    metric: Metric,
    resources: Resources,
    pub host: &'a mut Host<'h>,
    pub builder: Builder,
    held: HoldoutRows,
    /// TIDs by position, including the rows in `batch`.
    pub tids: Vec<Tid>,
    batch: Vec<f32>,
    /// Rows that the builder cannot represent because its sums would overflow.
    pub rejected: (Vec<Tid>, Vec<f32>),
    pub outcome: Outcome,
}

impl<'a, 'h> Merge<'a, 'h> {
    pub fn new(
        metric: Metric,
        resources: Resources,
        host: &'a mut Host<'h>,
        builder: Builder,
        held: HoldoutRows,
    ) -> Self {
        Merge {
            metric,
            resources,
            host,
            builder,
            held,
            tids: Vec::new(),
            batch: Vec::new(),
            rejected: (Vec::new(), Vec::new()),
            outcome: Outcome::Done,
        }
    }

    /// Adds the live rows of a source; if that is not possible, sets `outcome`.
    pub fn add_segment(&mut self, source: &OpenedSegment) -> Result<(), IndexError> {
        if source.segment.index.stores_rows() {
            return self.add_stored(source);
        }
        let live: Vec<u64> = source.live_positions().collect();
        for positions in live.chunks(READ_ROWS) {
            let mut rows: Vec<(u64, Vec<f32>)> = Vec::with_capacity(positions.len());
            self.outcome = read(self.metric, source, positions, self.host, &mut |position, row| {
                rows.push((position, row.to_vec()));
            })?;
            if self.outcome != Outcome::Done {
                return Ok(());
            }
            for (position, row) in rows {
                self.push(source.segment.tid(position), &row);
            }
            if !self.flush_if_full()? {
                self.outcome = Outcome::Yielded;
                return Ok(());
            }
        }
        Ok(())
    }

    fn add_stored(&mut self, source: &OpenedSegment) -> Result<(), IndexError> {
        let dims = source.segment.index.dims();
        let mut stopped = Ok(true);
        source.segment.index.all_rows(READ_ROWS, &mut |positions, rows| {
            for (&position, row) in positions.iter().zip(rows.chunks_exact(dims)) {
                if !source.is_dead(position) {
                    self.push(source.segment.tid(position), row);
                }
            }
            stopped = self.flush_if_full();
            matches!(stopped, Ok(true))
        })?;
        if !stopped? {
            self.outcome = Outcome::Yielded;
        }
        Ok(())
    }

    fn push(&mut self, tid: Tid, row: &[f32]) {
        if self.builder.accepts(row) {
            if self.held.hold_out(tid, row) {
                return;
            }
            self.tids.push(tid);
            self.batch.extend_from_slice(row);
        } else {
            self.rejected.0.push(tid);
            self.rejected.1.extend_from_slice(row);
        }
    }

    fn flush_if_full(&mut self) -> Result<bool, IndexError> {
        if size_of_val(self.batch.as_slice()) < self.resources.batch_bytes { Ok(true) } else { self.flush() }
    }

    /// Adds the batch to the FAISS index. False: another process waits.
    pub fn flush(&mut self) -> Result<bool, IndexError> {
        if !self.host.should_continue()? {
            return Ok(false);
        }
        let Merge { host, builder, held, batch, .. } = self;
        let added = stoppable(self.resources.threads, &mut || !host.must_yield(), || {
            let first = builder.rows();
            builder.add_unlinked(batch)?;
            let positions: Vec<u64> = (first..builder.rows()).collect();
            held.compare(&positions, batch)
        })?;
        if added.is_none() {
            return Ok(false);
        }
        self.batch.clear();
        failpoint::reach("merge.batch_added");
        Ok(true)
    }

    /// Links the rows of a graph that were added. False: another process waits.
    pub fn link(&mut self) -> Result<bool, IndexError> {
        let Merge { host, builder, resources, .. } = self;
        while builder.unlinked_rows() > 0 {
            let linked = stoppable(resources.threads, &mut || !host.must_yield(), || {
                builder.link(Builder::LINK_ROWS)
            })?;
            if linked.is_none() || !host.should_continue()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Compares the rows of the base with the holdout queries, if it stores rows. False: another process waits.
    pub fn compare_base(&mut self, base: &OpenedSegment) -> Result<bool, IndexError> {
        if !base.segment.index.stores_rows() {
            return Ok(true);
        }
        let (dims, threads) = (base.segment.index.dims(), self.resources.threads);
        let Merge { host, held, .. } = self;
        let mut outcome = Ok(true);
        base.segment.index.all_rows(READ_ROWS * 4, &mut |positions, rows| {
            let (mut live, mut values) =
                (Vec::with_capacity(positions.len()), Vec::with_capacity(rows.len()));
            for (&position, row) in positions.iter().zip(rows.chunks_exact(dims)) {
                if !base.is_dead(position) {
                    live.push(position);
                    values.extend_from_slice(row);
                }
            }
            let compared = stoppable(threads, &mut || !host.must_yield(), || held.compare(&live, &values));
            outcome = compared.map(|done| done.is_some());
            matches!(outcome, Ok(true))
        })?;
        outcome
    }

    /// Calibrates the result and adds the holdout rows to it. None: another process waits.
    pub fn calibrate(&mut self, base: Option<&OpenedSegment>) -> Result<Option<Vec<PointRef>>, IndexError> {
        if !self.link()? {
            return Ok(None);
        }
        let (metric, dims, threads) = (self.metric, self.builder.dims(), self.resources.threads);
        let dead = base.and_then(|base| base.dead.as_deref());
        let Merge { host, builder, held, .. } = self;
        let measured =
            stoppable(threads, &mut || !host.must_yield(), || held.calibrate(builder, dead, threads))?;
        let Some(mut points) = measured else {
            return Ok(None);
        };
        for (tid, row) in std::mem::replace(held, HoldoutRows::none(metric, dims)).release() {
            self.push(tid, &row);
        }
        if points.is_empty()
            && let Some(base) = base
        {
            points.clone_from(&base.reference.points);
        }
        Ok((self.flush()? && self.link()?).then_some(points))
    }
}
