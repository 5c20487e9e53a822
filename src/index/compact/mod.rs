//! Compaction: the oldest rows of the delta become a segment (`seal`), and segments of similar size are merged into one
//! (`plan`, `merge`). [`run`] repeats both until nothing is due.

mod compaction;
mod host;
mod merge;
pub mod plan;
pub mod seal;
mod source_rows;

pub use compaction::*;
