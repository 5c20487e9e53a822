//! `knn_batch()`: the nearest rows of each query of an array.

use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::{Searcher, Waiting};
use crate::functions::arguments::Effort;
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::results::ResultRows;
use crate::pg::text::Text;
use crate::vector::Vectors;

/// Arguments are declared as `(regclass, vector[], integer, text, double precision)`. Returns no rows if one of the
/// first three is NULL, like a STRICT function.
#[pg_extern]
fn knn_batch(
    index: Option<pg_sys::Oid>,
    queries: Option<Vectors<'_>>,
    k: Option<i32>,
    search: Option<Text>,
    recall: Option<f64>,
    call: pg_sys::FunctionCallInfo,
) {
    // SAFETY: the running call, of a function that returns a table.
    let mut results = unsafe { ResultRows::begin(call) };
    let (Some(index), Some(queries), Some(k)) = (index, queries, k) else {
        return;
    };
    let push = |&query_no: &i32, id: i64, distance: f64| {
        results.push([query_no.into_datum(), id.into_datum(), distance.into_datum()]);
    };
    check_form(&queries).or_raise();
    let searcher = Searcher::new(index, k, Effort { search: search.as_deref(), recall }).or_raise();
    answer(&searcher, &queries, push).or_raise();
}

fn check_form(queries: &Vectors) -> Result<(), SqlError> {
    let dimensions = queries.lengths().len();
    if dimensions > 1 {
        let message = "queries must be a one-dimensional array";
        return Err(SqlError::new(Code::ERRCODE_DATA_EXCEPTION, message)
            .detail(format!("It has {dimensions} dimensions.")));
    }
    Ok(())
}

fn answer(
    searcher: &Searcher,
    queries: &Vectors,
    mut visit: impl FnMut(&i32, i64, f64),
) -> Result<(), SqlError> {
    if queries.lengths().is_empty() {
        return Ok(());
    }
    let numbered = || (queries.first_subscript()..).zip(queries.elements());
    let numbered = || numbered().filter_map(|(query_no, query)| query.map(|query| (query_no, query)));
    // Check every element before the first search.
    let mut dims = searcher.dims();
    for (query_no, query) in numbered() {
        check_dims(query_no, query.dims(), *dims.get_or_insert(query.dims()))?;
    }
    let mut waiting = Waiting::new(searcher.most_queries()?);
    for (query_no, query) in numbered() {
        waiting.push(query_no, &query, searcher.target.kind);
        if waiting.is_full() {
            waiting.answer(searcher, &mut visit)?;
        }
    }
    waiting.answer(searcher, &mut visit)
}

fn check_dims(query_no: i32, found: usize, expected: usize) -> Result<(), SqlError> {
    if found == expected {
        return Ok(());
    }
    let message = format!("expected {expected} dimensions, not {found}");
    Err(SqlError::new(Code::ERRCODE_DATA_EXCEPTION, message)
        .detail(format!("Element {query_no} of queries must have as many dimensions as the indexed column.")))
}
