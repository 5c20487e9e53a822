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
    let index = target::find_single_index(relation)?;
    // SAFETY: called in a transaction.
    let is_owner = unsafe { is_owner(index) };
    if !is_owner {
        let message = format!("must be owner of index {}", target::relation_name(index)?);
        return Err(SqlError::new(Code::ERRCODE_INSUFFICIENT_PRIVILEGE, message));
    }
    let Some(index) = OpenRelation::open(index, maintenance::INDEX_LOCK) else {
        return Err(SqlError::new(Code::ERRCODE_UNDEFINED_OBJECT, "the index was dropped concurrently"));
    };
    maintenance::compact_everything(index.rel())
}

/// # Safety
/// Called in a transaction.
#[cfg(not(any(feature = "pg16", feature = "pg17", feature = "pg18")))]
unsafe fn is_owner(index: pg_sys::Oid) -> bool {
    // SAFETY: looks catalogue rows up by oid.
    unsafe { pg_sys::pg_class_ownercheck(index, pg_sys::GetUserId()) }
}

/// # Safety
/// Called in a transaction.
#[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
unsafe fn is_owner(index: pg_sys::Oid) -> bool {
    // SAFETY: looks catalogue rows up by oid.
    unsafe { pg_sys::object_ownercheck(pg_sys::RelationRelationId, index, pg_sys::GetUserId()) }
}
