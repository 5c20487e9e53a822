//! Searches: a [`Cursor`] returns rows in distance order. It goes on in rounds (`rounds`), and in the end ranks whole
//! segments (`passes`). A [`Request`] says how to search, [`Candidates`] which rows to confine the search to, and
//! [`FirstRounds`] holds what was found for many queries at once. `by_tid` finds rows by their place in the table.

pub mod by_tid;
mod candidates;
mod cursor;
mod exact;
mod many_queries;
mod passes;
pub mod request;
pub mod rounding;
pub mod rounds;

pub use candidates::Candidates;
pub use cursor::Cursor;
pub use exact::ExactDistances;
pub use many_queries::FirstRounds;
pub use request::{FIRST_ROUND_ROWS, Order, Request};
