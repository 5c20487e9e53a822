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
//! * E3. No C++ exception crosses into Rust, no Rust panic into C++ (`shim.cc`, and the callbacks in `builder.rs`).
//! * E4. Rows and queries reach FAISS finite, of the right width, and prepared by [`Metric::prepare`].
//! * E5. What FAISS answers is checked: positions exist, come once, in ascending distance, dead ones never.
//! * E6. A search uses the calling thread and no other; a batch of them uses its OpenMP threads.
//! * E7. Long work ends within about a second of a cancel: FAISS polls [`initialise`]'s callback in k-means and graph
//!   building, and the engine does between batches and within each search (`searching.cc`, `graph_search.cc`). Not within
//!   LAPACK's decompositions (PCA, OPQ, ITQ, RR of more than about 1,000 dimensions; LSQ of 2,048 centroids) nor within one
//!   scan of LSH's or fast scan's codes without lists, of which FAISS compares a thousand million in a second.
//! * E8. The bytes that are opened were checked by their owner (checksum). The engine checks that the parts of an
//!   index fit each other, so that bytes of another index are an error; it does not check each link of a graph.
//!   Bytes without such an owner go through [`Foreign`], which does.

mod additive;
mod auto;
mod batch;
mod build_memory;
mod builder;
mod calibration;
mod clustering;
mod codes;
mod error;
mod factory;
mod ffi;
mod flat;
mod foreign;
mod hidden;
mod metric;
mod nearest;
mod opened;
mod operating_points;
mod param_names;
mod params;
mod reasons;
mod recipe;
mod rows;
mod spelling;
mod surface;
mod team;
mod worker;

pub use auto::{AUTO, Choice, Memory, Situation, grouped, scan_reason, scanned_rows};
pub use build_memory::BuildBytes;
pub use builder::{Builder, SerialLayout};
pub use calibration::calibrate;
pub use clustering::{Clustering, ClusteringPlan};
pub use codes::{Kept, check_keeps_values};
pub use error::EngineError;
pub use flat::flat_head;
pub use foreign::{Foreign, ForeignError};
pub use hidden::Hidden;
pub use metric::Metric;
pub use nearest::Sample;
pub use opened::{Hit, MappedBytes, OpenIndex};
pub use operating_points::{DEFAULT_RECALL, MAX_POINTS, OperatingPoint, choose};
pub use param_names::{KnownParams, ParamsError};
pub use params::SearchParams;
pub use recipe::{Reach, TrainingRows};
pub use spelling::canonical;
pub use worker::{initialise, is_interrupted, on_worker, on_worker_while, stop_worker, work_in_background};

/// The most dimensions that a vector has (one heap tuple's worth of bytes in 64 kB).
pub const MAX_DIMS: usize = 16_000;
