//! What users call beside operators. All of it runs with the caller's privileges.

mod check;
mod compact;
mod create;
mod knn;
mod recall;
mod segments;
mod stats;
mod target;
