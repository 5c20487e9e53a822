//! The threads that FAISS runs on: one worker beside the caller's thread, its OpenMP threads, and their interruption.

mod openmp_threads;
mod worker;

pub(super) use worker::SignalsBlocked;
pub use worker::{initialise, is_interrupted, on_worker, on_worker_while, stop_worker, work_in_background};
