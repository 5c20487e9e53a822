//! Acting as a table's owner, as VACUUM and REINDEX do, so that functions in index expressions gain nothing.

use pgrx::pg_sys;

use super::relation::Rel;

/// While it lives, code runs as the owner of a relation and may not change the session; settings that it changes are
/// undone. An error undoes it too.
pub struct ActingAsOwner {
    user: pg_sys::Oid,
    security_context: i32,
    settings_level: i32,
}

impl ActingAsOwner {
    pub fn of(rel: Rel) -> Self {
        let (mut user, mut security_context) = (pg_sys::InvalidOid, 0);
        // SAFETY: called in a transaction; as vacuum_rel does (commands/vacuum.c).
        let settings_level = unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut security_context);
            let restricted = security_context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32;
            pg_sys::SetUserIdAndSecContext(rel.owner(), restricted);
            pg_sys::NewGUCNestLevel()
        };
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        // SAFETY: within the nest level that was just opened.
        unsafe {
            pg_sys::RestrictSearchPath()
        };
        ActingAsOwner { user, security_context, settings_level }
    }
}

impl Drop for ActingAsOwner {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: what was saved in `of`, in the same transaction.
            unsafe {
                pg_sys::AtEOXact_GUC(false, self.settings_level);
                pg_sys::SetUserIdAndSecContext(self.user, self.security_context);
            }
        }
    }
}
