//! CREATE INDEX: builds one segment of all rows of a table (`from_table`). The build starts either with an empty index
//! that is trained on a sample of the table (`trained`, `sample`), or with an external FAISS index (`import`). It then
//! adds the table's rows (`add_rows`), one run of blocks after the other (`runs`).

mod add_rows;
mod from_table;
mod import;
mod runs;
mod sample;
mod trained;

pub use add_rows::Untrained;
pub use from_table::{Built, build};
