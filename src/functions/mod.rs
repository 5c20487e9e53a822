//! What users call beside operators. All of it runs with the caller's privileges.

mod compact;
mod create;
mod knn;
mod stats;
mod target;
