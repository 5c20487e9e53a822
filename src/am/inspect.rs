//! Facts about an index: its statistics, its segments, and their operating points.

use pgrx::pg_sys;

use crate::engine::{self, OperatingPoint};
use crate::index::error::IndexError;
use crate::index::format::{FORMAT_VERSION, Manifest, Meta, SegmentRef, Tiers};
use crate::index::train::{UNTRAINED_FACTORY, rows_to_train};
use crate::index::{delta, metric_of, read_manifest, read_meta, retry, segment};
use crate::pg::error::SqlError;
use crate::pg::relation::Rel;

pub struct IndexStats {
    /// Factory strings of its segments; the requested one if there are no segments.
    pub factory: String,
    /// Why it has that factory; None if it was requested.
    pub reason: Option<String>,
    pub metric: &'static str,
    pub dims: u32,
    pub segments: usize,
    /// Live rows, including those in the delta.
    pub rows: u64,
    pub delta_rows: u64,
    pub dead_rows: u64,
    pub index_bytes: u64,
    pub cache_bytes: u64,
    pub format_version: u16,
}

pub struct SegmentStats {
    pub id: String,
    pub tier: u32,
    pub factory: String,
    pub rows: u64,
    pub dead_rows: u64,
    pub bytes: u64,
    pub is_cached: bool,
}

/// A measured operating point of a segment.
pub struct SegmentPoint {
    pub segment: String,
    pub factory: String,
    pub search: String,
    pub recall: f64,
    pub microseconds: f64,
}

pub fn stats(rel: Rel) -> Result<IndexStats, SqlError> {
    Ok(retry(|| {
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
        Ok(IndexStats {
            factory,
            reason,
            metric: metric_of(&meta)?.name(),
            dims: meta.dims,
            segments: manifest.segments.len(),
            rows,
            delta_rows,
            dead_rows: manifest.dead_rows(),
            index_bytes: u64::from(rel.blocks()) * u64::from(pg_sys::BLCKSZ),
            cache_bytes: segment::cache().bytes_of(key.database, key.index),
            format_version: FORMAT_VERSION,
        })
    })?)
}

/// Why the largest segment that has a reason got its factory; None if it was requested.
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

/// Why no segment has the requested factory, if there are too few rows to train it.
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

pub fn segments(rel: Rel) -> Result<Vec<SegmentStats>, SqlError> {
    let (manifest, dims) = retry(|| {
        let meta = read_meta(rel)?;
        Ok((read_manifest(rel, &meta)?, meta.dims))
    })?;
    let tiers = Tiers::of_dims(dims as usize);
    let cache = segment::cache();
    let row = |reference: SegmentRef| SegmentStats {
        id: format!("{:032x}", reference.payload.id),
        tier: tiers.tier(reference.live_rows()),
        rows: reference.rows,
        dead_rows: reference.dead_rows,
        bytes: reference.payload.bytes,
        is_cached: cache.has(&segment::file_key(rel, reference.payload.id), reference.payload.bytes),
        factory: reference.factory,
    };
    Ok(manifest.segments.into_iter().map(row).collect())
}

pub fn operating_points(rel: Rel) -> Result<Vec<SegmentPoint>, SqlError> {
    let manifest = retry(|| read_manifest(rel, &read_meta(rel)?))?;
    let mut points = Vec::new();
    for segment in &manifest.segments {
        points.extend(segment.points.iter().map(OperatingPoint::from).map(|point| SegmentPoint {
            segment: format!("{:032x}", segment.payload.id),
            factory: segment.factory.clone(),
            search: point.params.to_string(),
            recall: point.recall,
            microseconds: point.cost_us,
        }));
    }
    Ok(points)
}
