//! Searches. A [`Cursor`] returns rows in distance order. It searches segments in rounds (`rounds`) and, as a last
//! resort, ranks whole segments (`passes`). A [`Request`] has the parameters of a search, [`Candidates`] the rows it is
//! restricted to, and [`FirstRounds`] the hits of many queries at once. `by_tid` finds rows by their TID.

pub mod by_tid;
mod candidates;
mod cursor;
mod exact;
mod many_queries;
mod passes;
pub mod request;
pub mod rounding;
pub mod rounds;
mod segment_round;

pub use candidates::Candidates;
pub use cursor::Cursor;
pub use exact::ExactDistances;
pub use many_queries::FirstRounds;
pub use request::{FIRST_ROUND_ROWS, Order, Request};
