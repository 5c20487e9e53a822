//! What each new segment needs before and after FAISS has its rows, whether it is built, imported or merged: a factory
//! (`factory_choice`), and search parameters whose recall was measured (`calibration`).

pub mod calibration;
mod factory_choice;

pub use calibration::{HeldBack, wanted_queries};
pub use factory_choice::{Chosen, Target};
