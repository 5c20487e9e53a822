//! Decisions about every new segment, whether built, imported or merged: memory limits (`budget`), factory
//! (`factory_choice`), and search parameters with measured recall (`calibration`).

mod budget;
pub mod calibration;
mod factory_choice;

pub use budget::{Resources, TrainingSample, check_memory, shortage};
pub use calibration::{HoldoutRows, wanted_queries};
pub use factory_choice::{ChosenFactory, RequestedFactory, UNTRAINED_FACTORY, check_factory, rows_to_train};
