//! Reads the rows of a merge's sources: from the segment, from the table, or by FAISS's decoder.

use std::sync::Arc;

use super::host::Host;
use crate::engine::{Builder, Metric};
use crate::index::error::IndexError;
use crate::index::segment::OpenedSegment;

/// Rows read at a time for a sample. They are scattered, and each read scans the inverted lists once.
const SAMPLE_READ_ROWS: usize = 1 << 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Abandoned because another process waits; nothing was changed.
    Yielded,
    /// Some rows are unavailable; nothing was changed. Either FAISS cannot decode rows that the table no longer shows
    /// (VACUUM will remove them), or the table could not be read.
    RowsMissing,
}

/// Calls `visit` with the rows at `positions`. They come from the segment if it stores rows, else from the table, else
/// from FAISS's decoder.
pub fn read(
    metric: Metric,
    source: &OpenedSegment,
    positions: &[u64],
    host: &mut Host,
    visit: &mut dyn FnMut(u64, &[f32]),
) -> Result<Outcome, IndexError> {
    let index = &source.segment.index;
    let (mut others, mut row) = (Vec::new(), Vec::new());
    if index.stores_rows() || !host.has_table() {
        others.extend_from_slice(positions);
    } else {
        for &position in positions {
            // Reading the table can take long: index expressions call user functions.
            if host.must_yield() {
                return Ok(Outcome::Yielded);
            }
            let Some(table) = host.table() else {
                return Ok(Outcome::RowsMissing);
            };
            row.clear();
            let mut take = |vector: &[f32]| row.extend_from_slice(vector);
            let is_visible = table.fetch(source.segment.tid(position), &mut take);
            if is_visible && row.len() == index.dims() && metric.prepare(&mut row) {
                visit(position, &row);
            } else {
                others.push(position);
            }
        }
    }
    if others.is_empty() {
        return Ok(Outcome::Done);
    }
    if !index.can_decode() {
        return Ok(Outcome::RowsMissing);
    }
    let mut rows = Vec::new();
    index.rows_at(&others, &mut rows)?;
    for (&position, row) in others.iter().zip(rows.chunks_exact(index.dims())) {
        visit(position, row);
    }
    Ok(Outcome::Done)
}

/// A sample of about `wanted` live rows that `builder` accepts, spread evenly over the sources. An inner Err says why
/// there is none.
pub fn sample(
    metric: Metric,
    sources: &[Arc<OpenedSegment>],
    builder: &Builder,
    wanted: u64,
    host: &mut Host,
) -> Result<Result<Vec<f32>, Outcome>, IndexError> {
    let live_rows: u64 = sources.iter().map(|source| source.live_rows()).sum();
    let step = (live_rows / wanted.max(1)).max(1) as usize;
    let mut sample = Vec::new();
    for source in sources {
        let live: Vec<u64> = source.live_positions().step_by(step).collect();
        for positions in live.chunks(SAMPLE_READ_ROWS) {
            let outcome = read(metric, source, positions, host, &mut |_, row| {
                if builder.accepts(row) {
                    sample.extend_from_slice(row);
                }
            })?;
            if outcome != Outcome::Done {
                return Ok(Err(outcome));
            }
        }
    }
    Ok(Ok(sample))
}
