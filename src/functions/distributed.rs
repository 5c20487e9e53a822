//! Tables whose rows are on other servers: foreign partitions, and tables that Citus distributes. A query over such a
//! table is sent to where the rows are; the index that this server has of it is an empty shell.

use core::ffi::CStr;

use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::target::relation_name;
use crate::pg::catalogue;
use crate::pg::error::SqlError;

/// Citus's catalogue of the tables whose rows are in shards (distributed, reference, local and schema-sharded ones).
const CITUS_CATALOGUE: &CStr = c"pg_dist_partition";

const IS_IN_SHARDS: &str = "
SELECT true FROM pg_catalog.pg_dist_partition
 WHERE logicalrelid IN (SELECT $1::pg_catalog.regclass UNION SELECT relid FROM pg_catalog.pg_partition_ancestors($1))";

const HAS_FOREIGN_PARTITIONS: &str = "
SELECT true FROM pg_catalog.pg_partition_tree($1) t JOIN pg_catalog.pg_class c ON c.oid = t.relid
 WHERE c.relkind = 'f' LIMIT 1";

/// Err if the table's rows are in Citus's shards. `function`: what reads the index, for the hint.
pub fn check_is_here(table: pg_sys::Oid, function: &str) -> Result<(), SqlError> {
    if !is_in_shards(table) {
        return Ok(());
    }
    let name = relation_name(table)?;
    Err(not_here(&name, &format!("{function}()")).hint(format!(
        "Call it for each shard: SELECT * FROM run_command_on_shards('{name}', $$SELECT {function}('%s')$$)."
    )))
}

/// As [`check_is_here`], for `knn_batch()` and `knn_join()`, whose work `knn()` can do.
pub fn check_batch_is_here(table: pg_sys::Oid) -> Result<(), SqlError> {
    if !is_in_shards(table) {
        return Ok(());
    }
    Err(not_here(&relation_name(table)?, "A batch of queries")
        .hint("Call knn() for each query: SELECT ... FROM queries q, LATERAL knn('table', q.embedding, 10)."))
}

fn not_here(table: &str, reader: &str) -> SqlError {
    let message = format!("table \"{table}\" is distributed: its rows and their indexes are in shards");
    SqlError::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, message)
        .detail(format!("{reader} reads the index on this server, which has none of the rows."))
}

/// Whether queries over the table search indexes of other servers, which no search parameter of a call reaches.
pub fn is_searched_elsewhere(table: pg_sys::Oid, is_partitioned: bool) -> bool {
    is_in_shards(table) || is_partitioned && has_row(HAS_FOREIGN_PARTITIONS, table)
}

/// The error for `search` or `recall` arguments for such a table.
pub fn no_parameters(table: &str) -> SqlError {
    let message = format!("search and recall have no effect on rows of {table} that are on other servers");
    SqlError::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, message)
        .detail("The query is sent to those servers without them.")
        .hint(
            "Set the option recall or search of the indexes there, or vekter.recall in the sessions there: with Citus, \
             SET LOCAL and citus.propagate_set_commands = 'local'; of a foreign server, with its option options.",
        )
}

fn is_in_shards(table: pg_sys::Oid) -> bool {
    let schema = pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE);
    // SAFETY: looks a catalogue row up by its key.
    let has_citus =
        unsafe { pg_sys::get_relname_relid(CITUS_CATALOGUE.as_ptr(), schema) } != pg_sys::InvalidOid;
    has_citus && has_row(IS_IN_SHARDS, table)
}

fn has_row(query: &str, table: pg_sys::Oid) -> bool {
    let mut found = false;
    catalogue::for_each_row(query, &[(pg_sys::OIDOID, table.into())], |_| found = true);
    found
}
