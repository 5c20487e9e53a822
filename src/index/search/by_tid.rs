//! Finds the index's entries for rows of a table block.

use std::sync::Arc;

use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::segment::OpenedSegment;
use crate::index::{IndexView, delta, retry};
use crate::pg::relation::Rel;

/// The index's copy of a row.
#[derive(Clone)]
pub enum IndexedRow {
    /// The row in its indexed form.
    Delta(Vec<f32>),
    Segment {
        opened: Arc<OpenedSegment>,
        position: u64,
    },
}

/// All live entries for rows of the block, unordered.
pub fn on_block(rel: Rel, block: u32) -> Result<Vec<(Tid, IndexedRow)>, IndexError> {
    let is_there = |tid: Tid| tid.block() == block;
    // Read root and delta together: see `search::Cursor::open`.
    retry(|| {
        let view = IndexView::try_open(rel)?;
        let mut found = Vec::new();
        delta::for_each_row(rel, &view.meta, |tids, rows| {
            for (&tid, row) in tids.iter().zip(rows.chunks_exact(view.dims())) {
                if is_there(tid) {
                    found.push((tid, IndexedRow::Delta(row.to_vec())));
                }
            }
            Ok(())
        })?;
        for opened in &view.segments {
            for position in opened.live_positions() {
                let tid = opened.segment.tid(position);
                if is_there(tid) {
                    found.push((tid, IndexedRow::Segment { opened: opened.clone(), position }));
                }
            }
        }
        Ok(found)
    })
}
