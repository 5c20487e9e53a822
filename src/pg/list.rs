//! PostgreSQL's lists of pointers (nodes/pg_list.h).

use pgrx::pg_sys;

/// The elements of a list. A null pointer is the empty list.
///
/// # Safety
/// `list` is null or a valid list of pointers, which stays unchanged for as long as the iterator is used.
pub unsafe fn elements<T>(list: *const pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: the caller's promise.
    let cells: &[pg_sys::ListCell] = match unsafe { list.as_ref() } {
        // SAFETY: a list has as many cells as it says.
        Some(list) => unsafe { core::slice::from_raw_parts(list.elements, list.length as usize) },
        None => &[],
    };
    // SAFETY: a list of pointers, by the caller's promise.
    cells.iter().map(|cell| unsafe { cell.ptr_value }.cast())
}

/// References to the elements of a list.
///
/// # Safety
/// As of [`elements`]; and they point to values of type `T`, which stay unchanged for 'a.
pub unsafe fn references<'a, T: 'a>(list: *const pg_sys::List) -> impl Iterator<Item = &'a T> {
    // SAFETY: the caller's promise for the list.
    let elements = unsafe { elements::<T>(list) };
    // SAFETY: the caller's promise for what they point to.
    elements.map(|element| unsafe { &*element })
}

/// Element `at` of a list, which must have so many.
///
/// # Safety
/// `list` is null or a valid list of pointers.
pub unsafe fn element<T>(list: *const pg_sys::List, at: usize) -> *mut T {
    // SAFETY: the caller's promise.
    let found = unsafe { elements(list) }.nth(at);
    found.unwrap_or_else(|| pgrx::error!("a list of PostgreSQL's has fewer elements than expected"))
}

/// A list of these pointers, in the current memory context.
pub fn list_of<T>(elements: impl IntoIterator<Item = *mut T>) -> *mut pg_sys::List {
    // SAFETY: appends to a list that it has made.
    elements
        .into_iter()
        .fold(core::ptr::null_mut(), |list, element| unsafe { pg_sys::lappend(list, element.cast()) })
}
