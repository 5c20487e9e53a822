//! What the segments of an index are to be: what its `factory` option says, or what `auto` chooses whenever one is made.

use super::budget::Resources;
use crate::engine::{self, Builder, Choice, Memory, Metric, Situation, grouped};
use crate::index::Definition;
use crate::index::error::IndexError;
use crate::index::format::SegmentRef;
use crate::pg::memory;

/// The index of a table that is too small to train what was asked for.
pub const UNTRAINED_FACTORY: &str = "Flat";

pub enum FactoryOption<'a> {
    /// A factory string.
    Factory(&'a str),
    /// Whatever is best for the rows, which are filled in.
    Auto(Situation),
}

/// The factory string of a segment, and why `auto` chose it; empty: it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenFactory {
    pub factory: String,
    pub reason: String,
}

impl<'a> FactoryOption<'a> {
    /// `recall`: that is asked of the index, up to 1.
    pub fn new(factory: &'a str, dims: usize, metric: Metric, recall: f64, resources: Resources) -> Self {
        if factory != engine::AUTO {
            return FactoryOption::Factory(factory);
        }
        let memory = Memory {
            cache_bytes: resources.cache_bytes,
            work_bytes: resources.work_bytes,
            available_bytes: memory::available_bytes(),
            batch_bytes: resources.batch_bytes,
        };
        FactoryOption::Auto(Situation { rows: 0, index_rows: 0, dims, metric, recall, memory })
    }

    /// For the only segment of an index.
    pub fn choose(&self, rows: u64) -> ChosenFactory {
        match self {
            FactoryOption::Factory(factory) => asked_for(factory),
            FactoryOption::Auto(empty) => {
                let situation = Situation { rows, index_rows: rows, ..*empty };
                chosen(&situation, situation.choose())
            }
        }
    }

    /// For the segment of `rows` rows that comes of merging `sources` (positions in `segments`), which `retrains` or not.
    pub fn choose_again(
        &self,
        segments: &[SegmentRef],
        sources: &[usize],
        rows: u64,
        retrains: bool,
    ) -> ChosenFactory {
        match self {
            FactoryOption::Factory(factory) => asked_for(factory),
            FactoryOption::Auto(empty) => {
                let index_rows = segments.iter().map(SegmentRef::live_rows).sum();
                let situation = Situation { rows, index_rows, ..*empty };
                let merged = largest(sources.iter().map(|&at| &segments[at]));
                chosen(&situation, situation.choose_again(merged, largest(segments), retrains))
            }
        }
    }
}

/// The fewest rows that train this factory; None: it needs no training, or cannot be built.
pub fn rows_to_train(factory: &str, dims: usize, metric: Metric) -> Option<u64> {
    let builder = Builder::new(factory, dims, metric).ok()?;
    builder.needs_training().then(|| builder.training_rows().min as u64)
}

/// Err: FAISS does not build this factory for so many dimensions.
pub fn check_factory(definition: &Definition) -> Result<(), IndexError> {
    // Of what may be chosen anything can be built.
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

/// The factory string of the largest that was not just sealed, or of those that were.
fn largest<'a>(segments: impl IntoIterator<Item = &'a SegmentRef>) -> &'a str {
    let chosen = segments.into_iter().filter(|segment| segment.factory != UNTRAINED_FACTORY);
    chosen.max_by_key(|segment| segment.live_rows()).map_or(UNTRAINED_FACTORY, |segment| &segment.factory)
}
