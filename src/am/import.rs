//! Passes the external index of `vekter_import()` to the index build.
//!
//! `vekter_import()` runs an ordinary CREATE INDEX, so that privileges, locks, names and dependencies are PostgreSQL's
//! own.

use std::cell::RefCell;

use pgrx::pg_sys::Oid;

use crate::engine::{ExternalIndex, Metric};
use crate::index::interruptible::interruptible;
use crate::pg::error::SqlError;

/// Parses a FAISS index of `metric`, or of the file's own metric. Err unless it is valid and of a supported kind.
pub fn read(bytes: Vec<u8>, metric: Option<Metric>) -> Result<ExternalIndex, SqlError> {
    Ok(interruptible(1, || ExternalIndex::read(bytes, metric))?)
}

struct ImportSource {
    table: Oid,
    index: String,
    external: ExternalIndex,
}

thread_local! {
    static SOURCE: RefCell<Option<ImportSource>> = const { RefCell::new(None) };
}

/// Runs `statement`, which creates an index of this name on the table, from `external`. Returns whether the build used
/// it.
pub fn with(table: Oid, index: String, external: ExternalIndex, statement: impl FnOnce()) -> bool {
    /// Clears the source, also when an error unwinds.
    struct ClearSource;
    impl Drop for ClearSource {
        fn drop(&mut self) {
            drop(SOURCE.take());
        }
    }
    SOURCE.set(Some(ImportSource { table, index, external }));
    let _restore = ClearSource;
    statement();
    SOURCE.with_borrow(Option::is_none)
}

/// The external index for the index being built, if there is one. Can be taken once.
pub fn take(table: Oid, index: &str) -> Option<ExternalIndex> {
    SOURCE.with_borrow_mut(|source| {
        let is_meant = source.as_ref().is_some_and(|source| source.table == table && source.index == index);
        source.take_if(|_| is_meant).map(|source| source.external)
    })
}
