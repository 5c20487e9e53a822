//! The vector of a stored row.

use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::{known, query};
use crate::functions::target::Target;
use crate::pg::error::SqlError;
use crate::pg::spi;

/// The indexed value of the row with this id, as visible to the caller, in the current memory context. If several rows
/// have the id, a row covered by the index is preferred.
pub fn stored_vector(relation: pg_sys::Oid, id: i64) -> Result<pg_sys::Datum, SqlError> {
    let known = known::describe(relation)?;
    let target = &known.target;
    let column = query::id_of(target)?;
    let mut found = vectors(target, column, id, target.predicate.condition());
    if found.is_empty() && target.predicate.is_partial() {
        found = vectors(target, column, id, "true");
    }
    let table = &target.table;
    match found[..] {
        [] => {
            let message = format!("no row of {table} has {column} {id}");
            Err(SqlError::new(Code::ERRCODE_NO_DATA_FOUND, message))
        }
        [Some(vector)] => Ok(vector),
        [None] => {
            let message = format!("the row of {table} with {column} {id} has no vector");
            Err(SqlError::new(Code::ERRCODE_NULL_VALUE_NOT_ALLOWED, message))
        }
        _ => {
            let message = format!("several rows of {table} have {column} {id}");
            Err(SqlError::new(Code::ERRCODE_CARDINALITY_VIOLATION, message)
                .hint("Ask knn() with the vector of one of them."))
        }
    }
}

/// The vectors of at most two rows that have the id and satisfy the condition.
fn vectors(target: &Target, column: &str, id: i64, condition: &str) -> Vec<Option<pg_sys::Datum>> {
    let query = format!(
        "SELECT {} FROM {} WHERE {column} OPERATOR(pg_catalog.=) $1 AND ({condition}) LIMIT 2",
        target.vector,
        target.from()
    );
    let mut found = Vec::new();
    spi::Plan::prepare(&query, &[pg_sys::INT8OID])
        .for_each_row(&[Some(id.into())], |row| found.push(row.kept_datum(1)));
    found
}
