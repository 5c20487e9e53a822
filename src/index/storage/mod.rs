//! The index in the relation's pages: its root (`root`), the byte strings that the root points to (`blob`), and
//! unreachable pages. VACUUM finds those (`free_pages`); the process that retired some offers them for reuse earlier
//! (`recycle`).

pub mod blob;
pub mod free_pages;
pub mod recycle;
pub mod root;
