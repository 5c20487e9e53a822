//! `vekter_create_index()`: CREATE INDEX with columns as arguments.

use core::ffi::CStr;

use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_literal};
use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::column::Column;
use super::target::{no_table, qualified_name, relation_name};
use crate::am::Metric;
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::spi;
use crate::pg::text::{Text, from_c, from_server, to_server};

/// Arguments are declared as `(regclass, name, name, text, text, name)`; the last may be NULL.
#[pg_extern]
fn vekter_create_index(
    table: Option<pg_sys::Oid>,
    id_column: Option<&CStr>,
    vector_column: Option<&CStr>,
    factory: Option<Text>,
    metric: Option<Text>,
    name: Option<&CStr>,
) -> pg_sys::Oid {
    // SAFETY: raises an error, or returns.
    unsafe { pg_sys::PreventCommandDuringRecovery(c"vekter_create_index()".as_ptr()) };
    let text = |name: &CStr| from_server(name.to_bytes());
    let request = NewIndex {
        table: required(table, "table").or_raise(),
        id_column: text(required(id_column, "id_column").or_raise()),
        vector_column: text(required(vector_column, "vector_column").or_raise()),
        factory: required(factory, "factory").or_raise().into_string(),
        metric: required(metric, "metric").or_raise().into_string(),
        name: name.map(text),
    };
    request.run().or_raise()
}

pub(super) fn required<T>(argument: Option<T>, name: &str) -> Result<T, SqlError> {
    argument.ok_or_else(|| {
        SqlError::new(Code::ERRCODE_NULL_VALUE_NOT_ALLOWED, format!("{name} must not be null"))
    })
}

/// The definition of an index to create.
pub(super) struct NewIndex {
    pub table: pg_sys::Oid,
    pub id_column: String,
    pub vector_column: String,
    pub factory: String,
    pub metric: String,
    pub name: Option<String>,
}

impl NewIndex {
    fn run(&self) -> Result<pg_sys::Oid, SqlError> {
        self.run_by(|_, statement| {
            spi::run(statement);
            Ok(())
        })
    }

    /// Calls `run` with the index's name and the statement that creates it.
    pub fn run_by(
        &self,
        run: impl FnOnce(&str, &str) -> Result<(), SqlError>,
    ) -> Result<pg_sys::Oid, SqlError> {
        let table = self.check_table()?;
        let operator_class = self.check_vector_column()?;
        self.check_id_column(&table)?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => self.choose_name()?,
        };
        let statement = format!(
            "CREATE INDEX {} ON {table} USING faiss ({} {operator_class}) INCLUDE ({}) WITH (factory = {})",
            quote_identifier(&name),
            quote_identifier(&self.vector_column),
            quote_identifier(&self.id_column),
            quote_literal(&self.factory),
        );
        run(&name, &statement)?;
        self.index_named(&name)
    }

    /// The table's qualified, quoted name.
    fn check_table(&self) -> Result<String, SqlError> {
        let name = relation_name(self.table)?;
        // SAFETY: looks catalogue rows up by oid.
        let kind = unsafe { pg_sys::get_rel_relkind(self.table) } as u8;
        if !matches!(kind, b'r' | b'p' | b'm') {
            return Err(no_table(&name, kind));
        }
        qualified_name(self.table)
    }

    /// The operator class for the vector column.
    fn check_vector_column(&self) -> Result<String, SqlError> {
        let metric = Metric::from_name(&self.metric).ok_or_else(|| {
            let message = format!("unknown metric \"{}\"", self.metric);
            SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message)
                .hint("Valid metrics are l2, ip, cosine and l1.")
        })?;
        let name = &self.vector_column;
        let column = Column::find(self.table, name, metric)?;
        let operator_class = column.require_vector(name)?.to_string();
        if column.typmod < 1 {
            let message = format!("column \"{name}\" does not have dimensions");
            return Err(SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message).hint(format!(
                "Declare them with ALTER TABLE {} ALTER COLUMN {} TYPE {}(n).",
                quote_identifier(relation_name(self.table)?),
                quote_identifier(name),
                column.kind.type_name()
            )));
        }
        Ok(operator_class)
    }

    fn check_id_column(&self, table: &str) -> Result<(), SqlError> {
        let name = &self.id_column;
        let column = Column::find(self.table, name, Metric::L2)?;
        column.require_integer(name).map_err(|error| {
            error.hint(
                "knn() returns ids as bigint; for others, use ORDER BY with CREATE INDEX ... USING faiss.",
            )
        })?;
        if !column.is_not_null {
            let query =
                format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE {} IS NULL)", quote_identifier(name));
            let mut has_nulls = false;
            spi::Plan::prepare(&query, &[]).for_each_row(&[], |row| {
                // SAFETY: the query's column is boolean.
                has_nulls = unsafe { row.get(1) } == Some(true);
            });
            if has_nulls {
                let message = format!("column \"{name}\" contains null values");
                return Err(SqlError::new(Code::ERRCODE_NOT_NULL_VIOLATION, message)
                    .hint("Give every row an id, and declare the column NOT NULL."));
            }
        }
        Ok(())
    }

    /// The name that CREATE INDEX would choose for an index on the vector column alone.
    fn choose_name(&self) -> Result<String, SqlError> {
        let table = to_server(&relation_name(self.table)?);
        let column = to_server(&self.vector_column);
        let (table, column, suffix) = (table.as_ptr(), column.as_ptr(), c"idx".as_ptr());
        // SAFETY: the strings outlive the call.
        let name = unsafe { pg_sys::ChooseRelationName(table, column, suffix, self.namespace(), false) };
        // SAFETY: the answer is a palloc'd C string.
        Ok(unsafe { from_c(name) })
    }

    /// The schema of the table and its indexes.
    fn namespace(&self) -> pg_sys::Oid {
        // SAFETY: looks a catalogue row up by its oid.
        unsafe { pg_sys::get_rel_namespace(self.table) }
    }

    fn index_named(&self, name: &str) -> Result<pg_sys::Oid, SqlError> {
        let name = to_server(name);
        let length = name.to_bytes().len() as i32;
        // SAFETY: a C string, which is copied.
        let truncated = unsafe { pg_sys::pstrdup(name.as_ptr()) };
        // SAFETY: the copy, which has this length.
        unsafe { pg_sys::truncate_identifier(truncated, length, false) };
        // SAFETY: looks a catalogue row up by its key.
        Ok(unsafe { pg_sys::get_relname_relid(truncated, self.namespace()) })
    }
}
