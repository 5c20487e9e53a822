//! What an index holds of rows that a query found.

use pgrx::pg_sys;

use super::table::TableRows;
use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::lookup::{self, Place};
use crate::pg::relation::Rel;

/// For each version of a row that the calling query's snapshot sees, what the index holds of it; None where it is not
/// in the index. An index knows the first version of a chain of updates that left it alone, not the one that is seen.
pub fn find(index: pg_sys::Oid, versions: &[Tid]) -> Result<Vec<Option<Place>>, IndexError> {
    const MODE: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    // SAFETY: errors if either is gone. The table is locked before its index, as everybody does. Both stay open until
    // the end of this function, and locked until the transaction's.
    unsafe {
        let table = pg_sys::table_open(pg_sys::IndexGetRelation(index, false), MODE);
        let index = pg_sys::index_open(index, MODE);
        let (heap, rel) = (Rel::new(table), Rel::new(index));
        let mut rows = TableRows::open(heap, rel, pg_sys::GetActiveSnapshot());
        let found = versions.iter().map(|&version| find_version(rel, &mut rows, version)).collect();
        drop(rows);
        pg_sys::index_close(index, pg_sys::NoLock as pg_sys::LOCKMODE);
        pg_sys::table_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        found
    }
}

fn find_version(rel: Rel, rows: &mut TableRows, version: Tid) -> Result<Option<Place>, IndexError> {
    // Such chains do not leave their block.
    let candidates = lookup::on_block(rel, version >> 16)?;
    Ok(candidates
        .into_iter()
        .find(|(tid, _)| rows.visible_version(*tid) == Some(version))
        .map(|(_, place)| place))
}
