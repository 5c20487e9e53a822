//! `vekter_check()`: takes the locks, and reads the table as its owner.

use pgrx::pg_sys;

use super::indexed_table::IndexedTable;
use crate::index::check::{self, Finding};
use crate::pg::error::SqlError;
use crate::pg::owner::as_owner;
use crate::pg::relation::IndexAndTable;

/// Checks a faiss index, and compares it with its table if `with_table`. The locks only prevent changes of definition.
pub fn check(index: pg_sys::Oid, with_table: bool) -> Result<Vec<Finding>, SqlError> {
    let open = IndexAndTable::open(index)?;
    let (heap, index) = (open.table(), open.index());
    let findings = as_owner(heap, || {
        let mut table = IndexedTable::new(heap, index);
        check::check(index, with_table.then_some(&mut table))
    })?;
    Ok(findings)
}
