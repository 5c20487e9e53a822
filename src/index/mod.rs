//! The index's state in the relation's pages: a small log-structured store of segments, tombstones and a delta.
//!
//! The formats are in `format`, the invariants in `src/README.md` (cited here by number).
//!
//! * A search reads the meta page once and keeps that version of the index (`IndexView::open`): the manifest and
//!   everything it points to are immutable, and the delta chain that starts there only loses dead entries and gains new
//!   ones.
//! * `publish` changes the root in one WAL record, after everything it points to is logged (invariant 4). A crash
//!   before it leaves the old root, and the new pages are unreachable; a crash after it leaves the new root, and the
//!   old pages are unreachable. `storage::free_pages` finds both.
//! * Lock order (invariant 7): heavyweight locks (`pg::lock`), meta page, delta page, its successor, blob pages, the
//!   extension lock. A new page that nothing points to yet may be locked before all of them. FAISS never runs under a
//!   buffer lock.

pub mod build;
pub mod check;
pub mod compact;
pub mod delta;
pub mod error;
pub mod export;
pub mod format;
pub mod interruptible;
pub mod search;
pub mod segment;
pub mod storage;
pub mod table;
pub mod train;
pub mod vacuum;
mod view;

use crate::engine::Metric;

pub use delta::Inserter;
pub use storage::root::{
    create_init_fork, first_pages, metric_of, publish, read_manifest, read_meta, retry, root_on,
};
pub use view::IndexView;

/// The properties of an index that are fixed when it is built.
#[derive(Debug, Clone)]
pub struct Definition {
    pub dims: usize,
    pub metric: Metric,
    /// The `factory` option.
    pub factory: String,
    /// The `recall` option, up to 1.
    pub recall: f64,
    /// Whether every value of the column is one of IEEE's 16-bit floats.
    pub are_halves: bool,
}
