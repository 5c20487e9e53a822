//! Reads the bitmap of a bitmap scan.

use pgrx::pg_sys;

/// Executes `indexes` to build a bitmap in the current memory context, and calls `visit` with its heap blocks in
/// ascending order, each with the offsets of its rows (None: all of them).
///
/// # Safety
/// `indexes` is the child of a bitmap scan that is being executed: a scan of an index, or an AND or OR of such.
pub unsafe fn read(indexes: *mut pg_sys::PlanState, visit: &mut dyn FnMut(u32, Option<&[u16]>)) {
    // SAFETY: the caller's promise; the tag says what the node has made.
    unsafe {
        let bitmap = pg_sys::MultiExecProcNode(indexes);
        if bitmap.is_null() || (*bitmap).type_ != pg_sys::NodeTag::T_TIDBitmap {
            pgrx::error!("a bitmap scan made no bitmap");
        }
        each_page(bitmap.cast(), visit);
        pg_sys::tbm_free(bitmap.cast());
    }
}

/// # Safety
/// `bitmap` is valid and not being iterated over.
#[cfg(not(feature = "pg18"))]
unsafe fn each_page(bitmap: *mut pg_sys::TIDBitmap, visit: &mut dyn FnMut(u32, Option<&[u16]>)) {
    // SAFETY: a page's result is valid until the next call, with the given number of offsets; -1: all.
    unsafe {
        let iterator = pg_sys::tbm_begin_iterate(bitmap);
        loop {
            let page = pg_sys::tbm_iterate(iterator);
            if page.is_null() {
                break;
            }
            let offsets = usize::try_from((*page).ntuples).ok();
            visit((*page).blockno, offsets.map(|count| (*page).offsets.as_slice(count)));
        }
        pg_sys::tbm_end_iterate(iterator);
    }
}

/// # Safety
/// `bitmap` is valid and not being iterated over.
#[cfg(feature = "pg18")]
unsafe fn each_page(bitmap: *mut pg_sys::TIDBitmap, visit: &mut dyn FnMut(u32, Option<&[u16]>)) {
    let mut page = pg_sys::TBMIterateResult::default();
    let mut offsets = [0u16; pg_sys::BLCKSZ as usize / 4];
    // SAFETY: this function owns the result; the array has room for the offsets of any page, at 4 bytes a line pointer.
    unsafe {
        let iterator = pg_sys::tbm_begin_private_iterate(bitmap);
        while pg_sys::tbm_private_iterate(iterator, &mut page) {
            if page.lossy {
                visit(page.blockno, None);
            } else {
                let room = offsets.len() as u32;
                let count = pg_sys::tbm_extract_page_tuple(&mut page, offsets.as_mut_ptr(), room);
                visit(page.blockno, Some(&offsets[..count as usize]));
            }
        }
        pg_sys::tbm_end_private_iterate(iterator);
    }
}
