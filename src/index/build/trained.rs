//! Starts a build with an empty index, trained on a sample of the table.

use std::time::Instant;

use super::add_rows::{BaseIndex, Untrained};
use super::sample::{TableSample, count_rows};
use crate::engine::Builder;
use crate::failpoint;
use crate::index::Definition;
use crate::index::error::IndexError;
use crate::index::interruptible::interruptible;
use crate::index::table::Table;
use crate::index::train::{
    RequestedFactory, Resources, UNTRAINED_FACTORY, check_memory, rows_to_train, shortage,
};
use crate::pg::progress::{self, Phase};

/// An empty index, trained on a sample of the table.
pub fn begin(
    definition: &Definition,
    option: &RequestedFactory,
    table: &mut dyn Table,
    resources: Resources,
) -> Result<BaseIndex, IndexError> {
    let started = Instant::now();
    progress::phase(Phase::Sampling);
    let definition = &match option {
        RequestedFactory::Factory(_) => definition.clone(),
        RequestedFactory::Auto(_) => Definition {
            factory: option.choose(count_rows(definition, table)?).factory,
            ..definition.clone()
        },
    };
    let mut sample = TableSample::take(definition, table, resources, true)?;
    failpoint::reach("build.sampled");
    let (mut builder, factory) = choose_builder(definition, &sample)?;
    let (asked, rows) = (&definition.factory, sample.count() as u64);
    let untrained = rows_to_train(asked, definition.dims, definition.metric)
        .filter(|_| factory != asked && rows > 0)
        .map(|needed_rows| Untrained { factory: asked.clone(), rows, needed_rows });
    let expected_rows = sample.estimated_rows();
    check_memory(&builder, factory, sample.training(), expected_rows, resources)?;
    let is_trained = builder.needs_training();
    if is_trained {
        progress::phase(Phase::Training);
        interruptible(resources.threads, || builder.train(sample.rows()))?;
        failpoint::reach("build.trained");
    }
    let held = sample.hold_back(definition, &builder, started);
    let factory = factory.to_string();
    let (tids, complete) = (Vec::new(), None);
    let shortage = if is_trained { shortage(&builder, sample.training(), resources) } else { String::new() };
    Ok(BaseIndex { builder, factory, held, expected_rows, is_trained, tids, complete, untrained, shortage })
}

/// The index to build, and its factory string: the requested one, or Flat if there are too few rows to train it.
fn choose_builder<'a>(
    definition: &'a Definition,
    sample: &TableSample,
) -> Result<(Builder, &'a str), IndexError> {
    let builder = Builder::new(&definition.factory, definition.dims, definition.metric)?;
    if builder.needs_training() && sample.count() < builder.training_rows().min {
        let flat = Builder::new(UNTRAINED_FACTORY, definition.dims, definition.metric)?;
        return Ok((flat, UNTRAINED_FACTORY));
    }
    Ok((builder, &definition.factory))
}
