//! Segments: sealed FAISS indexes with their heap TIDs. Each server keeps one in a file that its backends map
//! (`cache_file`); a session keeps what it has opened (`session`). Of a segment that was sealed in place, that file is
//! made of the delta's pages (`in_place`).

mod cache_file;
mod dead_rows;
pub mod in_place;
pub mod session;

pub use cache_file::*;
pub use dead_rows::{set_tombstones, tombstones};
pub use session::OpenedSegment;
