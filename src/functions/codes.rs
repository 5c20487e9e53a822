//! `vekter_quantize()` and `vekter_reconstruct()`: what a lossy index keeps of a vector.

use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::access;
use super::target::{self, Target};
use crate::am::stored;
use crate::engine::{Builder, EncodedRow, EngineError, check_decodable};
use crate::index::error::IndexError;
use crate::index::interruptible::interruptible;
use crate::index::search::by_tid::Place;
use crate::index::segment::OpenedSegment;
use crate::index::{Snapshot, format};
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::results::ResultRows;
use crate::pg::spi;
use crate::vector::{self, Vector};

/// Arguments are declared as `(regclass, vector)`.
#[pg_extern]
fn vekter_quantize(index: pg_sys::Oid, vector: Vector<'_>, call: pg_sys::FunctionCallInfo) {
    // SAFETY: the running call, of a function that returns a table.
    let mut results = unsafe { ResultRows::begin(call) };
    let (kept, error) = quantize(index, &vector).or_raise();
    results.push([kept.code.into_datum(), Some(vector::into_datum(&kept.row)), error.into_datum()]);
}

/// Arguments are declared as `(regclass, bigint)`.
#[pg_extern]
fn vekter_reconstruct(index: pg_sys::Oid, id: i64, call: pg_sys::FunctionCallInfo) {
    // SAFETY: as above.
    let mut results = unsafe { ResultRows::begin(call) };
    for (row, error) in reconstruct(index, id).or_raise() {
        results.push([Some(vector::into_datum(&row)), error.into_datum()]);
    }
}

// ---------------------------------------------------------------- quantize

fn quantize(relation: pg_sys::Oid, vector: &Vector) -> Result<(EncodedRow, f64), SqlError> {
    let open = target::open_plain_index(relation)?;
    access::require_all_rows(open.index().oid(), "vekter_quantize")?;
    let snapshot = Snapshot::open(open.index())?;
    if vector.dims() != snapshot.dims() {
        let message = format!("expected {} dimensions, not {}", snapshot.dims(), vector.dims());
        return Err(SqlError::new(Code::ERRCODE_DATA_EXCEPTION, message));
    }
    let mut row = vector.to_vec();
    if !snapshot.metric.prepare(&mut row) {
        let message = "a zero vector has no direction and is in no index under cosine distance";
        return Err(SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message));
    }
    let Some(donor) = quantiser(&snapshot) else {
        let message = format!("index \"{}\" has no segment that could quantize", open.index().name());
        return Err(SqlError::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .detail("It was built over no rows, and those that came since are kept as they are.")
            .hint("Give it a quantizer with REINDEX."));
    };
    let (factory, serial) = (donor.reference.factory.as_str(), donor.segment.serial());
    check_decodable(factory, row.len())?;
    let kept = interruptible(1, || {
        let empty = Builder::resume(factory, row.len(), snapshot.metric, serial, false)?;
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

/// The segment that was trained on the most rows, whose quantiser larger segments of the index inherit; or the largest
/// where nothing is learnt.
fn quantiser(snapshot: &Snapshot) -> Option<&OpenedSegment> {
    let segments = snapshot.segments.iter().map(AsRef::as_ref);
    segments.max_by_key(|opened| (opened.reference.trained_rows, opened.reference.rows))
}

/// Euclidean, between two rows as they are indexed.
fn distance(row: &[f32], kept: &[f32]) -> Result<f64, SqlError> {
    if !kept.iter().all(|value| value.is_finite()) {
        return Err(EngineError::Failed { reason: "the code stands for no vector".into() }.into());
    }
    let squares = std::iter::zip(row, kept).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2));
    Ok(squares.sum::<f64>().sqrt())
}

// ---------------------------------------------------------------- reconstruct

fn reconstruct(relation: pg_sys::Oid, id: i64) -> Result<Vec<(Vec<f32>, f64)>, SqlError> {
    let open = target::open_plain_index(relation)?;
    let index = open.index().oid();
    let target = target::describe_index(index)?;
    let (versions, mut rows) = visible_rows(&target, id)?;
    let metric = crate::index::metric_of(&crate::index::read_meta(open.index())?)?;
    let places = stored::find(index, &versions)?;
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

/// The rows with this id that the caller sees: where they are, and their vectors.
fn visible_rows(target: &Target, id: i64) -> Result<(Vec<format::Tid>, Vec<Vec<f32>>), SqlError> {
    let query = format!(
        "SELECT ctid, {vector} FROM ONLY {table} WHERE {key} OPERATOR(pg_catalog.=) $1 AND {is_covered}",
        vector = target.vector,
        table = target.table,
        is_covered = target.is_covered(),
        key = access::id_column(target, "vekter_reconstruct")?,
    );
    let plan = spi::Plan::prepare(&query, &[pg_sys::INT8OID]);
    let (mut versions, mut rows) = (Vec::new(), Vec::new());
    plan.for_each_row(&[Some(pg_sys::Datum::from(id))], |row| {
        if let (Some(version), Some(value)) = (row.datum(1), row.datum(2)) {
            // SAFETY: the columns are of the types tid and vector, and the row lives while it is visited.
            let (version, value) =
                unsafe { (crate::am::tid_of(version.cast_mut_ptr()), Vector::from_datum(value)) };
            versions.push(version);
            rows.push(value.to_vec());
        }
    });
    Ok((versions, rows))
}

fn kept_at(place: Place) -> Result<Vec<f32>, IndexError> {
    match place {
        Place::Delta(row) => Ok(row),
        Place::Segment { opened, position } => {
            let index = &opened.segment.index;
            check_decodable(&opened.reference.factory, index.dims())?;
            let mut row = Vec::new();
            index.rows_at(&[position], &mut row)?;
            Ok(row)
        }
    }
}
