//! CREATE INDEX: one segment of all rows of a table, trained on a sample of them (`sample`), or begun with the rows of a
//! FAISS index that was made elsewhere (`import`).

mod from_table;
mod import;
mod sample;

pub use from_table::*;
pub use import::{Identified, ImportError};
