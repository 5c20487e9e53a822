//! Decisions about every new segment, whether built, imported or merged: memory limits (`budget`), factory
//! (`factory_choice`), and search parameters with measured recall (`holdout_rows`).

mod budget;
mod factory_choice;
mod holdout_rows;

pub use budget::{Resources, TrainingSample, check_memory, shortage};
pub use factory_choice::{ChosenFactory, RequestedFactory, UNTRAINED_FACTORY, check_factory, rows_to_train};
pub use holdout_rows::{HoldoutRows, wanted_queries};
