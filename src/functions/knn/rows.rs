//! Finds the table of a row type.

use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::known;
use crate::functions::target;
use crate::pg::error::SqlError;

/// The faiss index to search for rows of this type: the given one, if it belongs to the table, or the table's only one.
pub fn index_of(row_type: pg_sys::Oid, index: Option<pg_sys::Oid>) -> Result<pg_sys::Oid, SqlError> {
    // SAFETY: looks catalogue rows up by oid.
    let table = unsafe { pg_sys::get_typ_typrelid(row_type) };
    if table == pg_sys::InvalidOid {
        return Err(SqlError::new(Code::ERRCODE_WRONG_OBJECT_TYPE, "the first argument has no row type")
            .hint("It says which table is meant: SELECT * FROM knn_rows(NULL::tracks, '[1, 0, 0]', 5)."));
    }
    let Some(index) = index else {
        return Ok(table);
    };
    if known::describe(index)?.target.table_oid != table {
        let (index, table) = (target::relation_name(index)?, target::relation_name(table)?);
        let message = format!("\"{index}\" does not index the rows of \"{table}\"");
        return Err(SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message));
    }
    Ok(index)
}
