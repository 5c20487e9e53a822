//! `vekter_compact()`: merges an index into one segment without dead rows.

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::target;
use crate::am::maintenance;
use crate::pg::error::{OrRaise, SqlError};

#[pg_extern]
fn vekter_compact(index: pg_sys::Oid) {
    let name = c"vekter_compact()".as_ptr();
    // SAFETY: a name for the error message.
    unsafe { pg_sys::PreventCommandDuringRecovery(name) };
    // SAFETY: a name for the error message.
    unsafe { pg_sys::PreventCommandIfReadOnly(name) };
    compact(index).or_raise();
}

fn compact(relation: pg_sys::Oid) -> Result<(), SqlError> {
    // Without a lock on the table, which other sessions would wait for until the merge is over.
    let index = target::open_plain_index(relation, "vekter_compact")?.index().oid();
    target::check_maintainer(index)?;
    let index = maintenance::IndexToCompact::lock(index)?;
    maintenance::compact_everything(&index)
}
