//! What a search reads of an index: the root and the segments that it names, as of one moment.

use std::sync::Arc;

use super::error::IndexError;
use super::format::Meta;
use super::segment::{OpenedSegment, session};
use super::{metric_of, read_meta, retry};
use crate::engine::Metric;
use crate::failpoint;
use crate::pg::relation::Rel;

/// A picture of the index that a search owns.
pub struct Snapshot {
    pub meta: Meta,
    pub metric: Metric,
    pub segments: Vec<Arc<OpenedSegment>>,
}

impl Snapshot {
    /// Reads the root and opens its segments, from the cache folder where they are there.
    pub fn open(rel: Rel) -> Result<Self, IndexError> {
        retry(|| Self::try_open(rel))
    }

    /// As `open`, for those who start over from here when they meet a page that was used again.
    pub fn try_open(rel: Rel) -> Result<Self, IndexError> {
        let meta = read_meta(rel)?;
        let metric = metric_of(&meta)?;
        failpoint::reach("search.root_read");
        let segments = session::segments(rel, &meta)?;
        Ok(Snapshot { meta, metric, segments })
    }

    pub fn dims(&self) -> usize {
        self.meta.dims as usize
    }
}
