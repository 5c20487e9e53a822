//! FAISS without PostgreSQL: factory strings, training, building, writing, opening mapped bytes, searching,
//! calibration.
//!
//! # Use
//! [`initialise`] runs once per process. A [`Builder`] takes rows and writes FAISS's serialised bytes;
//! [`Builder::resume`] reads them back to add rows. An [`OpenIndex`] searches such bytes where they lie. Builds run
//! through [`on_worker`]: FAISS's threads must never run PostgreSQL's signal handlers, and the calling thread must keep
//! handling interrupts.
//!
//! # Invariants
//! * E1. FAISS's label of a row is its position, 0 to rows - 1, in the order of adding.
//! * E2. Only factory strings that [`factory`] can parse reach FAISS, which aborts, hangs or allocates without bound on
//!   some others. The memory of every string that parses can be estimated.
//! * E3. No C++ exception crosses into Rust (`shim/guarded.h`), and no Rust panic into C++ (the callback in
//!   `build/write.rs`).
//! * E4. Rows and queries reach FAISS finite, of the right width, and prepared by [`Metric::prepare`].
//! * E5. FAISS's answers are checked: positions exist, occur once, ascend in distance, and are not dead.
//! * E6. A search uses the calling thread alone; a batch of searches uses its OpenMP threads.
//! * E7. Long work ends within about a second of a cancel: FAISS polls [`initialise`]'s callback in k-means and graph
//!   building, the engine polls it between batches and within each search (`searching.cc`, `list_scan.cc`,
//!   `graph_search.cc`).
//!   Exceptions: LAPACK's decompositions (PCA, OPQ, ITQ, RR of more than about 1,000 dimensions; LSQ of 2,048
//!   centroids), and one scan of LSH or fast-scan codes without lists, which compares a thousand million codes in a
//!   second.
//! * E8. The owner of opened bytes has verified their checksum. The engine checks the sizes of an index's parts against
//!   each other, so that bytes of another index are an error; it does not check each link of a graph. Bytes without
//!   such an owner go through [`ExternalIndex`], which checks links too.

mod build;
mod calibrate;
mod error;
mod external;
mod factory;
mod metric;
mod search;
mod shim;
mod threads;

pub use build::{Builder, Clustering, ClusteringPlan, EncodedRow, SerialLayout, check_decodable, flat_head};
pub use calibrate::{DEFAULT_RECALL, Holdout, HoldoutQueries, MAX_POINTS, OperatingPoint, calibrate, choose};
pub use error::EngineError;
pub use external::{ExternalIndex, ExternalIndexError};
pub use factory::{
    AUTO, BuildBytes, Choice, Memory, Reach, Situation, TrainingRows, canonical, grouped, scan_reason,
    scanned_rows,
};
pub use metric::Metric;
pub use search::{Hit, KnownParams, MappedBytes, OpenIndex, ParamsError, SearchParams};
pub use threads::{initialise, is_interrupted, on_worker, on_worker_while, stop_worker, work_in_background};

/// The most dimensions of a vector: 64 kB of float values.
pub const MAX_DIMS: usize = 16_000;
