//! The index in the relation's pages: its root (`root`), the byte strings that the root points to (`blob`), and
//! unreachable pages, which VACUUM finds, and compaction after it has merged (`free_pages`).

pub mod blob;
pub mod free_pages;
pub mod root;
