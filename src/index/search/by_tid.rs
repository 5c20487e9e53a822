//! Where an index has the rows of a block of the table.

use std::sync::Arc;

use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::segment::OpenedSegment;
use crate::index::{Snapshot, delta, retry};
use crate::pg::relation::Rel;

/// What an index holds of a row.
#[derive(Clone)]
pub enum Place {
    /// The row itself, in the form that is indexed.
    Delta(Vec<f32>),
    Segment {
        opened: Arc<OpenedSegment>,
        position: u64,
    },
}

/// Every live entry for a row of the table's block, in no order.
pub fn on_block(rel: Rel, block: u32) -> Result<Vec<(Tid, Place)>, IndexError> {
    let is_there = |tid: Tid| tid.block() == block;
    // Root and delta are read together: see `search::Cursor::open`.
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
