//! The query behind `knn()`, prepared and kept until any relation, operator or schema changes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::filter;
use crate::am::{plan_hint, search_options};
use crate::engine::SearchParams;
use crate::functions::target::{self, Target};
use crate::index::search::{FIRST_ROUND_ROWS, Request};
use crate::pg::error::SqlError;
use crate::pg::invalidation::{self, Change};
use crate::pg::relation::OpenRelation;
use crate::pg::spi;
use crate::vector::Vector;

/// More prepared queries than a session needs at a time.
const MAX_PREPARED: usize = 100;

/// What makes one prepared query another than the next.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// A table or an index.
    pub relation: pg_sys::Oid,
    pub filter: Option<Box<str>>,
}

struct Prepared {
    target: Rc<Target>,
    plan: spi::Plan,
}

/// What is remembered until something changes that a query's text may name.
#[derive(Default)]
struct Known {
    targets: HashMap<pg_sys::Oid, Rc<Target>>,
    prepared: HashMap<Question, Rc<Prepared>>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
    static OUT_OF_DATE: Cell<bool> = const { Cell::new(false) };
}

/// The `k` nearest rows: ids and distances. `search`: parameters that the caller names.
pub fn nearest(
    question: &Question,
    query: &Vector,
    k: usize,
    search: Option<&str>,
) -> Result<Vec<(i64, f64)>, SqlError> {
    let prepared = prepare(question)?;
    check_dims(query, prepared.target.dims)?;
    let arguments = [crate::vector::into_datum(query.as_slice()), pg_sys::Datum::from(k as i64)];
    let mut rows = Vec::with_capacity(k.min(1000));
    let params = match search {
        Some(text) => search_params(prepared.target.index, text)?,
        None => SearchParams::default(),
    };
    let request = Request { wanted_rows: k.max(FIRST_ROUND_ROWS), params };
    plan_hint::with(prepared.target.indexes.clone(), Some(request), || {
        prepared.plan.for_each_row(&arguments, |row| {
            if let (Some(id), Some(distance)) = (row.datum(1), row.datum(2)) {
                // SAFETY: the query's second column is float8.
                let distance = unsafe { f64::from_datum(distance, false) }.unwrap_or(f64::NAN);
                rows.push((id.value() as i64, distance));
            }
        });
    });
    // An approximate index may come up late with a nearer row.
    rows.sort_by(|(_, a): &(i64, f64), (_, b)| {
        a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
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

fn check_dims(query: &Vector, dims: i32) -> Result<(), SqlError> {
    // A column that lost its dimensions keeps the index that has them, and the scan checks.
    if dims < 1 || query.dims() as i32 == dims {
        return Ok(());
    }
    let message = format!("expected {dims} dimensions, not {}", query.dims());
    Err(SqlError::new(Code::ERRCODE_DATA_EXCEPTION, message)
        .detail("The query must have as many dimensions as the indexed column."))
}

fn prepare(question: &Question) -> Result<Rc<Prepared>, SqlError> {
    invalidation::listen(forget);
    if OUT_OF_DATE.replace(false) {
        // Plans are freed by PostgreSQL, which may take invalidation messages meanwhile: not while they are borrowed.
        drop(KNOWN.take());
    }
    if let Some(prepared) = KNOWN.with_borrow(|known| known.prepared.get(question).cloned()) {
        return Ok(prepared);
    }
    let target = describe(question.relation)?;
    if let Some(text) = &question.filter {
        filter::check(text, &target)?;
    }
    let query = query_text(&target, question.filter.as_deref())?;
    let plan = plan_hint::with(target.indexes.clone(), None, || {
        spi::Plan::prepare(&query, &[target.vector_type, pg_sys::INT8OID])
    });
    let prepared = Rc::new(Prepared { target, plan });
    let surplus = KNOWN.with_borrow_mut(|known| {
        let is_full = known.prepared.len() >= MAX_PREPARED;
        let surplus = if is_full { std::mem::take(&mut known.prepared) } else { HashMap::new() };
        known.prepared.insert(question.clone(), prepared.clone());
        surplus
    });
    drop(surplus);
    Ok(prepared)
}

fn describe(relation: pg_sys::Oid) -> Result<Rc<Target>, SqlError> {
    if let Some(target) = KNOWN.with_borrow(|known| known.targets.get(&relation).cloned()) {
        return Ok(target);
    }
    let target = Rc::new(target::describe(relation)?);
    KNOWN.with_borrow_mut(|known| known.targets.insert(relation, target.clone()));
    Ok(target)
}

fn query_text(target: &Target, filter: Option<&str>) -> Result<String, SqlError> {
    let id = target.id.as_deref().ok_or_else(|| {
        let message = format!("knn() finds no integer id column for the rows of {}", target.table);
        SqlError::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .detail("It returns the index's included column, or else a primary key of one integer column.")
            .hint("Create the index with INCLUDE (id), or with vekter_create_index().")
    })?;
    let Target { vector, operator, .. } = target;
    let conditions = [
        target.predicate.as_ref().map(|predicate| format!("({predicate})")),
        filter.map(filter::enclosed),
        Some(format!("{id} IS NOT NULL AND {vector} IS NOT NULL")),
    ];
    let conditions: Vec<String> = conditions.into_iter().flatten().collect();
    Ok(format!(
        "SELECT {id}::pg_catalog.int8, {vector} {operator} $1 FROM {} WHERE {} ORDER BY {vector} {operator} $1 LIMIT $2",
        target.from(),
        conditions.join(" AND ")
    ))
}

/// Marks every prepared query as out of date: something changed that its text may name.
fn forget(_change: Change) {
    OUT_OF_DATE.set(true);
}
