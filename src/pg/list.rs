//! PostgreSQL's lists of pointers (nodes/pg_list.h).

use pgrx::pg_sys;

/// The elements of a list, which must not change meanwhile. A null pointer is the empty list.
///
/// # Safety
/// `list` is null or a valid list of pointers to `T`, for as long as the iterator is used.
pub unsafe fn elements<T>(list: *const pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: the caller's promise.
    let count = if list.is_null() { 0 } else { unsafe { (*list).length } };
    // SAFETY: as above; there are so many cells.
    (0..count as usize).map(move |at| unsafe { (*(*list).elements.add(at)).ptr_value.cast() })
}

/// Element `at` of a list.
///
/// # Safety
/// `list` is a valid list of pointers to `T` with more elements than `at`.
pub unsafe fn element<T>(list: *const pg_sys::List, at: usize) -> *mut T {
    // SAFETY: the caller's promise.
    unsafe { (*(*list).elements.add(at)).ptr_value.cast() }
}

/// A list of these pointers, in the current memory context.
pub fn list_of<T>(elements: impl IntoIterator<Item = *mut T>) -> *mut pg_sys::List {
    // SAFETY: appends to a list that it has made.
    elements
        .into_iter()
        .fold(core::ptr::null_mut(), |list, element| unsafe { pg_sys::lappend(list, element.cast()) })
}
