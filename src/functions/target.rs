//! Which index a `regclass` argument means, and how to query the table under it.

use pgrx::{PgSqlErrorCode as Code, pg_sys};

use crate::pg::catalogue;
use crate::pg::error::SqlError;
use crate::pg::relation::index_is_gone;
use crate::pg::search_path;

/// A faiss index and what a query over its table is made of. Names are quoted.
pub struct Target {
    /// The index, and those of its partitions if it is partitioned.
    pub indexes: Vec<pg_sys::Oid>,
    /// The index itself.
    pub index: pg_sys::Oid,
    pub dims: i32,
    pub vector_type: pg_sys::Oid,
    pub table_oid: pg_sys::Oid,
    pub table: String,
    pub is_partitioned: bool,
    /// The indexed column or expression.
    pub vector: String,
    pub predicate: Option<String>,
    /// `OPERATOR(schema.op)`.
    pub operator: String,
    /// Integer column that identifies a row: the included column, or else the primary key.
    pub id: Option<String>,
}

impl Target {
    /// The table as a FROM item: an index of a plain table covers that table alone, not those that inherit from it.
    pub fn from(&self) -> String {
        format!("{}{}", if self.is_partitioned { "" } else { "ONLY " }, self.table)
    }
}

/// A row for each of its faiss indexes, which are itself if it is one; if there is none, a row without an index. One look
/// answers it all: a second one could find the relation dropped.
const CANDIDATES: &str = r#"
SELECT r.relname::text, r.relkind, x.*
  FROM pg_catalog.pg_class r
  LEFT JOIN (SELECT c.oid, c.relname::text, c.relkind, i.indisvalid AND i.indisready
               FROM pg_catalog.pg_index i
               JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
               JOIN pg_catalog.pg_am a ON a.oid = c.relam
              WHERE (i.indrelid = $1 OR i.indexrelid = $1) AND a.amname = 'faiss') x ON true
 WHERE r.oid = $1
 ORDER BY x.relname
"#;

struct Candidate {
    oid: pg_sys::Oid,
    name: String,
    kind: u8,
    is_usable: bool,
}

const DESCRIPTION: &str = r#"
SELECT pg_catalog.format('%I.%I', n.nspname, t.relname) AS table,
       t.oid AS table_oid,
       t.relkind = 'p' AS is_partitioned,
       pg_catalog.pg_get_indexdef(i.indexrelid, 1, false) AS vector,
       pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS predicate,
       pg_catalog.format('OPERATOR(%I.%s)', m.nspname, o.oprname) AS operator,
       v.atttypmod AS dims,
       v.atttypid AS vector_type,
       (SELECT pg_catalog.quote_ident(a.attname) FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = i.indrelid AND a.attnum = coalesce(
                 CASE WHEN i.indnatts > i.indnkeyatts THEN i.indkey[i.indnkeyatts] END,
                 (SELECT p.indkey[0] FROM pg_catalog.pg_index p
                   WHERE p.indrelid = i.indrelid AND p.indisprimary AND p.indnkeyatts = 1))
           AND a.atttypid IN ('pg_catalog.int2'::pg_catalog.regtype, 'pg_catalog.int4'::pg_catalog.regtype,
                              'pg_catalog.int8'::pg_catalog.regtype)) AS id,
       ARRAY(SELECT relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree(i.indexrelid)
             UNION SELECT i.indexrelid) AS indexes
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_catalog.pg_attribute v ON v.attrelid = i.indexrelid AND v.attnum = 1
  JOIN pg_catalog.pg_opclass k ON k.oid = i.indclass[0]
  JOIN pg_catalog.pg_amop s ON s.amopfamily = k.opcfamily AND s.amopstrategy = 1
  JOIN pg_catalog.pg_operator o ON o.oid = s.amopopr
  JOIN pg_catalog.pg_namespace m ON m.oid = o.oprnamespace
 WHERE i.indexrelid = $1
"#;

/// The faiss index that `relation` means, for those who read it itself: Err if it is partitioned, and has no pages.
pub fn find_plain_index(relation: pg_sys::Oid) -> Result<pg_sys::Oid, SqlError> {
    let index = find(relation)?;
    if index.kind == pg_sys::RELKIND_PARTITIONED_INDEX {
        let message = format!("index \"{}\" is partitioned", index.name);
        return Err(SqlError::new(Code::ERRCODE_WRONG_OBJECT_TYPE, message)
            .hint("Name the index of one of its partitions."));
    }
    Ok(index.oid)
}

/// The faiss index that `relation` is, or the only one that it has.
fn find(relation: pg_sys::Oid) -> Result<Candidate, SqlError> {
    let mut itself = None;
    let mut candidates: Vec<Candidate> = Vec::new();
    catalogue::for_each_row(CANDIDATES, &[(pg_sys::OIDOID, relation.into())], |row| {
        // SAFETY: the query's columns are of these types.
        let (name, kind, oid) = unsafe { (row.get::<String>(1), row.get::<i8>(2), row.get(3)) };
        itself = Some((name.unwrap_or_default(), kind.unwrap_or(0) as u8));
        candidates.extend(oid.map(|oid| {
            // SAFETY: as above.
            let (name, kind, usable) = unsafe { (row.get::<String>(4), row.get::<i8>(5), row.get(6)) };
            let (name, kind) = (name.unwrap_or_default(), kind.unwrap_or(0) as u8);
            Candidate { oid, name, kind, is_usable: usable == Some(true) }
        }));
    });
    let Some((name, kind)) = itself else {
        return Err(no_relation(relation));
    };
    match candidates.len() {
        0 => Err(no_index(&name, kind)),
        1 if candidates[0].is_usable => Ok(candidates.remove(0)),
        1 => {
            let message = format!("index \"{}\" is not valid", candidates[0].name);
            Err(SqlError::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .hint("Rebuild it with REINDEX, or drop it and create it again."))
        }
        _ => {
            let names: Vec<&str> = candidates.iter().map(|index| index.name.as_str()).collect();
            let message = format!("table \"{name}\" has several faiss indexes");
            Err(SqlError::new(Code::ERRCODE_AMBIGUOUS_PARAMETER, message)
                .detail(format!("They are {}.", names.join(", ")))
                .hint("Name the index instead of the table."))
        }
    }
}

/// Err unless the current user owns the index, or is a superuser.
pub fn check_owner(index: pg_sys::Oid) -> Result<(), SqlError> {
    if owns(index) {
        return Ok(());
    }
    let message = format!("must be owner of index {}", relation_name(index)?);
    Err(SqlError::new(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, message))
}

#[cfg(not(any(feature = "pg16", feature = "pg17", feature = "pg18")))]
fn owns(index: pg_sys::Oid) -> bool {
    // SAFETY: looks catalogue rows up by oid.
    unsafe { pg_sys::pg_class_ownercheck(index, pg_sys::GetUserId()) }
}

#[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
fn owns(index: pg_sys::Oid) -> bool {
    // SAFETY: looks catalogue rows up by oid.
    unsafe { pg_sys::object_ownercheck(pg_sys::RelationRelationId, index, pg_sys::GetUserId()) }
}

/// Everything about the index that `relation` means.
pub fn describe(relation: pg_sys::Oid) -> Result<Target, SqlError> {
    describe_index(find(relation)?.oid)
}

/// Everything about an index that was found.
pub fn describe_index(index: pg_sys::Oid) -> Result<Target, SqlError> {
    let mut target = None;
    search_path::with_catalogue_only(|| {
        catalogue::for_each_row(DESCRIPTION, &[(pg_sys::OIDOID, index.into())], |row| {
            // SAFETY: the query's columns are of these types.
            target = Some(unsafe {
                Target {
                    index,
                    table: row.get(1).unwrap_or_default(),
                    table_oid: row.get(2).unwrap_or(pg_sys::InvalidOid),
                    is_partitioned: row.get(3).unwrap_or(false),
                    vector: row.get(4).unwrap_or_default(),
                    predicate: row.get(5),
                    operator: row.get(6).unwrap_or_default(),
                    dims: row.get(7).unwrap_or(-1),
                    vector_type: row.get(8).unwrap_or(pg_sys::InvalidOid),
                    id: row.get(9),
                    indexes: row.get(10).unwrap_or_default(),
                }
            });
        });
    });
    // Functions that put a definition together answer NULL for what was dropped after the query's look.
    target.filter(|target| !target.vector.is_empty()).ok_or_else(index_is_gone)
}

fn no_index(name: &str, kind: u8) -> SqlError {
    match kind {
        b'i' | b'I' => {
            SqlError::new(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("index \"{name}\" is not a faiss index"))
                .hint("Create one with SELECT vekter_create_index('table', 'id', 'embedding').")
        }
        b'r' | b'p' | b'm' => {
            SqlError::new(Code::ERRCODE_UNDEFINED_OBJECT, format!("table \"{name}\" has no faiss index"))
                .hint(format!("Create one with SELECT vekter_create_index('{name}', 'id', 'embedding')."))
        }
        _ => SqlError::new(
            Code::ERRCODE_WRONG_OBJECT_TYPE,
            format!("\"{name}\" is not a table or a faiss index"),
        ),
    }
}

pub fn relation_name(relation: pg_sys::Oid) -> Result<String, SqlError> {
    // SAFETY: looks a catalogue row up by its oid; the answer is null or a palloc'd C string.
    let name = unsafe { pg_sys::get_rel_name(relation) };
    if name.is_null() {
        return Err(no_relation(relation));
    }
    // SAFETY: not null.
    Ok(unsafe { core::ffi::CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

fn no_relation(oid: pg_sys::Oid) -> SqlError {
    let message = format!("relation with OID {} does not exist", oid.to_u32());
    SqlError::new(Code::ERRCODE_UNDEFINED_TABLE, message)
}

/// The relation's name with its schema, quoted.
pub fn qualified_name(relation: pg_sys::Oid) -> Result<String, SqlError> {
    let name = relation_name(relation)?;
    let query = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
    let mut qualified = None;
    catalogue::for_each_row(query, &[(pg_sys::OIDOID, relation.into())], |row| {
        // SAFETY: the query's column is text.
        qualified = unsafe { row.get(1) };
    });
    qualified
        .ok_or_else(|| SqlError::new(Code::ERRCODE_UNDEFINED_TABLE, format!("\"{name}\" does not exist")))
}

/// Of SPI, where a statement is run for the caller.
pub fn spi_error(error: pgrx::spi::Error) -> SqlError {
    SqlError::new(Code::ERRCODE_INTERNAL_ERROR, format!("could not run a statement: {error}"))
}
