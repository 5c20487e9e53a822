//! The codes that a lossy index stores for a given vector, or for rows of the table.

use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::options;
use super::table::TableRows;
use crate::engine::{Builder, EngineError, check_decodable};
use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::interruptible::interruptible;
use crate::index::search::by_tid::{self, IndexedRow};
use crate::index::segment::OpenedSegment;
use crate::index::{IndexView, metric_of, read_meta};
use crate::pg::error::SqlError;
use crate::pg::relation::{IndexAndTable, Rel};

pub use crate::engine::EncodedRow;

/// The code of `vector`, the vector it decodes to, and the distance between the two.
pub fn quantize(index: Rel, vector: &[f32]) -> Result<(EncodedRow, f64), SqlError> {
    let view = IndexView::open(index)?;
    if vector.len() != view.dims() {
        let message = format!("expected {} dimensions, not {}", view.dims(), vector.len());
        return Err(SqlError::new(Code::ERRCODE_DATA_EXCEPTION, message));
    }
    let mut row = vector.to_vec();
    if !view.metric.prepare(&mut row) {
        let message = "a zero vector has no direction and is in no index under cosine distance";
        return Err(SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message));
    }
    let Some(donor) = quantiser(&view) else {
        let message = format!("index \"{}\" has no segment that could quantize", index.name());
        return Err(SqlError::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .detail("It was built over no rows, and those that came since are kept as they are.")
            .hint("Give it a quantizer with REINDEX."));
    };
    let (factory, serial) = (donor.reference.factory.as_str(), donor.segment.serial());
    check_decodable(factory, row.len())?;
    let kept = interruptible(1, || {
        let empty = Builder::resume(factory, row.len(), view.metric, serial, false)?;
        if !empty.accepts(&row) {
            return Err(EngineError::BadParameter {
                reason: "the vector is too long for this index type, which keeps such rows as they are"
                    .into(),
            });
        }
        empty.encode(&row)
    })?;
    let error = distance(&row, &kept.row)?;
    Ok((kept, error))
}

/// The segment that was trained on the most rows, whose quantiser later segments inherit; if none is trained, the
/// largest.
fn quantiser(view: &IndexView) -> Option<&OpenedSegment> {
    let segments = view.segments.iter().map(AsRef::as_ref);
    segments.max_by_key(|opened| (opened.reference.trained_rows, opened.reference.rows))
}

/// Euclidean distance between two rows in their indexed form.
fn distance(row: &[f32], kept: &[f32]) -> Result<f64, SqlError> {
    if !kept.iter().all(|value| value.is_finite()) {
        return Err(EngineError::Failed { reason: "the code stands for no vector".into() }.into());
    }
    let squares = std::iter::zip(row, kept).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2));
    Ok(squares.sum::<f64>().sqrt())
}

/// What the index stores for row versions, decoded, and its distance from `rows`, their vectors.
pub fn reconstruct(
    index: pg_sys::Oid,
    versions: &[Tid],
    mut rows: Vec<Vec<f32>>,
) -> Result<Vec<(Vec<f32>, f64)>, SqlError> {
    let open = IndexAndTable::open(index)?;
    let metric = metric_of(&read_meta(open.index())?)?;
    let places = find(&open, versions)?;
    let mut found = Vec::new();
    for (place, row) in places.into_iter().zip(&mut rows) {
        if let Some(place) = place
            && metric.prepare(row)
        {
            let kept = kept_at(place)?;
            let error = distance(row, &kept)?;
            found.push((kept, error));
        }
    }
    Ok(found)
}

/// For each row version visible to the calling query, the index's entry; None if it has none. After HOT updates, the
/// index has the TID of the first version of the chain, not of the visible one.
fn find(open: &IndexAndTable, versions: &[Tid]) -> Result<Vec<Option<IndexedRow>>, SqlError> {
    let kind = options::value_kind(open.index()).unwrap_or_default();
    // SAFETY: called in a query, which has a snapshot.
    let snapshot = unsafe { pg_sys::GetActiveSnapshot() };
    // SAFETY: the relations stay open while the rows live, and the query's snapshot for longer.
    let mut rows = unsafe { TableRows::open(open.table(), open.index(), kind, snapshot) };
    versions.iter().map(|&version| Ok(find_version(open.index(), &mut rows, version)?)).collect()
}

fn find_version(rel: Rel, rows: &mut TableRows, version: Tid) -> Result<Option<IndexedRow>, IndexError> {
    // A HOT chain does not leave its block.
    let candidates = by_tid::on_block(rel, version.block())?;
    Ok(candidates
        .into_iter()
        .find(|(tid, _)| rows.visible_version(*tid) == Some(version))
        .map(|(_, place)| place))
}

fn kept_at(place: IndexedRow) -> Result<Vec<f32>, IndexError> {
    match place {
        IndexedRow::Delta(row) => Ok(row),
        IndexedRow::Segment { opened, position } => {
            let index = &opened.segment.index;
            check_decodable(&opened.reference.factory, index.dims())?;
            let mut row = Vec::new();
            index.rows_at(&[position], &mut row)?;
            Ok(row)
        }
    }
}
