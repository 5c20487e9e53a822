//! The query behind `knn()`, prepared and cached until an object that it names changes.

use std::cell::{OnceCell, RefCell};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::filter;
use super::known::{self, Known};
use crate::am::Request;
use crate::am::plan_hint::{self, COLUMN};
use crate::functions::arguments::Effort;
use crate::functions::target::Target;
use crate::pg::error::SqlError;
use crate::pg::relation::OpenRelation;
use crate::pg::spi;

/// For more rows than this, the planner compares the cost of the search with that of sorting the table.
const MAX_SEARCHED_ROWS: usize = 1000;
/// Limit on the cached queries.
const MAX_PREPARED: usize = 100;

/// The key of a prepared query.
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

/// The rows to leave out.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bound {
    /// Rows farther away than the radius.
    Radius,
    /// The row with a given id.
    Except,
}

impl Question {
    pub fn about(relation: pg_sys::Oid, output: Output) -> Self {
        Question { relation, output, filter: None, bound: None }
    }
}

/// The values of one call.
pub struct Asked<'a> {
    pub query: &'a [f32],
    /// Limit on the rows.
    pub limit: Option<usize>,
    pub effort: Effort<'a>,
    /// For `Bound::Radius`.
    pub radius: Option<f64>,
    /// For `Bound::Except`.
    pub except: Option<i64>,
}

impl<'a> Asked<'a> {
    pub fn of(query: &'a [f32]) -> Self {
        Asked { query, limit: None, effort: Effort::default(), radius: None, except: None }
    }
}

struct Prepared {
    /// The relation's description when this was prepared.
    known: Rc<Known>,
    query: String,
    types: Vec<pg_sys::Oid>,
    /// Planned once, for searching the index.
    generic_plan: spi::Plan,
    /// Planned at each call, because for a large LIMIT a sort of the table can be faster.
    custom_plan: OnceCell<spi::Plan>,
}

thread_local! {
    static PREPARED: RefCell<HashMap<Question, Rc<Prepared>>> = RefCell::default();
}

/// Ids and distances, nearest first.
pub fn ids(question: &Question, asked: &Asked) -> Result<Vec<(i64, f64)>, SqlError> {
    collect(question, asked, |row| row.datum(1).map(|id| id.value() as i64))
}

/// Rows, as datums of the table's row type in the current memory context, and distances; nearest first.
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
    let request = request(&prepared, question, asked)?;
    let is_search = request.radius.is_some() || asked.limit.is_some_and(|limit| limit <= MAX_SEARCHED_ROWS);
    // Citus refuses generic plans.
    let plan = match is_search && !prepared.known.target.is_searched_elsewhere {
        true => &prepared.generic_plan,
        false => prepared.custom_plan.get_or_init(|| spi::Plan::prepare(&prepared.query, &prepared.types)),
    };
    let bound = match question.bound {
        None => None,
        Some(Bound::Radius) => Some(asked.radius.map(|radius| radius.to_bits().into())),
        Some(Bound::Except) => Some(asked.except.map(Into::into)),
    };
    let vector = prepared.known.target.kind.into_marked_datum(asked.query);
    let mut arguments = vec![Some(vector), asked.limit.map(|limit| pg_sys::Datum::from(limit as i64))];
    arguments.extend(bound);
    let mut found = Vec::with_capacity(asked.limit.unwrap_or(0).min(1000));
    let hint = plan_hint::Hint {
        is_filtered: question.filter.is_some(),
        is_forced: is_search,
        ..plan_hint::Hint::new(prepared.known.target.indexes.clone(), request)
    };
    plan_hint::with(hint, || {
        plan.for_each_row(&arguments, |row| {
            if let (Some(what), Some(distance)) = (read(row), row.datum(2)) {
                // SAFETY: the query's second column is float8.
                let distance = unsafe { f64::from_datum(distance, false) }.unwrap_or(f64::NAN);
                found.push((what, distance));
            }
        });
    });
    // An approximate index may return a nearer row late.
    found.sort_by(|(_, a), (_, b)| order(*a, *b));
    Ok(found)
}

/// Order of distances: NaN last, as in PostgreSQL.
pub fn order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

fn request(prepared: &Prepared, question: &Question, asked: &Asked) -> Result<Request, SqlError> {
    let params = asked.effort.params_of(&prepared.known.target)?;
    let excluded_rows = usize::from(asked.except.is_some());
    let rows = asked.limit.map(|limit| limit + excluded_rows);
    let request = match rows {
        // With a filter, the scan uses the LIMIT itself.
        Some(rows) if question.filter.is_none() => Request::of(rows, params),
        _ => Request { params, ..Request::default() },
    };
    Ok(Request { radius: asked.radius, ..request })
}

fn check_dims(query: &[f32], dims: i32) -> Result<(), SqlError> {
    // If the column has lost its dimensions, the index keeps them, and the scan checks.
    if dims < 1 || query.len() as i32 == dims {
        return Ok(());
    }
    let message = format!("expected {dims} dimensions, not {}", query.len());
    Err(SqlError::new(Code::ERRCODE_DATA_EXCEPTION, message)
        .detail("The query must have as many dimensions as the indexed column."))
}

/// The prepared query for a key, prepared anew if an object that it names has changed.
fn prepare(question: &Question) -> Result<Rc<Prepared>, SqlError> {
    let known = known::describe(question.relation)?;
    if let Some(prepared) = PREPARED.with_borrow(|prepared| prepared.get(question).cloned())
        && Rc::ptr_eq(&prepared.known, &known)
    {
        return Ok(prepared);
    }
    let prepared = Rc::new(Prepared::new(known, question)?);
    // PostgreSQL frees plans, which can run arbitrary code, so `PREPARED` must not be borrowed meanwhile.
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
        question.filter.as_deref().map(|text| filter::check(text, target)).transpose()?;
        let query = query_text(target, question)?;
        let mut types = vec![target.vector_type, pg_sys::INT8OID];
        types.extend(question.bound.map(|bound| match bound {
            Bound::Radius => pg_sys::FLOAT8OID,
            Bound::Except => pg_sys::INT8OID,
        }));
        let generic_plan = spi::Plan::prepare_generic(&query, &types);
        Ok(Prepared { known, query, types, generic_plan, custom_plan: OnceCell::new() })
    }
}

/// Parameters: $1 query, $2 limit, $3 the radius or id of the bound, if any.
fn query_text(target: &Target, question: &Question) -> Result<String, SqlError> {
    let Target { vector, operator, table, .. } = target;
    let distance = format!("{vector} {operator} $1");
    let id = match question.output {
        Output::Id => Some(id_of(target)?),
        Output::Row => None,
    };
    // A bare row expression would be expanded to its columns; with a cast it stays one value.
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

/// The integer id column.
pub fn id_of(target: &Target) -> Result<&str, SqlError> {
    target.id.as_deref().ok_or_else(|| {
        let message = format!("knn() finds no integer id column for the rows of {}", target.table);
        SqlError::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .detail("It returns the index's included column, or else a primary key of one integer column.")
            .hint("Create the index with INCLUDE (id), or with vekter_create_index(), or use knn_rows().")
    })
}
