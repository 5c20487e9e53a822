//! `vekter_segments()`: the segments of an index, one per row.

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::target;
use crate::am::inspect;
use crate::pg::error::{OrRaise, SqlError};

type SegmentColumns = (String, i32, String, i64, i64, i64, bool);

#[pg_extern]
fn vekter_segments(
    index: pg_sys::Oid,
) -> TableIterator<
    'static,
    (
        name!(id, String),
        name!(level, i32),
        name!(factory, String),
        name!(rows, i64),
        name!(dead_rows, i64),
        name!(bytes, i64),
        name!(cached, bool),
    ),
> {
    TableIterator::new(list(index).or_raise())
}

fn list(relation: pg_sys::Oid) -> Result<Vec<SegmentColumns>, SqlError> {
    let segments = inspect::segments(target::open_plain_index(relation, "vekter_segments")?.index())?;
    let row = |segment: inspect::SegmentStats| {
        let inspect::SegmentStats { id, tier, factory, rows, dead_rows, bytes, is_cached } = segment;
        (id, tier as i32, factory, rows as i64, dead_rows as i64, bytes as i64, is_cached)
    };
    Ok(segments.into_iter().map(row).collect())
}
