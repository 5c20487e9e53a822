//! The knn family: the nearest rows to a query vector or to a stored row, optionally within a radius; as ids or as
//! whole rows.
//!
//! Each function runs an ordinary query over the table, with a hint that makes the planner use the named index
//! (`am::plan_hint`). So privileges, row-level security and visibility are PostgreSQL's, and the distance is the
//! operator's.

mod filter;
mod known;
mod like;
pub mod query;
mod rows;

use pgrx::PgSqlErrorCode as Code;
use pgrx::datum::AnyElement;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::functions::arguments::{Effort, row_count};
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::results::argument_type;
use crate::pg::text::Text;
use crate::vector::Vector;
use query::{Asked, Output, Question};

type Neighbors = TableIterator<'static, (name!(id, i64), name!(distance, f64))>;

/// Returns no rows if one of the first three arguments is NULL, like a STRICT function.
#[pg_extern]
fn knn(
    index: Option<pg_sys::Oid>,
    query: Option<Vector<'_>>,
    k: Option<i32>,
    search: Option<Text>,
    recall: Option<f64>,
    filter: Option<Text>,
) -> Neighbors {
    let (Some(index), Some(query), Some(k)) = (index, query, k) else {
        return TableIterator::empty();
    };
    let question = Question { filter: filter.map(Text::into_string), ..Question::about(index, Output::Id) };
    let limit = Some(row_count("k", k).or_raise());
    let asked = Asked { limit, effort: Effort { search: search.as_deref(), recall }, ..Asked::of(&query) };
    TableIterator::new(query::ids(&question, &asked).or_raise())
}

/// Rows at a distance of at most `radius`.
#[pg_extern]
fn knn_within(
    index: Option<pg_sys::Oid>,
    query: Option<Vector<'_>>,
    radius: Option<f64>,
    max_rows: Option<i32>,
    search: Option<Text>,
    recall: Option<f64>,
    filter: Option<Text>,
) -> Neighbors {
    let (Some(index), Some(query), Some(radius)) = (index, query, radius) else {
        return TableIterator::empty();
    };
    let within = query::Bound::Radius;
    let question = Question {
        filter: filter.map(Text::into_string),
        bound: Some(within),
        ..Question::about(index, Output::Id)
    };
    if radius.is_nan() {
        let message = "radius must be a number";
        SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message).raise();
    }
    let limit = max_rows.map(|rows| row_count("max_rows", rows)).transpose().or_raise();
    let effort = Effort { search: search.as_deref(), recall };
    let asked = Asked { limit, effort, radius: Some(radius), ..Asked::of(&query) };
    TableIterator::new(query::ids(&question, &asked).or_raise())
}

/// The neighbours of a stored row, without the row itself.
#[pg_extern]
fn knn_like(
    index: Option<pg_sys::Oid>,
    id: Option<i64>,
    k: Option<i32>,
    search: Option<Text>,
    recall: Option<f64>,
    filter: Option<Text>,
) -> Neighbors {
    let (Some(index), Some(id), Some(k)) = (index, id, k) else {
        return TableIterator::empty();
    };
    let question = Question {
        filter: filter.map(Text::into_string),
        bound: Some(query::Bound::Except),
        ..Question::about(index, Output::Id)
    };
    let limit = Some(row_count("k", k).or_raise());
    let query = like::stored_vector(index, id).or_raise();
    let effort = Effort { search: search.as_deref(), recall };
    let asked = Asked { limit, effort, except: Some(id), ..Asked::of(&query) };
    TableIterator::new(query::ids(&question, &asked).or_raise())
}

/// Whole rows of the table, whose row type is that of the first argument.
#[pg_extern]
#[expect(clippy::too_many_arguments, reason = "the signature is SQL's")]
fn knn_rows(
    _of: Option<AnyElement>,
    query: Option<Vector<'_>>,
    k: Option<i32>,
    index: Option<pg_sys::Oid>,
    search: Option<Text>,
    recall: Option<f64>,
    filter: Option<Text>,
    call: pg_sys::FunctionCallInfo,
) -> TableIterator<'static, (name!(item, AnyElement), name!(distance, f64))> {
    // SAFETY: the running call.
    let row_type = unsafe { argument_type(call, 0) };
    let (Some(query), Some(k)) = (query, k) else {
        return TableIterator::empty();
    };
    let index = rows::index_of(row_type, index).or_raise();
    let question = Question { filter: filter.map(Text::into_string), ..Question::about(index, Output::Row) };
    let limit = Some(row_count("k", k).or_raise());
    let asked = Asked { limit, effort: Effort { search: search.as_deref(), recall }, ..Asked::of(&query) };
    let found = query::rows(&question, &asked).or_raise();
    // SAFETY: rows of this type, in memory of the call that made them, which lasts until the last is returned.
    let item = move |row| unsafe { AnyElement::from_polymorphic_datum(row, false, row_type) };
    TableIterator::new(found.into_iter().filter_map(move |(row, distance)| Some((item(row)?, distance))))
}
