//! Whether objects still exist.

use pgrx::pg_sys::{self, SysCacheIdentifier};

/// A relation of this database, as far as this transaction can see.
pub fn relation_exists(oid: u32) -> bool {
    exists(SysCacheIdentifier::RELOID, oid)
}

pub fn database_exists(oid: u32) -> bool {
    exists(SysCacheIdentifier::DATABASEOID, oid)
}

fn exists(cache: SysCacheIdentifier::Type, oid: u32) -> bool {
    // SAFETY: looks a catalogue row up by its oid.
    unsafe {
        pg_sys::SearchSysCacheExists(
            cache as i32,
            pg_sys::Oid::from(oid).into(),
            0.into(),
            0.into(),
            0.into(),
        )
    }
}
