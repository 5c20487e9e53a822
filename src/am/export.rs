//! `vekter_export()`: reads the table under the calling query's snapshot.

use std::io::{self, Write};

use pgrx::pg_sys;

use super::indexed_table::IndexedTable;
use super::resources::resources;
use super::search_options;
use crate::engine::{EngineError, SearchParams, is_interrupted};
use crate::index::export::{self, Exported};
use crate::index::interruptible::interruptible;
use crate::pg::error::SqlError;
use crate::pg::owner::as_owner;
use crate::pg::relation::IndexAndTable;

/// Bytes written between two checks for interrupts.
const MAX_WRITE_BYTES: usize = 16 << 20;

/// One FAISS index of all rows of a faiss index that the calling query sees. `id_attribute`: number of the table's
/// integer column with the ids.
pub fn merge(index: pg_sys::Oid, id_attribute: pg_sys::AttrNumber) -> Result<Export, SqlError> {
    let open = IndexAndTable::open(index)?;
    let (heap, index) = (open.table(), open.index());
    let params = search_options::effective(index, SearchParams::default());
    let outcome = as_owner(heap, || {
        let mut table = IndexedTable::for_query(heap, index, id_attribute);
        export::merge(index, &mut table, resources())
    });
    Ok(Export { exported: outcome?, params })
}

/// A FAISS index with the ids of its rows, and the search parameters to write into it.
pub struct Export {
    exported: Exported,
    params: SearchParams,
}

impl Export {
    pub fn rows(&self) -> usize {
        self.exported.ids.len()
    }

    pub fn write(&mut self, sink: &mut (dyn Write + Send)) -> Result<(), EngineError> {
        let Export { exported: Exported { builder, ids }, params } = self;
        interruptible(1, || {
            builder.write_labelled(ids, params, &mut Interruptible(sink))?;
            Ok(sink.flush()?)
        })
    }
}

/// A writer that stops on interrupts, which FAISS does not check while writing.
struct Interruptible<'a>(&'a mut (dyn Write + Send));

impl Write for Interruptible<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if is_interrupted() {
            return Err(io::ErrorKind::Other.into());
        }
        self.0.write(&bytes[..bytes.len().min(MAX_WRITE_BYTES)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
