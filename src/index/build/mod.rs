//! CREATE INDEX: one segment of all rows of a table (`from_table`). It begins empty, trained on a sample of the table
//! (`trained`, `sample`), or with the rows of a FAISS index that was made elsewhere (`import`); then the table's rows
//! are added (`add_rows`), one run of blocks after the other (`runs`).

mod add_rows;
mod from_table;
mod import;
mod runs;
mod sample;
mod trained;

pub use add_rows::Untrained;
pub use from_table::{Built, build};
