//! How `vekter_import()` tells the build below it what to begin with.
//!
//! It runs an ordinary CREATE INDEX, so that privileges, locks, names and dependencies are PostgreSQL's own.

use std::cell::RefCell;

use pgrx::pg_sys::Oid;

use crate::engine::{ExternalIndex, Metric};
use crate::index::interruptible::interruptible;
use crate::pg::error::SqlError;

/// Reads a FAISS index of this metric, of its own where none is given. Err unless it is sound and of a known kind.
pub fn read(bytes: Vec<u8>, metric: Option<Metric>) -> Result<ExternalIndex, SqlError> {
    Ok(interruptible(1, || ExternalIndex::read(bytes, metric))?)
}

struct Source {
    table: Oid,
    index: String,
    foreign: ExternalIndex,
}

thread_local! {
    static SOURCE: RefCell<Option<Source>> = const { RefCell::new(None) };
}

/// Runs `statement`, which creates an index of this name over the table, from `foreign`. Returns whether it did.
pub fn with(table: Oid, index: String, foreign: ExternalIndex, statement: impl FnOnce()) -> bool {
    /// Takes the source back, also when an error unwinds.
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            drop(SOURCE.take());
        }
    }
    SOURCE.set(Some(Source { table, index, foreign }));
    let _restore = Restore;
    statement();
    SOURCE.with_borrow(Option::is_none)
}

/// What an index that is being built is to begin with: given once.
pub fn take(table: Oid, index: &str) -> Option<ExternalIndex> {
    SOURCE.with_borrow_mut(|source| {
        let is_meant = source.as_ref().is_some_and(|source| source.table == table && source.index == index);
        source.take_if(|_| is_meant).map(|source| source.foreign)
    })
}
