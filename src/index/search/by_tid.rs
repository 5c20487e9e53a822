//! Finds the index's entries for rows of a table block.

use std::sync::Arc;

use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::segment::OpenedSegment;
use crate::index::{Snapshot, delta, retry};
use crate::pg::relation::Rel;

/// The index's copy of a row.
#[derive(Clone)]
pub enum Place {
    /// The row in its indexed form.
    Delta(Vec<f32>),
    Segment {
        opened: Arc<OpenedSegment>,
        position: u64,
    },
}

/// All live entries for rows of the block, unordered.
pub fn on_block(rel: Rel, block: u32) -> Result<Vec<(Tid, Place)>, IndexError> {
    let is_there = |tid: Tid| tid.block() == block;
    // Read root and delta together: see `search::Cursor::open`.
    retry(|| {
        let snapshot = Snapshot::try_open(rel)?;
        let mut found = Vec::new();
        delta::for_each_row(rel, &snapshot.meta, |tids, rows| {
            for (&tid, row) in tids.iter().zip(rows.chunks_exact(snapshot.dims())) {
                if is_there(tid) {
                    found.push((tid, Place::Delta(row.to_vec())));
                }
            }
            Ok(())
        })?;
        for opened in &snapshot.segments {
            for position in opened.live_positions() {
                let tid = opened.segment.tid(position);
                if is_there(tid) {
                    found.push((tid, Place::Segment { opened: opened.clone(), position }));
                }
            }
        }
        Ok(found)
    })
}
