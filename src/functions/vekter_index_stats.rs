//! `vekter_index_stats()`: statistics of an index, in one row.

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::target;
use crate::am::inspect;
use crate::pg::error::{OrRaise, SqlError};

type StatsColumns = (String, Option<String>, String, i32, i32, i64, i64, i64, i64, i64, i32);

#[pg_extern]
#[expect(clippy::type_complexity, reason = "the columns of the result")]
fn vekter_index_stats(
    index: pg_sys::Oid,
) -> TableIterator<
    'static,
    (
        name!(factory, String),
        name!(reason, Option<String>),
        name!(metric, String),
        name!(dimensions, i32),
        name!(segments, i32),
        name!(rows_indexed, i64),
        name!(delta_rows, i64),
        name!(dead_rows, i64),
        name!(index_bytes, i64),
        name!(cache_bytes, i64),
        name!(format_version, i32),
    ),
> {
    TableIterator::once(stats(index).or_raise())
}

fn stats(relation: pg_sys::Oid) -> Result<StatsColumns, SqlError> {
    let inspected = inspect::stats(target::open_plain_index(relation, "vekter_index_stats")?.index())?;
    let count = |value: u64| value as i64;
    Ok((
        inspected.factory,
        inspected.reason,
        inspected.metric.to_string(),
        inspected.dims as i32,
        inspected.segments as i32,
        count(inspected.rows),
        count(inspected.delta_rows),
        count(inspected.dead_rows),
        count(inspected.index_bytes),
        count(inspected.cache_bytes),
        i32::from(inspected.format_version),
    ))
}
