//! The vector of a stored row.

use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::{known, query};
use crate::functions::target::Target;
use crate::pg::error::SqlError;
use crate::pg::spi;

/// The indexed value of the row with this id, as visible to the caller. If several rows have the id, a row covered by
/// the index is preferred.
pub fn stored_vector(relation: pg_sys::Oid, id: i64) -> Result<Vec<f32>, SqlError> {
    let known = known::describe(relation)?;
    let target = &known.target;
    let column = query::id_of(target)?;
    let mut found = vectors(target, column, id, target.predicate.condition());
    if found.is_empty() && target.predicate.is_partial() {
        found = vectors(target, column, id, "true");
    }
    let table = &target.table;
    match &mut found[..] {
        [] => {
            let message = format!("no row of {table} has {column} {id}");
            Err(SqlError::new(Code::ERRCODE_NO_DATA_FOUND, message))
        }
        [Some(vector)] => Ok(std::mem::take(vector)),
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
fn vectors(target: &Target, column: &str, id: i64, condition: &str) -> Vec<Option<Vec<f32>>> {
    let query = format!(
        "SELECT {} FROM {} WHERE {column} OPERATOR(pg_catalog.=) $1 AND ({condition}) LIMIT 2",
        target.vector,
        target.from()
    );
    let mut found = Vec::new();
    spi::Plan::prepare(&query, &[pg_sys::INT8OID]).for_each_row(&[Some(id.into())], |row| {
        // SAFETY: the query's column is of this kind, and the row lives while it is visited.
        found.push(row.datum(1).map(|value| unsafe { target.kind.read(value) }.to_vec()));
    });
    found
}
