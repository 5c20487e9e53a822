//! The version of an index that a search reads: the root and the segments it names.

use std::sync::Arc;

use super::error::IndexError;
use super::format::Meta;
use super::segment::{OpenedSegment, session};
use super::{metric_of, read_meta, retry};
use crate::engine::Metric;
use crate::failpoint;
use crate::pg::relation::Rel;

/// One version of the index: its root, with all segments open.
pub struct IndexView {
    pub meta: Meta,
    pub metric: Metric,
    pub segments: Vec<Arc<OpenedSegment>>,
}

impl IndexView {
    /// Reads the root and opens its segments.
    pub fn open(rel: Rel) -> Result<Self, IndexError> {
        retry(|| Self::try_open(rel))
    }

    /// As `open`, for callers that restart from here themselves when they meet a reused page.
    pub fn try_open(rel: Rel) -> Result<Self, IndexError> {
        let meta = read_meta(rel)?;
        let metric = metric_of(&meta)?;
        failpoint::reach("search.root_read");
        let segments = session::segments(rel, &meta)?;
        Ok(IndexView { meta, metric, segments })
    }

    pub fn dims(&self) -> usize {
        self.meta.dims as usize
    }
}
