//! What every new segment needs, whether it is built, imported or merged: memory (`budget`), a factory
//! (`factory_choice`), and search parameters whose recall was measured (`calibration`).

mod budget;
pub mod calibration;
mod factory_choice;

pub use budget::{Resources, TrainingSample, check_memory, shortage};
pub use calibration::{HeldBack, wanted_queries};
pub use factory_choice::{ChosenFactory, FactoryOption, UNTRAINED_FACTORY, check_factory, rows_to_train};
