//! `knn()`: the nearest rows as ids and distances.
//!
//! It runs an ordinary query over the table, with a hint that makes the planner take the named index (`am::plan_hint`):
//! privileges, row-level security and visibility are PostgreSQL's own, and the distance is the operator's.

mod filter;
mod query;

use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::pg::error::{OrRaise, SqlError};
use crate::vector::Vector;
use query::Question;

/// No rows where one of the first three is NULL, as of a STRICT function.
#[pg_extern]
fn knn(
    index: Option<pg_sys::Oid>,
    query: Option<Vector<'_>>,
    k: Option<i32>,
    search: Option<&str>,
    filter: Option<&str>,
) -> TableIterator<'static, (name!(id, i64), name!(distance, f64))> {
    let (Some(index), Some(query), Some(k)) = (index, query, k) else {
        return TableIterator::empty();
    };
    TableIterator::new(nearest(index, &query, k, search, filter).or_raise())
}

fn nearest(
    relation: pg_sys::Oid,
    query: &Vector,
    k: i32,
    search: Option<&str>,
    filter: Option<&str>,
) -> Result<Vec<(i64, f64)>, SqlError> {
    if k < 1 {
        let message = format!("k must be at least 1, not {k}");
        return Err(SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message));
    }
    query::nearest(&Question { relation, filter: filter.map(Into::into) }, query, k as usize, search)
}
