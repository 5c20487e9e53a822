//! `vekter_operating_points()`: recall measured at build time. `vekter_recall()`: recall now.

use std::collections::HashSet;

use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::arguments::row_count;
use super::distributed;
use super::target::{self, Target};
use crate::am::plan_hint::{self, COLUMN, Hint};
use crate::am::{Request, SearchParams, Tid, inspect, tid_of};
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::relation::OpenRelation;
use crate::pg::spi;

type Point = (String, String, String, f64, f64);

#[pg_extern]
fn vekter_operating_points(
    index: pg_sys::Oid,
) -> TableIterator<
    'static,
    (
        name!(segment, String),
        name!(factory, String),
        name!(search, String),
        name!(recall, f64),
        name!(microseconds, f64),
    ),
> {
    TableIterator::new(points(index).or_raise())
}

fn points(relation: pg_sys::Oid) -> Result<Vec<Point>, SqlError> {
    let points =
        inspect::operating_points(target::open_plain_index(relation, "vekter_operating_points")?.index())?;
    let row = |inspect::SegmentPoint { segment, factory, search, recall, microseconds }| {
        (segment, factory, search, recall, microseconds)
    };
    Ok(points.into_iter().map(row).collect())
}

/// The share of the exact `k` nearest rows that searches of the index find. The queries are `sample` rows of the table,
/// which do not count as their own neighbours. Uses the rows visible to the caller, and the session's settings.
#[pg_extern]
fn vekter_recall(index: pg_sys::Oid, k: i32, sample: i32) -> Option<f64> {
    measure(index, k, sample).or_raise()
}

fn measure(relation: pg_sys::Oid, k: i32, sample: i32) -> Result<Option<f64>, SqlError> {
    let (k, sample) = (row_count("k", k)?, row_count("sample", sample)?);
    let _table = OpenRelation::table_of(relation);
    let target = target::describe(relation)?;
    distributed::check_is_here(target.table_oid, "vekter_recall")?;
    check_age(&target.indexes)?;
    let rows = rows_of(&target);
    let Target { vector, operator, vector_type, kind, .. } = &target;
    let queries = spi::Plan::prepare(
        &format!("SELECT tableoid, ctid, {vector} FROM {rows} ORDER BY pg_catalog.random() LIMIT $1"),
        &[pg_sys::INT8OID],
    );
    // The index does not support ordering by the sum, so this query compares all rows.
    let order = format!("{vector} {operator} $1");
    let nearest =
        |order: &str| format!("SELECT tableoid, ctid AS \"{COLUMN}\" FROM {rows} ORDER BY {order} LIMIT $2");
    let types = [*vector_type, pg_sys::INT8OID];
    let exact = spi::Plan::prepare(&nearest(&format!("({order}) + 0.0")), &types);
    let indexed = spi::Plan::prepare(&nearest(&order), &types);

    let mut chosen: Vec<(RowId, Vec<f32>)> = Vec::new();
    queries.for_each_row(&[Some(pg_sys::Datum::from(sample as i64))], |row| {
        if let (Some(id), Some(vector)) = (row_id(row), row.datum(3)) {
            // SAFETY: the query's third column is of this kind, and is copied.
            chosen.push((id, unsafe { kind.read(vector) }.to_vec()));
        }
    });
    // The query's own row is found too, and left out.
    let limit = k + 1;
    let (mut found, mut wanted) = (0, 0);
    for (own, query) in &chosen {
        pgrx::check_for_interrupts!();
        let vector = kind.into_marked_datum(query);
        let arguments = [Some(vector), Some(pg_sys::Datum::from(limit as i64))];
        let truth = ids(&exact, &arguments, *own, k);
        let request = Request::of(limit, SearchParams::default());
        let answer = plan_hint::with(Hint::new(target.indexes.clone(), request), || {
            ids(&indexed, &arguments, *own, k)
        });
        wanted += truth.len();
        found += truth.intersection(&answer).count();
    }
    Ok((wanted > 0).then(|| found as f64 / wanted as f64))
}

/// Err if the planner cannot use the index in this transaction, so that nothing would be measured.
fn check_age(indexes: &[pg_sys::Oid]) -> Result<(), SqlError> {
    const MODE: u32 = pg_sys::AccessShareLock;
    let opened = indexes.iter().filter_map(|&index| OpenRelation::open(index, MODE));
    match opened.map(|index| (index.rel().is_too_new_to_plan_with(), index)).find(|(too_new, _)| *too_new) {
        None => Ok(()),
        Some((_, index)) => {
            let message = format!("index \"{}\" is newer than the transaction", index.rel().name());
            Err(SqlError::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("A transaction that was open before still sees row versions that the index was built without, so its queries read the table instead.")
                .hint("Ask again in a new transaction."))
        }
    }
}

/// The rows that the index covers, as a FROM clause with its conditions.
fn rows_of(target: &Target) -> String {
    format!("{} WHERE {}", target.from(), target.is_covered())
}

/// Oid of the table and TID of the row.
pub type RowId = (u32, Tid);

pub fn row_id(row: &spi::Row) -> Option<RowId> {
    let table = row.datum(1)?.value() as u32;
    let place = row.datum(2)?.cast_mut_ptr::<pg_sys::ItemPointerData>();
    // SAFETY: the query's second column is a tid, which is passed by reference.
    Some((table, unsafe { tid_of(place) }))
}

/// The rows that a plan returns except `own`, at most `k`.
pub fn ids(plan: &spi::Plan, arguments: &[Option<pg_sys::Datum>], own: RowId, k: usize) -> HashSet<RowId> {
    let mut ids = HashSet::new();
    plan.for_each_row(arguments, |row| {
        if let Some(id) = row_id(row).filter(|&id| id != own)
            && ids.len() < k
        {
            ids.insert(id);
        }
    });
    ids
}
