//! Queries over the catalogue under its latest snapshot.

use pgrx::pg_sys::{self, SysCacheIdentifier};

use super::snapshot::ActiveSnapshot;
use super::spi::{Plan, Row};

/// Calls `visit` with each row of a query over the catalogue. `arguments`: types and values.
pub fn for_each_row(query: &str, arguments: &[(pg_sys::Oid, pg_sys::Datum)], visit: impl FnMut(&Row)) {
    let (types, values): (Vec<_>, Vec<_>) =
        arguments.iter().map(|&(kind, value)| (kind, Some(value))).unzip();
    let _now = ActiveSnapshot::of_catalogue();
    Plan::prepare(query, &types).for_each_row(&values, visit);
}

/// The base type and type modifier of a type that may be a domain; a column of a domain type has no modifier itself.
pub fn base_type(of: pg_sys::Oid, mut typmod: i32) -> (pg_sys::Oid, i32) {
    // SAFETY: looks catalogue rows up by oid; the modifier is written where it is read.
    let base = unsafe { pg_sys::getBaseTypeAndTypmod(of, &mut typmod) };
    (base, typmod)
}

/// How values of a type are stored.
pub struct Storage {
    /// In bytes; -1: a varlena, -2: a C string.
    pub length: i16,
    pub is_by_value: bool,
    pub alignment: core::ffi::c_char,
}

pub fn storage_of(kind: pg_sys::Oid) -> Storage {
    let mut storage = Storage { length: 0, is_by_value: false, alignment: 0 };
    let Storage { length, is_by_value, alignment } = &mut storage;
    // SAFETY: looks a catalogue row up by its oid, and writes what it says of the type.
    unsafe { pg_sys::get_typlenbyvalalign(kind, length, is_by_value, alignment) };
    storage
}

/// Whether this database has the relation, as visible to this transaction.
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
