//! Columns that users name.

use pgrx::{IntoDatum, PgSqlErrorCode as Code, pg_sys};

use super::target::relation_name;
use crate::pg::catalogue;
use crate::pg::error::SqlError;

/// A column as the catalogue has it.
pub struct Column {
    pub type_name: String,
    pub is_integer: bool,
    /// Operator class of the metric for the column's type, quoted; None if the type is not vector.
    pub operator_class: Option<String>,
    pub typmod: i32,
    pub is_not_null: bool,
}

const COLUMN: &str = r#"
SELECT pg_catalog.format_type(a.atttypid, a.atttypmod) AS type_name,
       a.atttypid IN ('pg_catalog.int2'::pg_catalog.regtype, 'pg_catalog.int4'::pg_catalog.regtype,
                      'pg_catalog.int8'::pg_catalog.regtype) AS is_integer,
       (SELECT pg_catalog.format('%I.%I', n.nspname, c.opcname)
          FROM pg_catalog.pg_opclass c
          JOIN pg_catalog.pg_am m ON m.oid = c.opcmethod
          JOIN pg_catalog.pg_namespace n ON n.oid = c.opcnamespace
         WHERE m.amname = 'faiss' AND c.opcintype = a.atttypid AND c.opcname = $3) AS operator_class,
       a.atttypmod AS typmod,
       a.attnotnull AS is_not_null
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = $1 AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped
"#;

impl Column {
    /// The column of `table` with that name; its operator class is that of `metric`.
    pub fn find(table: pg_sys::Oid, name: &str, metric: &str) -> Result<Self, SqlError> {
        let operator_class = format!("vector_{metric}_ops");
        let text = |text: &str| (pg_sys::TEXTOID, text.into_datum().unwrap_or(0.into()));
        let mut found = None;
        let arguments = [(pg_sys::OIDOID, table.into()), text(name), text(&operator_class)];
        catalogue::for_each_row(COLUMN, &arguments, |row| {
            // SAFETY: the query's columns are of these types.
            found = Some(unsafe {
                Column {
                    type_name: row.get(1).unwrap_or_default(),
                    is_integer: row.get(2).unwrap_or(false),
                    operator_class: row.get(3),
                    typmod: row.get(4).unwrap_or(-1),
                    is_not_null: row.get(5).unwrap_or(false),
                }
            });
        });
        let table = relation_name(table)?;
        found.ok_or_else(|| {
            let message = format!("column \"{name}\" of relation \"{table}\" does not exist");
            SqlError::new(Code::ERRCODE_UNDEFINED_COLUMN, message)
        })
    }

    /// The operator class; Err if `name`, the column, is not of type vector.
    pub fn require_vector(&self, name: &str) -> Result<&str, SqlError> {
        self.operator_class.as_deref().ok_or_else(|| {
            SqlError::new(Code::ERRCODE_DATATYPE_MISMATCH, format!("column \"{name}\" is not of type vector"))
                .detail(format!("It is of type {}.", self.type_name))
        })
    }

    /// Err unless `name`, the column, is of an integer type.
    pub fn require_integer(&self, name: &str) -> Result<(), SqlError> {
        if self.is_integer {
            return Ok(());
        }
        let message = format!("column \"{name}\" is not of an integer type");
        Err(SqlError::new(Code::ERRCODE_DATATYPE_MISMATCH, message)
            .detail(format!("It is of type {}.", self.type_name)))
    }
}
