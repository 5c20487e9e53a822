//! The query behind `knn()`, prepared and kept until something changes that it names.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::filter::{self, Narrowing};
use super::known::{self, Known};
use crate::am::plan_hint::{self, COLUMN};
use crate::am::{FIRST_ROUND_ROWS, Request};
use crate::functions::arguments::Effort;
use crate::functions::target::Target;
use crate::pg::error::SqlError;
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
    pub output: Output,
    pub filter: Option<String>,
    pub bound: Option<Bound>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Output {
    Id,
    Row,
}

/// Which rows are left out.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bound {
    /// Those farther away.
    Radius,
    /// One, by its id.
    Except,
}

impl Question {
    pub fn about(relation: pg_sys::Oid, output: Output) -> Self {
        Question { relation, output, filter: None, bound: None }
    }
}

/// The values of one call.
pub struct Asked<'a> {
    pub query: &'a Vector<'a>,
    /// Rows at most.
    pub limit: Option<usize>,
    pub effort: Effort<'a>,
    /// Of `Bound::Radius`.
    pub radius: Option<f64>,
    /// Of `Bound::Except`.
    pub except: Option<i64>,
}

impl<'a> Asked<'a> {
    pub fn of(query: &'a Vector<'a>) -> Self {
        Asked { query, limit: None, effort: Effort::default(), radius: None, except: None }
    }
}

struct Prepared {
    /// As it was when this was prepared.
    known: Rc<Known>,
    plan: spi::Plan,
    /// For a filter that can be narrowed down.
    narrowing: Option<Narrowing>,
}

thread_local! {
    static PREPARED: RefCell<HashMap<Question, Rc<Prepared>>> = RefCell::default();
}

/// Ids and distances, nearest first.
pub fn ids(question: &Question, asked: &Asked) -> Result<Vec<(i64, f64)>, SqlError> {
    collect(question, asked, |row| row.datum(1).map(|id| id.value() as i64))
}

/// Rows, as datums of the table's row type in the memory that is current now, and distances, nearest first.
pub fn rows(question: &Question, asked: &Asked) -> Result<Vec<(pg_sys::Datum, f64)>, SqlError> {
    collect(question, asked, |row| row.kept_datum(1))
}

fn collect<T>(
    question: &Question,
    asked: &Asked,
    read: impl Fn(&spi::Row) -> Option<T>,
) -> Result<Vec<(T, f64)>, SqlError> {
    let _table = OpenRelation::table_of(question.relation);
    let prepared = prepare(question)?;
    check_dims(asked.query, prepared.known.target.dims)?;
    let mut request = request(&prepared, question, asked)?;
    let narrowed = match &prepared.narrowing {
        Some(narrowing) => narrowing.apply(&mut request, asked.limit)?,
        None => None,
    };
    let plan = narrowed.unwrap_or(&prepared.plan);
    let bound = match question.bound {
        None => None,
        Some(Bound::Radius) => Some(asked.radius.map(|radius| radius.to_bits().into())),
        Some(Bound::Except) => Some(asked.except.map(Into::into)),
    };
    let vector = crate::vector::into_marked_datum(asked.query.as_slice());
    let mut arguments = vec![Some(vector), asked.limit.map(|limit| pg_sys::Datum::from(limit as i64))];
    arguments.extend(bound);
    let mut found = Vec::with_capacity(asked.limit.unwrap_or(0).min(1000));
    plan_hint::with(prepared.known.target.indexes.clone(), request, || {
        plan.for_each_row(&arguments, |row| {
            if let (Some(what), Some(distance)) = (read(row), row.datum(2)) {
                // SAFETY: the query's second column is float8.
                let distance = unsafe { f64::from_datum(distance, false) }.unwrap_or(f64::NAN);
                found.push((what, distance));
            }
        });
    });
    // An approximate index may come up late with a nearer row.
    found.sort_by(|(_, a), (_, b)| order(*a, *b));
    Ok(found)
}

/// Of distances: NaN last, as PostgreSQL has it.
pub fn order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

fn request(prepared: &Prepared, question: &Question, asked: &Asked) -> Result<Request, SqlError> {
    let params = asked.effort.params(prepared.known.target.index)?;
    let spared = usize::from(asked.except.is_some());
    let rows = asked.limit.map(|limit| limit + spared);
    let request = match rows {
        Some(rows) if question.filter.is_none() => Request::of(rows, params),
        // How many rows a filter leaves out shows only as they come.
        _ => Request {
            wanted_rows: rows.unwrap_or(0).max(FIRST_ROUND_ROWS),
            k: rows,
            params,
            ..Request::default()
        },
    };
    Ok(Request { radius: asked.radius, ..request })
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

/// The query that answers a question: one that was prepared before, unless something has changed that it names.
fn prepare(question: &Question) -> Result<Rc<Prepared>, SqlError> {
    let known = known::describe(question.relation)?;
    if let Some(prepared) = PREPARED.with_borrow(|prepared| prepared.get(question).cloned())
        && Rc::ptr_eq(&prepared.known, &known)
    {
        return Ok(prepared);
    }
    let prepared = Rc::new(Prepared::new(known, question)?);
    // Plans are freed by PostgreSQL, which may run anything meanwhile: not while they are borrowed.
    let surplus = PREPARED.with_borrow_mut(|all| {
        let is_full = all.len() >= MAX_PREPARED;
        let mut surplus = if is_full { std::mem::take(all) } else { HashMap::new() };
        surplus.extend(all.remove_entry(question));
        all.insert(question.clone(), prepared.clone());
        surplus
    });
    drop(surplus);
    Ok(prepared)
}

impl Prepared {
    fn new(known: Rc<Known>, question: &Question) -> Result<Self, SqlError> {
        let target = &known.target;
        let condition = question.filter.as_deref().map(|text| filter::check(text, target)).transpose()?;
        let query = query_text(target, question)?;
        let mut types = vec![target.vector_type, pg_sys::INT8OID];
        types.extend(question.bound.map(|bound| match bound {
            Bound::Radius => pg_sys::FLOAT8OID,
            Bound::Except => pg_sys::INT8OID,
        }));
        let generic = || spi::Plan::prepare_generic(&query, &types);
        let narrowing = match (&question.filter, condition) {
            (Some(text), Some(condition)) if !condition.is_volatile && !target.is_partitioned => {
                Some(Narrowing::new(target, text, generic()))
            }
            _ => None,
        };
        let plan = match question.bound {
            Some(Bound::Radius) => generic(),
            // Ways to the rows are weighed by how many are wanted.
            _ => spi::Plan::prepare(&query, &types),
        };
        Ok(Prepared { known, plan, narrowing })
    }
}

/// Parameters: $1 query, $2 limit, $3 what bounds it, if anything.
fn query_text(target: &Target, question: &Question) -> Result<String, SqlError> {
    let Target { vector, operator, table, .. } = target;
    let distance = format!("{vector} {operator} $1");
    let id = match question.output {
        Output::Id => Some(id_of(target)?),
        Output::Row => None,
    };
    // A row that stands by itself would come as its columns; as a cast it stays one value.
    let output = id.map_or_else(|| format!("({table}.*)::{table}"), |id| format!("{id}::pg_catalog.int8"));
    let bound = question.bound.map(|bound| match (bound, id) {
        (Bound::Except, Some(id)) => format!("{id} OPERATOR(pg_catalog.<>) $3"),
        (Bound::Except, None) => "true".into(),
        (Bound::Radius, _) => {
            format!("(({}) {operator} $1) OPERATOR(pg_catalog.<=) $3", target.covered_vector())
        }
    });
    let conditions = [
        Some(target.is_covered()),
        question.filter.as_deref().map(filter::enclosed),
        id.map(|id| format!("{id} IS NOT NULL")),
        bound,
    ];
    let conditions: Vec<String> = conditions.into_iter().flatten().collect();
    Ok(format!(
        "SELECT {output}, {distance} AS \"{COLUMN}\" FROM {} WHERE {} ORDER BY {distance} LIMIT $2",
        target.from(),
        conditions.join(" AND ")
    ))
}

/// The integer column that identifies a row.
pub fn id_of(target: &Target) -> Result<&str, SqlError> {
    target.id.as_deref().ok_or_else(|| {
        let message = format!("knn() finds no integer id column for the rows of {}", target.table);
        SqlError::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .detail("It returns the index's included column, or else a primary key of one integer column.")
            .hint("Create the index with INCLUDE (id), or with vekter_create_index(), or use knn_rows().")
    })
}
