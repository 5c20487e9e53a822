//! FAISS, and nothing of Postgres: factory strings, training, adding, writing, opening over mapped bytes, searching.
//!
//! # How it is used
//! [`initialise`] once per process; then a [`Builder`] takes rows and writes FAISS's serialised bytes, or an
//! [`OpenIndex`] searches such bytes where they lie and gives its rows back, and [`Builder::resume`] takes them up to
//! add more. Builds run through [`on_worker`], because FAISS's threads must
//! never run Postgres's signal handlers and because the calling thread has to go on listening to its user.
//!
//! # What holds
//! * E1. A row's label in FAISS is its position, 0 to rows - 1, in the order of adding. Nothing else is ever stored.
//! * E2. No factory string reaches FAISS that [`factory`] has not understood: FAISS aborts, hangs or allocates
//!   without bound on some. What it understands is also what it can estimate the memory of.
//! * E3. No C++ exception crosses into Rust, no Rust panic into C++ (`shim.cc`, and the callback in `builder.rs`).
//! * E4. Rows and queries reach FAISS finite, of the right width, and prepared by [`Metric::prepare`].
//! * E5. What FAISS answers is checked: positions exist, come once, in ascending distance, dead ones never.
//! * E6. A search uses the calling thread and no other; a batch of them uses its OpenMP threads.
//! * E7. Long work ends within about a second of a cancel: FAISS polls [`initialise`]'s callback in k-means and graph
//!   building, and the engine does between batches and within each search (`searching.cc`, `graph_search.cc`). Not
//!   within LAPACK's decompositions (PCA, OPQ, ITQ, RR of more than about 1,000 dimensions; LSQ of 2,048 centroids) nor
//!   within one scan of LSH's or fast scan's codes without lists, of which FAISS compares a thousand million in a
//!   second.
//! * E8. The bytes that are opened were checked by their owner (checksum). The engine checks that the parts of an
//!   index fit each other, so that bytes of another index are an error; it does not check each link of a graph.
//!   Bytes without such an owner go through [`Foreign`], which does.

mod build;
mod calibrate;
mod error;
mod external;
mod factory;
mod metric;
mod search;
mod shim;
mod threads;

pub use build::{Builder, Clustering, ClusteringPlan, Kept, SerialLayout, check_keeps_values, flat_head};
pub use calibrate::{DEFAULT_RECALL, Hidden, MAX_POINTS, OperatingPoint, Sample, calibrate, choose};
pub use error::EngineError;
pub use external::{Foreign, ForeignError};
pub use factory::{
    AUTO, BuildBytes, Choice, Memory, Reach, Situation, TrainingRows, canonical, grouped, scan_reason,
    scanned_rows,
};
pub use metric::Metric;
pub use search::{Hit, KnownParams, MappedBytes, OpenIndex, ParamsError, SearchParams};
pub use threads::{initialise, is_interrupted, on_worker, on_worker_while, stop_worker, work_in_background};

/// The most dimensions that a vector has (one heap tuple's worth of bytes in 64 kB).
pub const MAX_DIMS: usize = 16_000;
