//! Resolves a `regclass` argument to a faiss index, and describes how to query its table.

use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::distributed;
use super::predicate::Predicate;
use crate::am::options::OperatorClass;
use crate::pg::catalogue;
use crate::pg::error::SqlError;
use crate::pg::owner::current_user;
use crate::pg::relation::{IndexAndTable, OpenRelation, index_is_gone};
use crate::pg::search_path;
use crate::pg::text::{self, Text};
use crate::vector::ValueKind;

/// A faiss index and the parts of a query over its table. Names are quoted.
#[derive(PartialEq)]
pub struct Target {
    /// The index itself, or the indexes of its partitions.
    pub indexes: Vec<pg_sys::Oid>,
    /// The index itself.
    pub index: pg_sys::Oid,
    pub dims: i32,
    pub vector_type: pg_sys::Oid,
    /// Of the values of that type.
    pub kind: ValueKind,
    pub table_oid: pg_sys::Oid,
    pub table: String,
    pub is_partitioned: bool,
    /// Whether rows of the table are on other servers, whose indexes answer for them.
    pub is_searched_elsewhere: bool,
    /// The indexed column or expression.
    pub vector: String,
    pub predicate: Predicate,
    /// `OPERATOR(schema.op)`.
    pub operator: String,
    /// Integer column that identifies a row: the included column, or else the primary key. None if there is neither.
    pub id: Option<String>,
}

impl Target {
    /// The table as a FROM item: with ONLY for a plain table, because its index does not cover inheriting tables.
    pub fn from(&self) -> String {
        format!("{}{}", if self.is_partitioned { "" } else { "ONLY " }, self.table)
    }

    /// The indexed value of covered rows, NULL for others. For use in conditions, which PostgreSQL evaluates in any
    /// order: the expression may raise an error for rows outside the predicate (for example a cast to one model's
    /// dimensions, of another model's vector).
    pub fn covered_vector(&self) -> String {
        self.predicate.covered(&self.vector)
    }

    /// A condition that is true for covered rows. With it, `ORDER BY` the vector can use a partial index.
    pub fn is_covered(&self) -> String {
        self.predicate.and(&format!("({}) IS NOT NULL", self.covered_vector()))
    }
}

/// For a `pg_index` row i: number of the integer column that identifies a row.
const ID_ATTRIBUTE: &str = r#"
(SELECT a.attnum FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = i.indrelid AND a.attnum = coalesce(
          CASE WHEN i.indnatts > i.indnkeyatts THEN i.indkey[i.indnkeyatts] END,
          (SELECT p.indkey[0] FROM pg_catalog.pg_index p
            WHERE p.indrelid = i.indrelid AND p.indisprimary AND p.indnkeyatts = 1))
    AND a.atttypid IN ('pg_catalog.int2'::pg_catalog.regtype, 'pg_catalog.int4'::pg_catalog.regtype,
                       'pg_catalog.int8'::pg_catalog.regtype))"#;

/// One row for each faiss index of the relation, which may be an index itself; a row without an index if there is none.
/// A single query, because between two the relation could be dropped. Indexes of equal `meaning` give the same answers.
fn candidates_query() -> String {
    format!(
        r#"
SELECT r.relname::text, r.relkind, x.*
  FROM pg_catalog.pg_class r
  LEFT JOIN (SELECT c.oid, c.relname::text, c.relkind, i.indisvalid AND i.indisready AND i.indislive,
                    pg_catalog.jsonb_build_array(pg_catalog.pg_get_indexdef(i.indexrelid, 1, false), k.opcfamily,
                      pg_catalog.pg_get_expr(i.indpred, i.indrelid), {ID_ATTRIBUTE})::pg_catalog.text AS meaning
               FROM pg_catalog.pg_index i
               JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
               JOIN pg_catalog.pg_am a ON a.oid = c.relam
               JOIN pg_catalog.pg_opclass k ON k.oid = i.indclass[0]
              WHERE (i.indrelid = $1 OR i.indexrelid = $1) AND a.amname = 'faiss') x ON true
 WHERE r.oid = $1
 ORDER BY x.relname
"#
    )
}

struct MatchingIndex {
    oid: pg_sys::Oid,
    name: String,
    kind: u8,
    is_usable: bool,
    meaning: String,
}

fn description_query() -> String {
    format!(
        r#"
SELECT pg_catalog.format('%I.%I', n.nspname, t.relname) AS table,
       t.oid AS table_oid,
       t.relkind = 'p' AS is_partitioned,
       pg_catalog.pg_get_indexdef(i.indexrelid, 1, false) AS vector,
       pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS predicate,
       pg_catalog.format('OPERATOR(%I.%s)', m.nspname, o.oprname) AS operator,
       v.atttypmod AS dims,
       v.atttypid AS vector_type,
       (SELECT pg_catalog.quote_ident(c.attname) FROM pg_catalog.pg_attribute c
         WHERE c.attrelid = i.indrelid AND c.attnum = {ID_ATTRIBUTE}) AS id,
       ARRAY(SELECT relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree(i.indexrelid)
             UNION SELECT i.indexrelid) AS indexes,
       k.opcfamily, k.opcintype
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_catalog.pg_attribute v ON v.attrelid = i.indexrelid AND v.attnum = 1
  JOIN pg_catalog.pg_opclass k ON k.oid = i.indclass[0]
  JOIN pg_catalog.pg_amop s ON s.amopfamily = k.opcfamily AND s.amopstrategy = 1
  JOIN pg_catalog.pg_operator o ON o.oid = s.amopopr
  JOIN pg_catalog.pg_namespace m ON m.oid = o.oprnamespace
 WHERE i.indexrelid = $1
"#
    )
}

/// Opens the faiss index that `relation` is or has, and its table, for `function`, which reads the index's pages. Err
/// if the index is partitioned, or the rows are on other servers.
pub fn open_plain_index(relation: pg_sys::Oid, function: &str) -> Result<IndexAndTable, SqlError> {
    let table = OpenRelation::table_of(relation);
    let index = find(relation)?;
    if index.kind == pg_sys::RELKIND_PARTITIONED_INDEX {
        let message = format!("index \"{}\" is partitioned", index.name);
        return Err(SqlError::new(Code::ERRCODE_WRONG_OBJECT_TYPE, message)
            .hint("Name the index of one of its partitions."));
    }
    let open = IndexAndTable::in_table(table, index.oid)?;
    distributed::check_is_here(open.table().oid(), function)?;
    Ok(open)
}

/// The faiss index that `relation` is, or the one it has; if several give the same answers, the newest.
fn find(relation: pg_sys::Oid) -> Result<MatchingIndex, SqlError> {
    let mut itself = None;
    let mut candidates: Vec<MatchingIndex> = Vec::new();
    catalogue::for_each_row(&candidates_query(), &[(pg_sys::OIDOID, relation.into())], |row| {
        type Relation = (Option<Text>, Option<i8>);
        // SAFETY: the query's first columns are of these types.
        let (name, kind): Relation = unsafe { row.columns() };
        itself = Some((name.unwrap_or_default().into_string(), kind.unwrap_or(0) as u8));
        type Index = (Option<pg_sys::Oid>, Option<Text>, Option<i8>, Option<bool>, Option<Text>);
        // SAFETY: the query's other columns are of these types.
        let (oid, name, kind, is_usable, meaning): Index = unsafe { row.columns_from(3) };
        candidates.extend(oid.map(|oid| MatchingIndex {
            oid,
            name: name.unwrap_or_default().into_string(),
            kind: kind.unwrap_or(0) as u8,
            is_usable: is_usable == Some(true),
            meaning: meaning.unwrap_or_default().into_string(),
        }));
    });
    let (name, kind) = itself.ok_or_else(|| no_relation(relation))?;
    if candidates.is_empty() {
        return Err(no_index(&name, kind));
    }
    // A running or cancelled rebuild has an invalid index beside the valid one.
    let (usable, others): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|index| index.is_usable);
    if usable.iter().any(|index| index.meaning != usable[0].meaning) {
        return Err(several_indexes(&name, &usable));
    }
    usable.into_iter().max_by_key(|index| index.oid.to_u32()).ok_or_else(|| not_valid(&name, &others))
}

fn not_valid(table: &str, indexes: &[MatchingIndex]) -> SqlError {
    let error = |message| SqlError::new(Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message);
    let hint = "Rebuild it with REINDEX, or drop it and create it again.";
    match indexes {
        [index] => error(format!("index \"{}\" is not valid", index.name)).hint(hint),
        _ => error(format!("table \"{table}\" has no valid faiss index"))
            .detail(format!("Those that are not valid are {}.", names(indexes)))
            .hint("Rebuild one of them with REINDEX, and drop the others."),
    }
}

fn several_indexes(table: &str, indexes: &[MatchingIndex]) -> SqlError {
    let message = format!("table \"{table}\" has several faiss indexes");
    SqlError::new(Code::ERRCODE_AMBIGUOUS_PARAMETER, message)
        .detail(format!(
            "They are {}, and differ in their vector, operator class, predicate or id column.",
            names(indexes)
        ))
        .hint("Name the index instead of the table.")
}

fn names(indexes: &[MatchingIndex]) -> String {
    let names: Vec<&str> = indexes.iter().map(|index| index.name.as_str()).collect();
    names.join(", ")
}

/// Err unless the current user may maintain the index: as its owner or, since PostgreSQL 17, with MAINTAIN on its
/// table.
pub fn check_maintainer(index: pg_sys::Oid) -> Result<(), SqlError> {
    if may_maintain(index) {
        return Ok(());
    }
    // The wording of REINDEX.
    let refusal = if cfg!(any(feature = "pg17", feature = "pg18")) {
        "permission denied for index"
    } else {
        "must be owner of index"
    };
    let message = format!("{refusal} {}", relation_name(index)?);
    Err(SqlError::new(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, message))
}

#[cfg(not(any(feature = "pg16", feature = "pg17", feature = "pg18")))]
fn may_maintain(index: pg_sys::Oid) -> bool {
    // SAFETY: looks catalogue rows up by oid.
    unsafe { pg_sys::pg_class_ownercheck(index, current_user()) }
}

#[cfg(feature = "pg16")]
fn may_maintain(index: pg_sys::Oid) -> bool {
    // SAFETY: looks catalogue rows up by oid.
    unsafe { pg_sys::object_ownercheck(pg_sys::RelationRelationId, index, current_user()) }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn may_maintain(index: pg_sys::Oid) -> bool {
    // SAFETY: looks a catalogue row up by its oid.
    let table = unsafe { pg_sys::IndexGetRelation(index, true) };
    if table == pg_sys::InvalidOid {
        return false;
    }
    let maintain = pg_sys::AclMode::from(pg_sys::ACL_MAINTAIN);
    // SAFETY: looks catalogue rows up by oid.
    let found = unsafe { pg_sys::pg_class_aclcheck(table, current_user(), maintain) };
    found == pg_sys::AclResult::ACLCHECK_OK
}

/// Resolves `relation` and describes its index.
pub fn describe(relation: pg_sys::Oid) -> Result<Target, SqlError> {
    let _table = OpenRelation::table_of(relation);
    describe_index(find(relation)?.oid)
}

/// Describes an index that has been found.
pub fn describe_index(index: pg_sys::Oid) -> Result<Target, SqlError> {
    let mut target = None;
    search_path::with_catalogue_only(|| {
        catalogue::for_each_row(&description_query(), &[(pg_sys::OIDOID, index.into())], |row| {
            type Table = (Option<Text>, Option<pg_sys::Oid>, Option<bool>);
            // SAFETY: the query's first columns are of these types.
            let (table, table_oid, is_partitioned): Table = unsafe { row.columns() };
            type Vector = (Option<Text>, Option<Text>, Option<Text>, Option<i32>, Option<pg_sys::Oid>);
            // SAFETY: the query's next columns are of these types.
            let (vector, predicate, operator, dims, declared): Vector = unsafe { row.columns_from(4) };
            type Last = (Option<Text>, Option<Vec<pg_sys::Oid>>, Option<pg_sys::Oid>, Option<pg_sys::Oid>);
            // SAFETY: the query's last columns are of these types.
            let (id, indexes, family, input): Last = unsafe { row.columns_from(9) };
            let declared = declared.unwrap_or(pg_sys::InvalidOid);
            let (vector_type, dims) = catalogue::base_type(declared, dims.unwrap_or(-1));
            let [family, input] = [family, input].map(|oid| oid.unwrap_or(pg_sys::InvalidOid));
            let table_oid = table_oid.unwrap_or(pg_sys::InvalidOid);
            let is_partitioned = is_partitioned.unwrap_or(false);
            target = Some(Target {
                index,
                table: table.unwrap_or_default().into_string(),
                table_oid,
                is_partitioned,
                is_searched_elsewhere: distributed::is_searched_elsewhere(table_oid, is_partitioned),
                vector: vector.unwrap_or_default().into_string(),
                predicate: Predicate::new(predicate.map(Text::into_string)),
                operator: operator.unwrap_or_default().into_string(),
                dims,
                vector_type,
                kind: OperatorClass { family, input }.value_kind().unwrap_or_default(),
                id: id.map(Text::into_string),
                indexes: indexes.unwrap_or_default(),
            });
        });
    });
    // Catalogue functions that print definitions return NULL for objects dropped after the query's snapshot.
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
        _ => no_table(name, kind),
    }
}

/// The error for a relation that can have no index.
pub fn no_table(name: &str, kind: u8) -> SqlError {
    let (kind, hint) = match kind {
        b'v' => ("a view", "Name the table that the view reads from, or the index of that table."),
        b'f' => ("a foreign table", "Copy its rows into a table or a materialized view, and index that."),
        b't' => ("a TOAST table", "Name the table to which it belongs."),
        b'S' => ("a sequence", "Name a table, or its faiss index."),
        b'c' => ("a composite type", "Name a table, or its faiss index."),
        b'i' | b'I' => ("an index", "Name its table."),
        _ => ("not a table", "Name a table, or its faiss index."),
    };
    SqlError::new(Code::ERRCODE_WRONG_OBJECT_TYPE, format!("\"{name}\" is {kind}"))
        .detail("Only tables and materialized views have faiss indexes.")
        .hint(hint)
}

pub fn relation_name(relation: pg_sys::Oid) -> Result<String, SqlError> {
    // SAFETY: looks a catalogue row up by its oid; the answer is null or a palloc'd C string.
    let name = unsafe { pg_sys::get_rel_name(relation) };
    if name.is_null() {
        return Err(no_relation(relation));
    }
    // SAFETY: not null.
    Ok(unsafe { text::from_c(name) })
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
        qualified = unsafe { row.text(1) };
    });
    qualified
        .ok_or_else(|| SqlError::new(Code::ERRCODE_UNDEFINED_TABLE, format!("\"{name}\" does not exist")))
}
