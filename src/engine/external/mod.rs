//! Indexes that other programs wrote with FAISS ([`ExternalIndex`]): their bytes are checked before FAISS reads them.
//!
//! `index_reader` walks through a file and calls the readers of its parts, which all read through `serial_bytes`;
//! `external_index` is the result.

mod code_reader;
mod external_index;
mod graph_reader;
mod index_reader;
mod list_reader;
mod serial_bytes;
mod transform_reader;

pub use external_index::{ExternalIndex, ExternalIndexError};
