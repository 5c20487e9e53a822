//! SQL functions: a file for each function, or for several that belong together. All of them run with the caller's
//! privileges.

mod access;
mod arguments;
mod batch;
mod column;
mod distributed;
mod knn;
mod predicate;
mod server_file;
mod target;
mod vekter_check;
mod vekter_compact;
mod vekter_compare_indexes;
mod vekter_create_index;
mod vekter_export;
mod vekter_import;
mod vekter_index_stats;
mod vekter_kmeans;
mod vekter_quantize;
mod vekter_recall;
mod vekter_segments;
