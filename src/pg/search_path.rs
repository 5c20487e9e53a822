//! Runs catalogue functions that print names under a search path without user schemas.

use pgrx::pg_sys;

/// Runs `read` with a search path under which PostgreSQL prints qualified names (`pg_get_expr` and the like), so that
/// they mean the same under any search path. An error ends it too: the transaction's abort restores the setting.
pub fn with_catalogue_only<R>(read: impl FnOnce() -> R) -> R {
    let level = SettingsLevel::begin();
    // SAFETY: within the level that was just begun; the strings are constants.
    unsafe {
        pg_sys::set_config_option(
            c"search_path".as_ptr(),
            c"pg_catalog, pg_temp".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        )
    };
    let result = read();
    level.end(true);
    result
}

/// A nesting level of settings: what is set in it ends with it, or with the transaction's abort.
pub(super) struct SettingsLevel(i32);

impl SettingsLevel {
    pub fn begin() -> Self {
        // SAFETY: counts levels; called in a transaction.
        SettingsLevel(unsafe { pg_sys::NewGUCNestLevel() })
    }

    /// `is_done`: as at a commit.
    pub fn end(self, is_done: bool) {
        // SAFETY: a level that was begun and has not ended.
        unsafe { pg_sys::AtEOXact_GUC(is_done, self.0) };
    }
}
