//! `vekter_index_stats()`: what is in an index, in one row.

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::target;
use crate::engine;
use crate::index::error::IndexError;
use crate::index::format::{FORMAT_VERSION, Manifest, Meta, SegmentRef};
use crate::index::train::{UNTRAINED_FACTORY, rows_to_train};
use crate::index::{delta, metric_of, read_manifest, read_meta, retry, segment};
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::relation::Rel;

type Stats = (String, Option<String>, String, i32, i32, i64, i64, i64, i64, i64, i32);

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

fn stats(relation: pg_sys::Oid) -> Result<Stats, SqlError> {
    Ok(read(target::open_plain_index(relation)?.index())?)
}

fn read(rel: Rel) -> Result<Stats, IndexError> {
    retry(|| {
        let meta = read_meta(rel)?;
        let manifest = read_manifest(rel, &meta)?;
        let delta_rows = delta::count_rows(rel, &meta)?;
        let mut factories: Vec<&str> =
            manifest.segments.iter().map(|segment| segment.factory.as_str()).collect();
        factories.dedup();
        let factory = if factories.is_empty() { meta.factory.clone() } else { factories.join(" + ") };
        let rows = manifest.rows() - manifest.dead_rows() + delta_rows;
        let reason = match reason(&meta, &manifest, rows) {
            None => scanned_reason(&meta.factory, &meta, &manifest, rows)?,
            explained => explained,
        };
        let key = segment::file_key(rel, 0);
        Ok((
            factory,
            reason,
            metric_of(&meta)?.name().to_string(),
            meta.dims as i32,
            manifest.segments.len() as i32,
            rows as i64,
            delta_rows as i64,
            manifest.dead_rows() as i64,
            i64::from(rel.blocks()) * i64::from(pg_sys::BLCKSZ),
            segment::cache().bytes_of(key.database, key.index) as i64,
            i32::from(FORMAT_VERSION),
        ))
    })
}

/// Why the largest segment that has a reason is what it is; None: because it was asked for.
fn reason(meta: &Meta, manifest: &Manifest, rows: u64) -> Option<String> {
    let explained = manifest.segments.iter().filter(|segment| !segment.reason.is_empty());
    let largest = explained.max_by_key(|segment| SegmentRef::live_rows(segment));
    largest.map(|segment| segment.reason.clone()).or_else(|| {
        let dims = meta.dims as usize;
        let why = match rows < engine::scanned_rows(dims) {
            true => engine::scan_reason(dims),
            false => "new ones are scanned until compaction chooses".into(),
        };
        let about = format!("{} rows of {dims} dimensions: {why}", engine::grouped(rows));
        (meta.factory == engine::AUTO).then_some(about)
    })
}

/// Why no segment is of the factory that was asked for, where that wants training.
fn scanned_reason(
    asked: &str,
    meta: &Meta,
    manifest: &Manifest,
    rows: u64,
) -> Result<Option<String>, IndexError> {
    if rows == 0 || manifest.segments.iter().any(|segment| segment.factory != UNTRAINED_FACTORY) {
        return Ok(None);
    }
    Ok(rows_to_train(asked, meta.dims as usize, metric_of(meta)?).map(|needed_rows| {
        if rows >= needed_rows {
            return format!("rows are scanned until a merge or REINDEX trains {asked}");
        }
        let (rows, needed_rows) = (engine::grouped(rows), engine::grouped(needed_rows));
        format!(
            "to train {asked} takes {needed_rows} rows, and there are {rows}: they are scanned until a merge or REINDEX \
             finds enough"
        )
    }))
}
