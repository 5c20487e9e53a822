//! `knn_join()`: the nearest rows of an index for each row of another table.
//!
//! A cursor over the left table fills batches of queries, and results go to a tuple store, so memory is bounded
//! whatever the tables' sizes.

use core::ffi::CStr;

use pgrx::prelude::*;
use pgrx::spi::quote_identifier;
use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::{Searcher, Waiting};
use crate::functions::arguments::Effort;
use crate::functions::target;
use crate::pg::catalogue::{Storage, storage_of};
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::progress::RowsThrough;
use crate::pg::results::{ResultRows, argument_type};
use crate::pg::spi::{QueryCursor, Row};
use crate::pg::text::{Text, from_c, from_server};

/// Argument numbers start at 0.
const ID_TYPE_ARGUMENT: i32 = 7;

/// Arguments are declared as `(regclass, name, name, regclass, integer, text, double precision)`. The last argument is
/// optional; only its type matters: it is the type of the left ids, bigint by default. Returns no rows if one of the
/// first five is NULL, like a STRICT function.
#[pg_extern]
#[expect(clippy::too_many_arguments, reason = "the signature is SQL's")]
fn knn_join(
    left_table: Option<pg_sys::Oid>,
    left_id: Option<&CStr>,
    left_vector: Option<&CStr>,
    index: Option<pg_sys::Oid>,
    k: Option<i32>,
    search: Option<Text>,
    recall: Option<f64>,
    call: pg_sys::FunctionCallInfo,
) {
    // SAFETY: the running call, of a function that returns a table.
    let results = unsafe { ResultRows::begin(call) };
    // SAFETY: the running call.
    let id_type = unsafe { argument_type(call, ID_TYPE_ARGUMENT) };
    let id_type = if id_type == pg_sys::InvalidOid { pg_sys::INT8OID } else { id_type };
    let left = LeftTable::named(left_table, left_id, left_vector, id_type);
    join(left, index, k, Effort { search: search.as_deref(), recall }, results).or_raise();
}

fn join(
    left: Option<LeftTable>,
    index: Option<pg_sys::Oid>,
    k: Option<i32>,
    effort: Effort,
    mut results: ResultRows,
) -> Result<(), SqlError> {
    let (Some(left), Some(index), Some(k)) = (left, index, k) else {
        return Ok(());
    };
    let searcher = Searcher::new(index, k, effort)?;
    left.join(&searcher, |left_id, id, distance| {
        results.push([left_id, id.into_datum(), distance.into_datum()]);
    })
}

/// The left table: a neighbour search runs for each of its rows.
struct LeftTable<'a> {
    table: pg_sys::Oid,
    id: &'a CStr,
    vector: &'a CStr,
    id_type: pg_sys::Oid,
}

/// A copy of a row's id; None for NULL.
struct LeftId {
    datum: Option<pg_sys::Datum>,
    is_by_value: bool,
}

impl<'a> LeftTable<'a> {
    /// None if a name is NULL.
    fn named(
        table: Option<pg_sys::Oid>,
        id: Option<&'a CStr>,
        vector: Option<&'a CStr>,
        id_type: pg_sys::Oid,
    ) -> Option<Self> {
        Some(LeftTable { table: table?, id: id?, vector: vector?, id_type })
    }

    fn join(
        &self,
        searcher: &Searcher,
        mut visit: impl FnMut(Option<pg_sys::Datum>, i64, f64),
    ) -> Result<(), SqlError> {
        self.check_columns(searcher.element_type)?;
        let most_queries = searcher.most_queries()?;
        let (mut dims, kind) = (searcher.dims(), searcher.target.kind);
        let mut rows = QueryCursor::open(&self.query_text(searcher.element_type)?);
        let progress = RowsThrough::begin(self.table);
        let (mut processed, mut excluded) = (0, 0);
        let mut waiting = Waiting::new(most_queries);
        loop {
            let mut outcome = Ok(());
            let fetched = rows.fetch(most_queries, |row| {
                // SAFETY: the query's second column is of this kind, and lies in the row while this runs.
                match row.datum(2).map(|datum| unsafe { kind.read(datum) }) {
                    None => excluded += 1,
                    Some(vector) if vector.len() != *dims.get_or_insert(vector.len()) => {
                        outcome = Err(self.wrong_dims(dims.unwrap_or(0), vector.len()));
                    }
                    Some(vector) => waiting.push(self.id_of(row), &vector, kind),
                }
            });
            outcome?;
            processed += waiting.len() as u64;
            waiting.answer(searcher, |left, id, distance| visit(left.datum, id, distance))?;
            progress.show(processed, excluded);
            if fetched < most_queries {
                return Ok(());
            }
        }
    }

    /// Err unless the columns exist and can be cast to the required types.
    fn check_columns(&self, vector_type: pg_sys::Oid) -> Result<(), SqlError> {
        let table = target::relation_name(self.table)?;
        for (column, wanted, is_id) in [(self.id, self.id_type, true), (self.vector, vector_type, false)] {
            let name = from_server(column.to_bytes());
            // SAFETY: looks a catalogue row up by its key.
            let number = unsafe { pg_sys::get_attnum(self.table, column.as_ptr()) };
            // SAFETY: looks a catalogue row up by its key.
            let found = unsafe { pg_sys::get_atttype(self.table, number) };
            if found == pg_sys::InvalidOid {
                let message = format!("column \"{name}\" of relation \"{table}\" does not exist");
                return Err(SqlError::new(Code::ERRCODE_UNDEFINED_COLUMN, message));
            }
            let explicit = pg_sys::CoercionContext::COERCION_EXPLICIT;
            // SAFETY: looks catalogue rows up; the arrays have one element.
            if !unsafe { pg_sys::can_coerce_type(1, &found, &wanted, explicit) } {
                // SAFETY: looks a catalogue row up by its oid.
                let names = [found, wanted].map(|oid| unsafe { pg_sys::format_type_be(oid) });
                // SAFETY: both answers are palloc'd C strings.
                let [found, wanted] = names.map(|name| unsafe { from_c(name) });
                let message = format!("column \"{name}\" is not of type {wanted}");
                let error = SqlError::new(Code::ERRCODE_DATATYPE_MISMATCH, message)
                    .detail(format!("It is of type {found}."));
                let hint = format!("Name the type of the ids with the argument id_type => NULL::{found}.");
                return Err(if is_id { error.hint(hint) } else { error });
            }
        }
        Ok(())
    }

    /// A query for the left table's ids and vectors, cast to the required types.
    fn query_text(&self, vector_type: pg_sys::Oid) -> Result<String, SqlError> {
        let column = |name: &CStr| quote_identifier(from_server(name.to_bytes()));
        Ok(format!(
            "SELECT l.{}::{}, l.{}::{} FROM {} AS l",
            column(self.id),
            type_name(self.id_type),
            column(self.vector),
            type_name(vector_type),
            target::qualified_name(self.table)?
        ))
    }

    /// A copy of the row's id that outlives the row and the cursor.
    fn id_of(&self, row: &Row) -> LeftId {
        let Storage { length, is_by_value, .. } = storage_of(self.id_type);
        // SAFETY: the datum is of that type, and SPI is connected by the row's cursor.
        let copy = |datum| unsafe { pg_sys::SPI_datumTransfer(datum, is_by_value, i32::from(length)) };
        let datum = row.datum(1).map(copy);
        LeftId { datum, is_by_value }
    }

    fn wrong_dims(&self, expected: usize, found: usize) -> SqlError {
        let message = format!("expected {expected} dimensions, not {found}");
        SqlError::new(Code::ERRCODE_DATA_EXCEPTION, message).detail(format!(
            "Column \"{}\" must have as many dimensions as the indexed column in every row.",
            from_server(self.vector.to_bytes())
        ))
    }
}

impl Drop for LeftId {
    fn drop(&mut self) {
        if let Some(datum) = self.datum.filter(|_| !self.is_by_value && !std::thread::panicking()) {
            // SAFETY: palloc'd by SPI_datumTransfer, and freed once; after an error its memory context goes as a whole.
            unsafe { pg_sys::pfree(datum.cast_mut_ptr()) };
        }
    }
}

fn type_name(oid: pg_sys::Oid) -> String {
    // SAFETY: looks a catalogue row up by its oid.
    let name = unsafe { pg_sys::format_type_be_qualified(oid) };
    // SAFETY: the answer is a palloc'd C string.
    unsafe { from_c(name) }
}
