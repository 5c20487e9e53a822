//! Reads the definition of an index from the catalogue, and checks that it can be built.

use pgrx::{PgRelation, PgSqlErrorCode as Code, PgTupleDesc, pg_sys};

use super::options;
use crate::engine;
use crate::index::Definition;
use crate::pg::catalogue::base_type;
use crate::pg::error::SqlError;
use crate::pg::relation::Rel;
use crate::pg::text;
use crate::vector::ValueKind;

/// Err if the index's columns are not supported.
pub fn read(index: Rel) -> Result<Definition, SqlError> {
    let keys = usize::from(index.index_row().indnkeyatts.unsigned_abs());
    // SAFETY: the relation stays open while the value is used, and is not closed by it.
    let relation = unsafe { PgRelation::from_pg(index.as_ptr()) };
    let columns = relation.tuple_desc();
    check_included(&columns, keys)?;
    let kind =
        options::value_kind(index).ok_or_else(|| invalid_class("2 does not return a kind of values"))?;
    let typmod = columns.get(0).map_or(-1, |column| base_type(column.atttypid, column.atttypmod).1);
    let dims = usize::try_from(typmod).ok().filter(|&dims| dims > 0).ok_or_else(|| {
        SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, "column does not have dimensions")
            .hint(format!(
                "Declare the column with its dimensions, such as {0}(384), or index an expression such as ((embedding::{0}(384))).",
                kind.type_name()
            ))
    })?;
    let metric = options::metric(index).ok_or_else(|| invalid_class("1 does not return a metric"))?;
    let recall = options::recall(index).unwrap_or(engine::DEFAULT_RECALL);
    let are_halves = kind == ValueKind::Half;
    Ok(Definition { dims, metric, factory: options::factory(index), recall, are_halves })
}

fn invalid_class(what: &str) -> SqlError {
    let message = format!("the operator class's support function {what}");
    SqlError::new(Code::ERRCODE_INVALID_OBJECT_DEFINITION, message)
}

/// One column may be included: the id that `knn()` returns.
fn check_included(columns: &PgTupleDesc, keys: usize) -> Result<(), SqlError> {
    const HINT: &str = "Include only the integer id column that knn() returns.";
    if columns.len() > keys + 1 {
        let message = "access method \"faiss\" supports at most one included column";
        return Err(SqlError::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, message).hint(HINT));
    }
    let is_integer = |oid| [pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID].contains(&oid);
    match columns.get(keys) {
        Some(column) if !is_integer(column.atttypid) => {
            // SAFETY: a name ends with a zero byte.
            let name = unsafe { text::from_c(column.attname.data.as_ptr()) };
            let message = format!("included column \"{name}\" is not of an integer type");
            Err(SqlError::new(Code::ERRCODE_DATATYPE_MISMATCH, message).hint(HINT))
        }
        _ => Ok(()),
    }
}
