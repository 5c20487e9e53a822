//! `vekter_quantize()` and `vekter_reconstruct()`: the codes of a lossy index, and the vectors they decode to.

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::access;
use super::target::{self, Target};
use crate::am::codes::{self, EncodedRow};
use crate::am::{Tid, tid_of};
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::results::ResultRows;
use crate::pg::spi;
use crate::vector::{ValueKind, Vector};

/// Arguments are declared as `(regclass, vector)`.
#[pg_extern]
fn vekter_quantize(index: pg_sys::Oid, vector: Vector<'_>, call: pg_sys::FunctionCallInfo) {
    // SAFETY: the running call, of a function that returns a table.
    let mut results = unsafe { ResultRows::begin(call) };
    let (kept, error) = quantize(index, &vector).or_raise();
    results.push([kept.code.into_datum(), Some(ValueKind::Single.into_datum(&kept.row)), error.into_datum()]);
}

/// Arguments are declared as `(regclass, bigint)`.
#[pg_extern]
fn vekter_reconstruct(index: pg_sys::Oid, id: i64, call: pg_sys::FunctionCallInfo) {
    // SAFETY: as above.
    let mut results = unsafe { ResultRows::begin(call) };
    for (row, error) in reconstruct(index, id).or_raise() {
        results.push([Some(ValueKind::Single.into_datum(&row)), error.into_datum()]);
    }
}

// ---------------------------------------------------------------- quantize

fn quantize(relation: pg_sys::Oid, vector: &Vector) -> Result<(EncodedRow, f64), SqlError> {
    let open = target::open_plain_index(relation, "vekter_quantize")?;
    access::require_all_rows(open.index().oid(), "vekter_quantize")?;
    let mut row = vector.to_vec();
    target::describe_index(open.index().oid())?.kind.round(&mut row);
    codes::quantize(open.index(), &row)
}

// ---------------------------------------------------------------- reconstruct

fn reconstruct(relation: pg_sys::Oid, id: i64) -> Result<Vec<(Vec<f32>, f64)>, SqlError> {
    let open = target::open_plain_index(relation, "vekter_reconstruct")?;
    let index = open.index().oid();
    let target = target::describe_index(index)?;
    let (versions, rows) = visible_rows(&target, id)?;
    codes::reconstruct(index, &versions, rows)
}

/// TIDs and vectors of the rows with this id that are visible to the caller.
fn visible_rows(target: &Target, id: i64) -> Result<(Vec<Tid>, Vec<Vec<f32>>), SqlError> {
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
            // SAFETY: the column is of type tid, and the row lives while it is visited.
            let version = unsafe { tid_of(version.cast_mut_ptr()) };
            // SAFETY: the column is of this kind, and the row lives while it is visited.
            let value = unsafe { target.kind.read(value) };
            versions.push(version);
            rows.push(value.to_vec());
        }
    });
    Ok((versions, rows))
}
