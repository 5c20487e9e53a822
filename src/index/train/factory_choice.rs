//! Chooses the factory of each new segment: the index's `factory` option, or what `auto` selects.

use super::budget::Resources;
use crate::engine::{self, Builder, Choice, Memory, Metric, Situation, grouped};
use crate::index::Definition;
use crate::index::error::IndexError;
use crate::index::format::SegmentRef;
use crate::pg::memory;

/// The factory of a segment with too few rows to train the requested one.
pub const UNTRAINED_FACTORY: &str = "Flat";

pub enum RequestedFactory<'a> {
    /// A factory string.
    Factory(&'a str),
    /// `auto` selects the factory for each segment; its number of rows is filled in then.
    Auto(Situation),
}

/// The factory string of a segment, and why `auto` chose it; empty if it was requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenFactory {
    pub factory: String,
    pub reason: String,
}

impl<'a> RequestedFactory<'a> {
    pub fn new(definition: &'a Definition, resources: Resources) -> Self {
        let &Definition { dims, metric, recall, are_halves, .. } = definition;
        if definition.factory != engine::AUTO {
            return RequestedFactory::Factory(&definition.factory);
        }
        let memory = Memory {
            cache_bytes: resources.cache_bytes,
            work_bytes: resources.work_bytes,
            available_bytes: memory::available_bytes(),
            batch_bytes: resources.batch_bytes,
        };
        RequestedFactory::Auto(Situation { rows: 0, index_rows: 0, dims, metric, recall, are_halves, memory })
    }

    /// The factory of an index's only segment.
    pub fn choose(&self, rows: u64) -> ChosenFactory {
        match self {
            RequestedFactory::Factory(factory) => asked_for(factory),
            RequestedFactory::Auto(empty) => {
                let situation = Situation { rows, index_rows: rows, ..*empty };
                chosen(&situation, situation.choose())
            }
        }
    }

    /// The factory of a segment of `rows` rows that is merged from `sources` (positions in `segments`).
    pub fn choose_again(
        &self,
        segments: &[SegmentRef],
        sources: &[usize],
        rows: u64,
        retrains: bool,
    ) -> ChosenFactory {
        match self {
            RequestedFactory::Factory(factory) => asked_for(factory),
            RequestedFactory::Auto(empty) => {
                let index_rows = segments.iter().map(SegmentRef::live_rows).sum();
                let situation = Situation { rows, index_rows, ..*empty };
                let merged = largest(sources.iter().map(|&at| &segments[at]));
                chosen(&situation, situation.choose_again(merged, largest(segments), retrains))
            }
        }
    }
}

/// Minimum number of rows to train this factory; None if it needs no training or cannot be built.
pub fn rows_to_train(factory: &str, dims: usize, metric: Metric) -> Option<u64> {
    let builder = Builder::new(factory, dims, metric).ok()?;
    builder.needs_training().then(|| builder.training_rows().min as u64)
}

/// Err if FAISS cannot build this factory for the number of dimensions.
pub fn check_factory(definition: &Definition) -> Result<(), IndexError> {
    // `auto` only selects factories that can be built.
    let factory = if definition.factory == engine::AUTO { UNTRAINED_FACTORY } else { &definition.factory };
    Builder::new(factory, definition.dims, definition.metric)?;
    Ok(())
}

fn asked_for(factory: &str) -> ChosenFactory {
    ChosenFactory { factory: factory.to_owned(), reason: String::new() }
}

fn chosen(situation: &Situation, Choice { factory, reason }: Choice) -> ChosenFactory {
    ChosenFactory { factory, reason: format!("{}: {reason}", about(situation)) }
}

fn about(situation: &Situation) -> String {
    let (rows, index_rows) = (grouped(situation.rows), grouped(situation.index_rows));
    let part = if rows == index_rows { String::new() } else { format!(" of {index_rows}") };
    format!("{rows}{part} rows of {} dimensions", situation.dims)
}

/// The factory string of the largest segment that is not Flat; Flat if all are.
fn largest<'a>(segments: impl IntoIterator<Item = &'a SegmentRef>) -> &'a str {
    let chosen = segments.into_iter().filter(|segment| segment.factory != UNTRAINED_FACTORY);
    chosen.max_by_key(|segment| segment.live_rows()).map_or(UNTRAINED_FACTORY, |segment| &segment.factory)
}
