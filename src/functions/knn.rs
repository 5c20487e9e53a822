//! `knn()`: the nearest rows as ids and distances.
//!
//! It runs an ordinary query over the table, with a hint that makes the planner take the named index (`am::plan_hint`):
//! privileges, row-level security and visibility are PostgreSQL's own, and the distance is the operator's.
//! Prepared queries are kept until any relation, operator or schema changes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::target::{self, Target};
use crate::am::{plan_hint, search_options};
use crate::engine::SearchParams;
use crate::index::search::{FIRST_ROUND_ROWS, Request};
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::invalidation::{self, Change};
use crate::pg::relation::OpenRelation;
use crate::pg::spi;
use crate::vector::Vector;

/// More prepared queries than a session needs at a time.
const MAX_PREPARED: usize = 100;

struct Prepared {
    target: Target,
    plan: spi::Plan,
}

thread_local! {
    static PREPARED: RefCell<HashMap<pg_sys::Oid, Rc<Prepared>>> = RefCell::default();
    static OUT_OF_DATE: Cell<bool> = const { Cell::new(false) };
}

#[pg_extern]
fn knn(
    index: Option<pg_sys::Oid>,
    query: Option<Vector<'_>>,
    k: Option<i32>,
    search: Option<&str>,
) -> TableIterator<'static, (name!(id, i64), name!(distance, f64))> {
    let (Some(index), Some(query), Some(k)) = (index, query, k) else {
        return TableIterator::empty();
    };
    TableIterator::new(nearest(index, &query, k, search).or_raise())
}

fn nearest(
    relation: pg_sys::Oid,
    query: &Vector,
    k: i32,
    search: Option<&str>,
) -> Result<Vec<(i64, f64)>, SqlError> {
    if k < 1 {
        let message = format!("k must be at least 1, not {k}");
        return Err(SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message));
    }
    let prepared = prepare(relation)?;
    let dims = prepared.target.dims;
    // A column that lost its dimensions keeps the index that has them, and the scan checks.
    if dims > 0 && query.dims() as i32 != dims {
        let message = format!("expected {dims} dimensions, not {}", query.dims());
        return Err(SqlError::new(Code::ERRCODE_DATA_EXCEPTION, message)
            .detail("The query must have as many dimensions as the indexed column."));
    }
    let wanted_rows = k as usize;
    let arguments = [crate::vector::into_datum(query.as_slice()), pg_sys::Datum::from(i64::from(k))];
    let mut rows = Vec::with_capacity(wanted_rows.min(1000));
    let params = match search {
        Some(text) => search_params(prepared.target.index, text)?,
        None => SearchParams::default(),
    };
    let request = Request { wanted_rows: wanted_rows.max(FIRST_ROUND_ROWS), params };
    plan_hint::with(prepared.target.indexes.clone(), Some(request), || {
        prepared.plan.for_each_row(&arguments, |row| {
            if let (Some(id), Some(distance)) = (row.datum(1), row.datum(2)) {
                // SAFETY: the query's second column is float8.
                let distance = unsafe { f64::from_datum(distance, false) }.unwrap_or(f64::NAN);
                rows.push((id.value() as i64, distance));
            }
        });
    });
    Ok(rows)
}

/// What the caller asks for beside settings and the index's options.
fn search_params(index: pg_sys::Oid, text: &str) -> Result<SearchParams, SqlError> {
    match OpenRelation::open(index, pg_sys::AccessShareLock) {
        Some(relation) => search_options::parse(relation.rel(), text),
        None => Err(SqlError::new(Code::ERRCODE_UNDEFINED_OBJECT, "the index was dropped meanwhile")),
    }
}

fn prepare(relation: pg_sys::Oid) -> Result<Rc<Prepared>, SqlError> {
    invalidation::listen(forget);
    if OUT_OF_DATE.replace(false) {
        PREPARED.with_borrow_mut(HashMap::clear);
    }
    if let Some(prepared) = PREPARED.with_borrow(|prepared| prepared.get(&relation).cloned()) {
        return Ok(prepared);
    }
    let target = target::describe(relation)?;
    let query = query_text(&target)?;
    let plan = plan_hint::with(target.indexes.clone(), None, || {
        spi::Plan::prepare(&query, &[target.vector_type, pg_sys::INT8OID])
    });
    let prepared = Rc::new(Prepared { target, plan });
    PREPARED.with_borrow_mut(|all| {
        if all.len() >= MAX_PREPARED {
            all.clear();
        }
        all.insert(relation, prepared.clone());
    });
    Ok(prepared)
}

fn query_text(target: &Target) -> Result<String, SqlError> {
    let id = target.id.as_deref().ok_or_else(|| {
        let message = format!("knn() finds no integer id column for the rows of {}", target.table);
        SqlError::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .detail("It returns the index's included column, or else a primary key of one integer column.")
            .hint("Create the index with INCLUDE (id), or with vekter_create_index().")
    })?;
    let Target { table, vector, operator, .. } = target;
    // An index of a plain table covers that table alone, not the tables that inherit from it.
    let only = if target.is_partitioned { "" } else { "ONLY " };
    let predicate =
        target.predicate.as_ref().map_or(String::new(), |predicate| format!("({predicate}) AND "));
    Ok(format!(
        "SELECT {id}::pg_catalog.int8, {vector} {operator} $1 FROM {only}{table} \
         WHERE {predicate}{id} IS NOT NULL AND {vector} IS NOT NULL ORDER BY {vector} {operator} $1 LIMIT $2"
    ))
}

/// Marks every prepared query as out of date: something changed that its text may name.
fn forget(_change: Change) {
    OUT_OF_DATE.set(true);
}
