//! Runs code as the owner of a table: expressions of its indexes are the owner's code, not the caller's.

use pgrx::pg_sys;

use super::relation::Rel;
use super::search_path::SettingsLevel;

/// Runs `work` as the owner of `relation`, as CREATE INDEX and amcheck do: functions in its indexes have only the
/// owner's privileges, and settings they change are restored. An error ends it too: the transaction's abort restores
/// user and settings.
pub fn as_owner<R>(relation: Rel, work: impl FnOnce() -> R) -> R {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads this process's state into the two variables.
    unsafe { pg_sys::GetUserIdAndSecContext(&mut user, &mut context) };
    set_user(relation.owner(), context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32);
    let level = SettingsLevel::begin();
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: within the level that was just begun.
    unsafe {
        pg_sys::RestrictSearchPath()
    };
    let result = work();
    level.end(false);
    set_user(user, context);
    result
}

pub fn current_user() -> pg_sys::Oid {
    // SAFETY: reads this process's state.
    unsafe { pg_sys::GetUserId() }
}

fn set_user(user: pg_sys::Oid, context: i32) {
    // SAFETY: this process's state, which the transaction's abort restores.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
}
