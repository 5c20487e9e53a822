//! `vekter_import()`: creates a faiss index of a table from an external FAISS index.

use core::ffi::CStr;

use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::distributed;
use super::server_file;
use super::target::relation_name;
use super::vekter_create_index::{NewIndex, required};
use crate::am::{self, Metric};
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::memory;
use crate::pg::spi;
use crate::pg::text::{Text, from_server};

/// Arguments are declared as `(regclass, name, name, bytea, text, name)`; the last two may be NULL.
#[pg_extern]
fn vekter_import(
    table: Option<pg_sys::Oid>,
    id_column: Option<&CStr>,
    vector_column: Option<&CStr>,
    data: Option<&[u8]>,
    metric: Option<Text>,
    name: Option<&CStr>,
) -> pg_sys::Oid {
    let import = Import::new(table, id_column, vector_column, metric.as_deref(), name).or_raise();
    let data = required(data, "data").or_raise();
    let mut bytes = Vec::new();
    if check_memory(data.len() as u64).is_err() || bytes.try_reserve_exact(data.len()).is_err() {
        too_large(data.len() as u64).raise();
    }
    bytes.extend_from_slice(data);
    import.run(bytes).or_raise()
}

/// Arguments are declared as `(regclass, name, name, text, text, name)`; the last two may be NULL.
#[pg_extern]
fn vekter_import_file(
    table: Option<pg_sys::Oid>,
    id_column: Option<&CStr>,
    vector_column: Option<&CStr>,
    file: Option<Text>,
    metric: Option<Text>,
    name: Option<&CStr>,
) -> pg_sys::Oid {
    let import = Import::new(table, id_column, vector_column, metric.as_deref(), name).or_raise();
    let file = required(file, "file").or_raise();
    server_file::require_reader("Anyone may call vekter_import() with the bytes of the file, as bytea.")
        .or_raise();
    let bytes = server_file::read(&file, &mut check_memory).or_raise();
    import.run(bytes).or_raise()
}

/// Err unless there is memory for the file, the index made from it, and the copy that is written.
fn check_memory(bytes: u64) -> Result<(), SqlError> {
    match memory::available_bytes() {
        Some(available) if bytes.saturating_mul(3) > available => Err(too_large(bytes)),
        _ => Ok(()),
    }
}

fn too_large(bytes: u64) -> SqlError {
    let message = format!("the FAISS index takes {bytes} bytes, for which there is not enough memory");
    SqlError::new(Code::ERRCODE_OUT_OF_MEMORY, message)
}

struct Import {
    table: pg_sys::Oid,
    id_column: String,
    vector_column: String,
    metric: Option<Metric>,
    name: Option<String>,
}

impl Import {
    fn new(
        table: Option<pg_sys::Oid>,
        id_column: Option<&CStr>,
        vector_column: Option<&CStr>,
        metric: Option<&str>,
        name: Option<&CStr>,
    ) -> Result<Self, SqlError> {
        // SAFETY: raises an error, or returns.
        unsafe { pg_sys::PreventCommandDuringRecovery(c"vekter_import()".as_ptr()) };
        let text = |name: &CStr| from_server(name.to_bytes());
        let metric = metric.map(|metric| {
            Metric::from_name(metric).ok_or_else(|| {
                SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, format!("unknown metric \"{metric}\""))
                    .hint("Valid metrics are l2, ip, cosine and l1.")
            })
        });
        let import = Import {
            table: required(table, "table")?,
            id_column: text(required(id_column, "id_column")?),
            vector_column: text(required(vector_column, "vector_column")?),
            metric: metric.transpose()?,
            name: name.map(text),
        };
        // SAFETY: looks catalogue rows up by oid.
        if unsafe { pg_sys::get_rel_relkind(import.table) } as u8 == pg_sys::RELKIND_PARTITIONED_TABLE {
            let message = format!("\"{}\" is a partitioned table", relation_name(import.table)?);
            return Err(SqlError::new(Code::ERRCODE_FEATURE_NOT_SUPPORTED, message)
                .detail("A FAISS index becomes the index of one table.")
                .hint("Import one for each partition."));
        }
        distributed::check_is_here(import.table, "vekter_import")?;
        Ok(import)
    }

    fn run(self, bytes: Vec<u8>) -> Result<pg_sys::Oid, SqlError> {
        let (table, metric) = (self.table, self.metric);
        let external = am::import::read(bytes, metric)?;
        let request = NewIndex {
            table,
            id_column: self.id_column,
            vector_column: self.vector_column,
            factory: external.factory().to_string(),
            metric: external.metric().name().to_string(),
            name: self.name,
        };
        request.run_by(|name, statement| {
            if am::import::with(table, name.to_string(), external, || spi::run(statement)) {
                return Ok(());
            }
            Err(SqlError::new(Code::ERRCODE_INTERNAL_ERROR, format!("index \"{name}\" was not built")))
        })
    }
}
