//! What users call beside operators. All of it runs with the caller's privileges.

mod access;
mod arguments;
mod batch;
mod check;
mod codes;
mod column;
mod compact;
mod create;
mod export;
mod import;
mod kmeans;
mod knn;
mod recall;
mod segments;
mod server_file;
mod stats;
mod target;
