//! Invalidation callbacks for relations, operators, functions, types and schemas.

use std::cell::RefCell;

use pgrx::pg_sys::{self, SysCacheIdentifier};

use super::relation::Rel;

/// The object of an invalidation.
#[derive(Clone, Copy)]
pub enum Change {
    Relation(pg_sys::Oid),
    AnyRelation,
    /// An operator, a function, a type or a schema.
    Name(NameKey),
    AnyName,
}

/// A catalogue cache and the hash of an object's oid in it. Different objects can have the same hash.
pub type NameKey = (i32, u32);

/// The caches whose invalidations are reported as `Change::Name`.
const NAME_CACHES: [SysCacheIdentifier::Type; 4] = [
    SysCacheIdentifier::OPEROID,
    SysCacheIdentifier::PROCOID,
    SysCacheIdentifier::TYPEOID,
    SysCacheIdentifier::NAMESPACEOID,
];

/// The key of an object in one of these caches.
pub fn name_key(cache: SysCacheIdentifier::Type, object: pg_sys::Oid) -> NameKey {
    let (cache, nothing) = (cache as i32, pg_sys::Datum::from(0));
    // SAFETY: computes the hash of a key, for a cache that is searched by one oid.
    (cache, unsafe { pg_sys::GetSysCacheHashValue(cache, object.into(), nothing, nothing, nothing) })
}

/// Runs while PostgreSQL processes invalidation messages, in many places: it may drop cached values but must not call
/// PostgreSQL.
pub type Listener = fn(Change);

thread_local! {
    static LISTENERS: RefCell<Vec<Listener>> = const { RefCell::new(Vec::new()) };
}

/// Registers a listener for the life of the backend; registering it again has no effect.
pub fn listen(listener: Listener) {
    let is_first = LISTENERS.with_borrow_mut(|listeners| {
        let is_first = listeners.is_empty();
        if !listeners.iter().any(|known| std::ptr::fn_addr_eq(*known, listener)) {
            listeners.push(listener);
        }
        is_first
    });
    if is_first {
        register();
    }
}

/// Sends a relcache invalidation: to this session now, and to all others at the end of the transaction.
pub fn announce(rel: Rel) {
    // SAFETY: the relation is open, and this is a transaction.
    unsafe { pg_sys::CacheInvalidateRelcache(rel.as_ptr()) };
    tell(Change::Relation(rel.oid()));
}

/// PostgreSQL has few slots for these callbacks in a process, so one of each kind serves all listeners.
fn register() {
    let nothing = pg_sys::Datum::from(0);
    // SAFETY: once for the life of the backend; the callback touches Rust memory only.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), nothing) };
    for cache in NAME_CACHES {
        // SAFETY: once for the life of the backend; the callback touches Rust memory only.
        unsafe { pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(catalogue_changed), nothing) };
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn relation_changed(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let is_any = relation == pg_sys::InvalidOid;
    tell(if is_any { Change::AnyRelation } else { Change::Relation(relation) });
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn catalogue_changed(_argument: pg_sys::Datum, cache: i32, hash: u32) {
    tell(if hash == 0 { Change::AnyName } else { Change::Name((cache, hash)) });
}

fn tell(change: Change) {
    let listeners = LISTENERS.with_borrow(Vec::clone);
    listeners.iter().for_each(|listener| listener(change));
}
