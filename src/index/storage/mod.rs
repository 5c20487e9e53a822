//! The index in the relation's pages: its root (`root`), the byte strings that the root leads to (`blob`), and pages
//! that nothing refers to any more: VACUUM finds them (`free_pages`), and the process that retired some offers them
//! again (`recycle`).

pub mod blob;
pub mod free_pages;
pub mod recycle;
pub mod root;
