//! What an index holds of rows that a query found.

use pgrx::pg_sys;

use super::table::TableRows;
use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::search::by_tid::{self, Place};
use crate::pg::error::SqlError;
use crate::pg::relation::{IndexAndTable, Rel};

/// For each version of a row that the calling query's snapshot sees, what the index holds of it; None where it is not
/// in the index. An index knows the first version of a chain of updates that left it alone, not the one that is seen.
pub fn find(index: pg_sys::Oid, versions: &[Tid]) -> Result<Vec<Option<Place>>, SqlError> {
    let open = IndexAndTable::open(index)?;
    // SAFETY: the relations stay open while the rows live, and the query's snapshot for longer.
    let mut rows = unsafe { TableRows::open(open.table(), open.index(), pg_sys::GetActiveSnapshot()) };
    versions.iter().map(|&version| Ok(find_version(open.index(), &mut rows, version)?)).collect()
}

fn find_version(rel: Rel, rows: &mut TableRows, version: Tid) -> Result<Option<Place>, IndexError> {
    // Such chains do not leave their block.
    let candidates = by_tid::on_block(rel, version.block())?;
    Ok(candidates
        .into_iter()
        .find(|(tid, _)| rows.visible_version(*tid) == Some(version))
        .map(|(_, place)| place))
}
