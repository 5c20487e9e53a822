//! `vekter_compact()`: an index becomes one segment without dead rows.

use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::target;
use crate::am::maintenance;
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::relation::OpenRelation;

#[pg_extern]
fn vekter_compact(index: pg_sys::Oid) {
    // SAFETY: a name for the error message.
    unsafe {
        pg_sys::PreventCommandDuringRecovery(c"vekter_compact()".as_ptr());
        pg_sys::PreventCommandIfReadOnly(c"vekter_compact()".as_ptr());
    }
    compact(index).or_raise();
}

fn compact(relation: pg_sys::Oid) -> Result<(), SqlError> {
    let index = target::find_plain_index(relation)?;
    target::check_owner(index)?;
    let Some(index) = OpenRelation::open(index, maintenance::INDEX_LOCK) else {
        return Err(SqlError::new(Code::ERRCODE_UNDEFINED_OBJECT, "the index was dropped concurrently"));
    };
    maintenance::compact_everything(index.rel())
}
