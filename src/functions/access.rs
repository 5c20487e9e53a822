//! Checks that the caller may read all rows of an index, by planning an ordinary query over the table.

use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::target::{self, Target};
use crate::pg::error::SqlError;
use crate::pg::spi;

/// Err unless the caller may read every row of the index: has the privileges on its columns, and no row-level security
/// policy applies. `function` is named in the error.
pub fn require_all_rows(index: pg_sys::Oid, function: &str) -> Result<Target, SqlError> {
    let target = target::describe_index(index)?;
    let id = target.id.as_ref().map_or(String::new(), |id| format!(", {id}"));
    // The query checks privileges before it reads a row.
    let Target { vector, table, predicate, .. } = &target;
    let query = format!("SELECT {vector}{id} FROM ONLY {table} WHERE {} LIMIT 0", predicate.condition());
    spi::Plan::prepare(&query, &[]).for_each_row(&[], |_| {});
    // SAFETY: looks catalogue rows up by oid; without an error it answers for the current user.
    let policies = unsafe { pg_sys::check_enable_rls(target.table_oid, pg_sys::InvalidOid, true) };
    if policies == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32 {
        let message = format!("row-level security of table {} hides rows from {function}()", target.table);
        return Err(SqlError::new(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
            .detail("It shows something of every row of the index.")
            .hint("Call it as the owner of the table or as a role with BYPASSRLS."));
    }
    Ok(target)
}

/// The integer id column, quoted; Err if there is none.
pub fn id_column<'a>(target: &'a Target, function: &str) -> Result<&'a str, SqlError> {
    target.id.as_deref().ok_or_else(|| {
        let message = format!("{function}() finds no integer id column for the rows of {}", target.table);
        SqlError::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .detail("It takes the index's included column, or else a primary key of one integer column.")
            .hint("Create the index with INCLUDE (id), or with vekter_create_index().")
    })
}
