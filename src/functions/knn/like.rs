//! The vector of a stored row.

use std::cell::Cell;

use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::query;
use crate::pg::error::SqlError;
use crate::pg::spi;

/// The indexed value of the row with that id, as the caller sees the table, in the memory that is current now.
pub fn stored_vector(relation: pg_sys::Oid, id: i64) -> Result<pg_sys::Datum, SqlError> {
    let target = query::describe(relation)?;
    let column = query::id_of(&target)?;
    let query = format!(
        "SELECT {} FROM {} WHERE {column} OPERATOR(pg_catalog.=) $1 LIMIT 2",
        target.vector,
        target.from()
    );
    let (count, vector) = (Cell::new(0), Cell::new(None));
    spi::Plan::prepare(&query, &[pg_sys::INT8OID]).for_each_row(&[Some(id.into())], |row| {
        count.set(count.get() + 1);
        vector.set(row.kept_datum(1));
    });
    let table = &target.table;
    match (count.get(), vector.get()) {
        (0, _) => {
            let message = format!("no row of {table} has {column} {id}");
            Err(SqlError::new(Code::ERRCODE_NO_DATA_FOUND, message))
        }
        (1, Some(vector)) => Ok(vector),
        (1, None) => {
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
