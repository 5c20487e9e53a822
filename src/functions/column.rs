//! Columns named in arguments.

use pgrx::spi::quote_identifier;
use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::target::{qualified_name, relation_name};
use crate::am::Metric;
use crate::am::options::OperatorClass;
use crate::pg::error::SqlError;
use crate::pg::text::Text;
use crate::pg::{catalogue, search_path, text};
use crate::vector::ValueKind;

/// A column's entry in the catalogue.
pub struct Column {
    table: pg_sys::Oid,
    type_oid: pg_sys::Oid,
    pub type_name: String,
    pub is_integer: bool,
    /// Operator class of the metric for the column's type, quoted; None unless the type is one of vectors or a domain
    /// over it.
    pub operator_class: Option<String>,
    /// Of the values of such a type.
    pub kind: ValueKind,
    pub typmod: i32,
    pub is_not_null: bool,
}

const COLUMN: &str = r#"
SELECT pg_catalog.format_type(a.atttypid, a.atttypmod) AS type_name,
       a.atttypid IN ('pg_catalog.int2'::pg_catalog.regtype, 'pg_catalog.int4'::pg_catalog.regtype,
                      'pg_catalog.int8'::pg_catalog.regtype) AS is_integer,
       a.atttypid AS type,
       a.atttypmod AS typmod,
       a.attnotnull AS is_not_null
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = $1 AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped
"#;

const OPERATOR_CLASSES: &str = r#"
SELECT pg_catalog.format('%I.%I', n.nspname, c.opcname), c.opcfamily
  FROM pg_catalog.pg_opclass c
  JOIN pg_catalog.pg_am m ON m.oid = c.opcmethod
  JOIN pg_catalog.pg_namespace n ON n.oid = c.opcnamespace
 WHERE m.amname = 'faiss' AND c.opcintype = $1
 ORDER BY c.oid
"#;

impl Column {
    /// Finds a column of `table` by name, with the operator class of `metric`.
    pub fn find(table: pg_sys::Oid, name: &str, metric: Metric) -> Result<Self, SqlError> {
        let text = |text: &str| (pg_sys::TEXTOID, text::datum(text));
        let (mut found, mut base) = (None, pg_sys::InvalidOid);
        catalogue::for_each_row(COLUMN, &[(pg_sys::OIDOID, table.into()), text(name)], |row| {
            type Columns = (Option<Text>, Option<bool>, Option<pg_sys::Oid>, Option<i32>, Option<bool>);
            // SAFETY: the query's columns are of these types.
            let (type_name, is_integer, type_oid, typmod, is_not_null): Columns = unsafe { row.columns() };
            let type_oid = type_oid.unwrap_or(pg_sys::InvalidOid);
            let (base_type, typmod) = catalogue::base_type(type_oid, typmod.unwrap_or(-1));
            base = base_type;
            found = Some(Column {
                table,
                type_oid,
                type_name: type_name.unwrap_or_default().into_string(),
                is_integer: is_integer.unwrap_or(false),
                operator_class: None,
                kind: ValueKind::default(),
                typmod,
                is_not_null: is_not_null.unwrap_or(false),
            });
        });
        if let Some(column) = &mut found {
            catalogue::for_each_row(OPERATOR_CLASSES, &[(pg_sys::OIDOID, base.into())], |row| {
                // SAFETY: the query's columns are of these types.
                let (name, family): (Option<Text>, Option<pg_sys::Oid>) = unsafe { row.columns() };
                let class = OperatorClass { family: family.unwrap_or(pg_sys::InvalidOid), input: base };
                if column.operator_class.is_none() && class.metric() == Some(metric) {
                    column.operator_class = name.map(Text::into_string);
                    column.kind = class.value_kind().unwrap_or_default();
                }
            });
        }
        let table = relation_name(table)?;
        found.ok_or_else(|| {
            let message = format!("column \"{name}\" of relation \"{table}\" does not exist");
            SqlError::new(Code::ERRCODE_UNDEFINED_COLUMN, message)
        })
    }

    /// The operator class; Err if the column `name` is not of such a type.
    pub fn require_vector(&self, name: &str) -> Result<&str, SqlError> {
        match &self.operator_class {
            Some(class) => Ok(class),
            None => Err(match Namesake::of(self) {
                Some(namesake) => namesake.refuse(self.table, name)?,
                None => wrong_type(name, "type vector", &self.type_name),
            }),
        }
    }

    /// Err unless the column `name` has an integer type.
    pub fn require_integer(&self, name: &str) -> Result<(), SqlError> {
        if self.is_integer {
            return Ok(());
        }
        Err(wrong_type(name, "an integer type", &self.type_name))
    }
}

fn wrong_type(column: &str, wanted: &str, found: &str) -> SqlError {
    let message = format!("column \"{column}\" is not of {wanted}");
    SqlError::new(Code::ERRCODE_DATATYPE_MISMATCH, message).detail(format!("It is of type {found}."))
}

/// Another extension's type with the same name, such as pgvector's. Names are qualified and quoted.
struct Namesake {
    ours: String,
    theirs: String,
    /// With the column's dimensions as modifier.
    ours_there: String,
    theirs_there: String,
    /// Whether the two types have the same memory layout, judging by the name of their send functions.
    is_alike: bool,
}

const NAMESAKE: &str = r#"
SELECT pg_catalog.format_type(v.oid, NULL), pg_catalog.format_type(t.oid, NULL),
       pg_catalog.format_type(v.oid, $2), pg_catalog.format_type(t.oid, $2),
       EXISTS (SELECT FROM pg_catalog.pg_proc a JOIN pg_catalog.pg_proc b USING (proname)
                WHERE a.oid = t.typsend AND b.oid = v.typsend)
  FROM pg_catalog.pg_type t
  JOIN pg_catalog.pg_type v USING (typname)
  JOIN pg_catalog.pg_opclass c ON c.opcintype = v.oid AND c.opcdefault
  JOIN pg_catalog.pg_am m ON m.oid = c.opcmethod AND m.amname = 'faiss'
 WHERE t.oid = $1
"#;

impl Namesake {
    /// The column's type, if it has the name but is another type.
    fn of(column: &Column) -> Option<Self> {
        let mut found = None;
        let arguments = [(pg_sys::OIDOID, column.type_oid.into()), (pg_sys::INT4OID, column.typmod.into())];
        search_path::with_catalogue_only(|| {
            catalogue::for_each_row(NAMESAKE, &arguments, |row| {
                // SAFETY: the query's columns are of these types.
                let [ours, theirs, ours_there, theirs_there] =
                    [1, 2, 3, 4].map(|column| unsafe { row.text(column) }.unwrap_or_default());
                // SAFETY: as above.
                let is_alike = unsafe { row.get(5) } == Some(true);
                found = Some(Namesake { ours, theirs, ours_there, theirs_there, is_alike });
            });
        });
        found
    }

    fn refuse(&self, table: pg_sys::Oid, column: &str) -> Result<SqlError, SqlError> {
        let error = wrong_type(column, &format!("type {}", self.ours), &self.theirs_there);
        if !self.is_alike {
            return Ok(error);
        }
        Ok(error.hint(format!(
            "Move the column, as a superuser: CREATE CAST ({} AS {}) WITHOUT FUNCTION AS ASSIGNMENT; \
             ALTER TABLE {} ALTER COLUMN {} TYPE {};",
            self.theirs,
            self.ours,
            qualified_name(table)?,
            quote_identifier(column),
            self.ours_there
        )))
    }
}
