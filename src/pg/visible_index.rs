//! Hides a table's other ordering indexes from the planner while one of them is measured.

use std::cell::Cell;

use pgrx::pg_sys::{self, Oid};

use super::list::{elements, list_of};

thread_local! {
    /// The index that stays visible, if the others of its table are hidden.
    static ONLY: Cell<Option<Oid>> = const { Cell::new(None) };
    /// The hook that was there before.
    static NEXT: Cell<pg_sys::get_relation_info_hook_type> = const { Cell::new(None) };
}

/// Installs the planner's hook, in `_PG_init`.
pub fn initialise() {
    // SAFETY: on the main thread, while the library is loaded.
    unsafe {
        NEXT.set(pg_sys::get_relation_info_hook);
        pg_sys::get_relation_info_hook = Some(get_relation_info);
    }
}

/// Runs `query`, whose plans use no index of the table but `index` to order rows by an operator. Indexes of other kinds
/// stay visible.
pub fn with_only<R>(index: Oid, query: impl FnOnce() -> R) -> R {
    /// Shows the indexes again, also when an error unwinds.
    struct Restore(Option<Oid>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ONLY.set(self.0);
        }
    }
    let _restore = Restore(ONLY.replace(Some(index)));
    query()
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn get_relation_info(
    root: *mut pg_sys::PlannerInfo,
    table: Oid,
    is_parent: bool,
    description: *mut pg_sys::RelOptInfo,
) {
    // SAFETY: PostgreSQL's own arguments; the list holds descriptions of the table's indexes.
    unsafe {
        if let Some(next) = NEXT.get() {
            next(root, table, is_parent, description);
        }
        if let Some(only) = ONLY.get() {
            let indexes = (*description).indexlist;
            if elements::<pg_sys::IndexOptInfo>(indexes).any(|index| (*index).indexoid == only) {
                let is_visible = |index: &*mut pg_sys::IndexOptInfo| {
                    !(**index).amcanorderbyop || (**index).indexoid == only
                };
                (*description).indexlist = list_of(elements(indexes).filter(is_visible));
            }
        }
    }
}
