//! Runs code as the owner of a table: expressions of its indexes are the owner's code, not the caller's.

use pgrx::pg_sys;

use super::relation::Rel;

/// Runs `work` as the owner of `relation`, as CREATE INDEX and amcheck do: functions in its indexes have only the
/// owner's privileges, and settings they change are restored. An error ends it too: the transaction's abort restores
/// user and settings.
pub fn as_owner<R>(relation: Rel, work: impl FnOnce() -> R) -> R {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads and sets this backend's own state; it is restored below.
    let level = unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let restricted = context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32;
        pg_sys::SetUserIdAndSecContext(relation.owner(), restricted);
        pg_sys::NewGUCNestLevel()
    };
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: within the level that was just begun.
    unsafe {
        pg_sys::RestrictSearchPath()
    };
    let result = work();
    // SAFETY: the level was begun above, and user and context are those that were there.
    unsafe {
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(user, context);
    }
    result
}
