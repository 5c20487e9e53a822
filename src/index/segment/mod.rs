//! Segments: FAISS indexes with their heap TIDs. Each server keeps a segment in a cache file that its backends map
//! (`cache_file`); a session keeps the segments it has opened (`session`). For a segment that was sealed in place, the
//! cache file is assembled from the delta's pages (`in_place`).

mod cache_file;
mod dead_rows;
pub mod in_place;
pub mod session;

pub use cache_file::*;
pub use dead_rows::{set_tombstones, tombstones};
pub use session::OpenedSegment;
