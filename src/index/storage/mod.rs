//! Byte strings in the relation's pages (`blob`), and the pages that nothing refers to any more: VACUUM finds them
//! (`free_pages`), and the process that retired some offers them again (`recycle`).

pub mod blob;
pub mod free_pages;
pub mod recycle;
