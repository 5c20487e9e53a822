//! Compaction: the delta's oldest rows become a segment (`seal`), and segments of like size become one (`plan`,
//! `merge`). [`run`] does both until nothing is left to do.

mod compaction;
mod host;
mod merge;
pub mod plan;
pub mod seal;
mod source_rows;

pub use compaction::*;
