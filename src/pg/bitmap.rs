//! Reads the bitmap of a bitmap scan.

use pgrx::pg_sys;

use super::node::tag;

/// Executes `indexes` to build a bitmap in the current memory context, and calls `visit` with its heap blocks in
/// ascending order, each with the offsets of its rows (None: all of them).
///
/// # Safety
/// `indexes` is the child of a bitmap scan that is being executed: a scan of an index, or an AND or OR of such.
pub unsafe fn read(indexes: *mut pg_sys::PlanState, visit: &mut dyn FnMut(u32, Option<&[u16]>)) {
    // SAFETY: the caller's promise.
    let bitmap = unsafe { pg_sys::MultiExecProcNode(indexes) };
    // SAFETY: the node that was made, or null.
    if unsafe { tag(bitmap) } != Some(pg_sys::NodeTag::T_TIDBitmap) {
        pgrx::error!("a bitmap scan made no bitmap");
    }
    // SAFETY: the tag says that it is a bitmap, and it was just made.
    unsafe { each_page(bitmap.cast(), visit) };
    // SAFETY: the same bitmap, which nobody reads any more.
    unsafe { pg_sys::tbm_free(bitmap.cast()) };
}

/// # Safety
/// `bitmap` is valid and not being iterated over.
#[cfg(not(feature = "pg18"))]
unsafe fn each_page(bitmap: *mut pg_sys::TIDBitmap, visit: &mut dyn FnMut(u32, Option<&[u16]>)) {
    // SAFETY: the caller's promise.
    let iterator = unsafe { pg_sys::tbm_begin_iterate(bitmap) };
    loop {
        // SAFETY: begun above.
        let page = unsafe { pg_sys::tbm_iterate(iterator) };
        // SAFETY: null, or a result that is valid until the next call.
        let Some(page) = (unsafe { page.as_ref() }) else {
            break;
        };
        // -1: all.
        let offsets = usize::try_from(page.ntuples).ok();
        // SAFETY: the page has as many offsets as it says.
        visit(page.blockno, offsets.map(|count| unsafe { page.offsets.as_slice(count) }));
    }
    // SAFETY: begun above.
    unsafe { pg_sys::tbm_end_iterate(iterator) };
}

/// # Safety
/// `bitmap` is valid and not being iterated over.
#[cfg(feature = "pg18")]
unsafe fn each_page(bitmap: *mut pg_sys::TIDBitmap, visit: &mut dyn FnMut(u32, Option<&[u16]>)) {
    let mut page = pg_sys::TBMIterateResult::default();
    let mut offsets = [0u16; pg_sys::BLCKSZ as usize / 4];
    // SAFETY: the caller's promise.
    let iterator = unsafe { pg_sys::tbm_begin_private_iterate(bitmap) };
    // SAFETY: begun above; this function owns the result.
    while unsafe { pg_sys::tbm_private_iterate(iterator, &mut page) } {
        if page.lossy {
            visit(page.blockno, None);
        } else {
            let room = offsets.len() as u32;
            // SAFETY: a page that is not lossy; the array has room for the offsets of any, at 4 bytes a line pointer.
            let count = unsafe { pg_sys::tbm_extract_page_tuple(&mut page, offsets.as_mut_ptr(), room) };
            visit(page.blockno, Some(&offsets[..count as usize]));
        }
    }
    // SAFETY: begun above.
    unsafe { pg_sys::tbm_end_private_iterate(iterator) };
}
