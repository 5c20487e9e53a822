//! Hides a table's other ordering indexes from the planner while one of them is measured.

use std::cell::Cell;

use pgrx::pg_sys::{self, Oid};

use super::callback::{self, Function};
use super::list::{elements, list_of, references};

thread_local! {
    /// The index that stays visible, if the others of its table are hidden.
    static ONLY: Cell<Option<Oid>> = const { Cell::new(None) };
    /// The hook that was there before.
    static NEXT: Cell<pg_sys::get_relation_info_hook_type> = const { Cell::new(None) };
}

/// Installs the planner's hook, in `_PG_init`.
pub fn initialise() {
    let hook = &raw mut pg_sys::get_relation_info_hook;
    // SAFETY: PostgreSQL's hook, and the library is being loaded.
    NEXT.set(unsafe { callback::install(hook, get_relation_info) });
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
    if let Some(next) = NEXT.get() {
        // SAFETY: PostgreSQL's own arguments, passed on; this frame owns nothing.
        unsafe { next.call_next((root, table, is_parent, description)) };
    }
    if let Some(only) = ONLY.get() {
        // SAFETY: the planner's description of a table, which is being made.
        hide_others(unsafe { &mut *description }, only);
    }
}

fn hide_others(table: &mut pg_sys::RelOptInfo, only: Oid) {
    // SAFETY: the descriptions of the table's indexes, which are made and not changed here.
    let mut indexes = unsafe { references::<pg_sys::IndexOptInfo>(table.indexlist) };
    if indexes.any(|index| index.indexoid == only) {
        let is_visible = |index: &*mut pg_sys::IndexOptInfo| {
            // SAFETY: an element of the list of descriptions.
            let index = unsafe { &**index };
            !index.amcanorderbyop || index.indexoid == only
        };
        // SAFETY: the same list, of which another one is made.
        table.indexlist = list_of(unsafe { elements(table.indexlist) }.filter(is_visible));
    }
}
