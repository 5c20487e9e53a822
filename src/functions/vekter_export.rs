//! `vekter_export()`: exports an index as one FAISS file, with the rows' ids as labels.

use std::io::{self, BufWriter, Write};

use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::access;
use super::server_file::{self, NewFile, file_error};
use super::target::{self, Target};
use crate::am;
use crate::am::export::Export;
use crate::pg::bytes::{MAX_BYTES, NewBytes};
use crate::pg::catalogue;
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::memory;
use crate::pg::text::{self, Text};

const NAME: &str = "vekter_export";
/// FAISS writes inverted lists one at a time, and most of them are short, so buffer them.
const WRITE_BYTES: usize = 1 << 20;

/// Arguments are declared as `(regclass)`.
#[pg_extern]
fn vekter_export(index: pg_sys::Oid) -> NewBytes {
    to_bytes(index).or_raise()
}

/// Arguments are declared as `(regclass, text)`. Returns the number of rows.
#[pg_extern]
fn vekter_export_file(index: pg_sys::Oid, file: Text) -> i64 {
    to_file(index, &file).or_raise()
}

fn to_bytes(relation: pg_sys::Oid) -> Result<NewBytes, SqlError> {
    let mut exported = merge(relation)?;
    let mut length = Length(0);
    exported.write(&mut length)?;
    let available = memory::available_bytes();
    if length.0 > MAX_BYTES as u64 || available.is_some_and(|available| length.0 > available) {
        let message = format!("the index takes {} bytes, which are too many for a bytea", length.0);
        return Err(SqlError::new(Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED, message)
            .hint("Write it to a file on the server with vekter_export(index, file)."));
    }
    let mut bytes = NewBytes::zeroed(length.0 as usize);
    exported.write(&mut bytes.as_mut_slice())?;
    Ok(bytes)
}

fn to_file(relation: pg_sys::Oid, name: &str) -> Result<i64, SqlError> {
    server_file::require_writer(
        "Anyone may call vekter_export(index), which returns the bytes of the file.",
    )?;
    let file = NewFile::create(name)?;
    let mut exported = merge(relation)?;
    let mut writer = BufWriter::with_capacity(WRITE_BYTES, file);
    exported.write(&mut writer).map_err(|error| match error {
        am::EngineError::Io(error) => file_error("write", name, &error),
        other => other.into(),
    })?;
    let file = writer.into_inner().map_err(|error| file_error("write", name, error.error()))?;
    file.publish()?;
    Ok(exported.rows() as i64)
}

fn merge(relation: pg_sys::Oid) -> Result<Export, SqlError> {
    let open = target::open_plain_index(relation, NAME)?;
    let index = open.index().oid();
    let target = access::require_all_rows(index, NAME)?;
    am::export::merge(index, id_attribute(&target)?)
}

fn id_attribute(target: &Target) -> Result<i16, SqlError> {
    let query = "SELECT a.attnum FROM pg_catalog.pg_attribute a \
                 WHERE a.attrelid = $1 AND pg_catalog.quote_ident(a.attname) = $2 AND NOT a.attisdropped";
    let name = text::datum(access::id_column(target, NAME)?);
    let arguments = [(pg_sys::OIDOID, target.table_oid.into()), (pg_sys::TEXTOID, name)];
    let mut attribute = None;
    catalogue::for_each_row(query, &arguments, |row| {
        // SAFETY: the query's column is int2.
        attribute = unsafe { row.get(1) };
    });
    attribute.ok_or_else(|| {
        SqlError::new(Code::ERRCODE_UNDEFINED_COLUMN, "the id column was dropped concurrently")
    })
}

/// A writer that only counts bytes.
struct Length(u64);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
