//! Calibration: which search parameters reach which recall at which cost ([`calibrate`]).
//!
//! `exact_neighbours` finds the true answers of sampled queries, `holdout` keeps rows that serve as queries out of
//! searches, `parameter_grid` counts the neighbours that each combination of parameters found, and `operating_points`
//! keeps the cheapest combination for each level of recall.

mod calibration;
mod exact_neighbours;
mod holdout;
mod operating_points;
mod parameter_grid;

pub use calibration::calibrate;
pub use exact_neighbours::HoldoutQueries;
pub(super) use exact_neighbours::nearest_rows;
pub use holdout::Holdout;
pub use operating_points::{DEFAULT_RECALL, MAX_POINTS, OperatingPoint, choose};
