//! Runs catalogue functions that print names under a search path without user schemas.

use pgrx::pg_sys;

/// Runs `read` with a search path under which PostgreSQL prints qualified names (`pg_get_expr` and the like), so that
/// they mean the same under any search path. An error ends it too: the transaction's abort restores the setting.
pub fn with_catalogue_only<R>(read: impl FnOnce() -> R) -> R {
    // SAFETY: a new nesting level of settings, ended below; the strings are constants.
    let level = unsafe {
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::set_config_option(
            c"search_path".as_ptr(),
            c"pg_catalog, pg_temp".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        level
    };
    let result = read();
    // SAFETY: the level was begun above.
    unsafe { pg_sys::AtEOXact_GUC(true, level) };
    result
}
