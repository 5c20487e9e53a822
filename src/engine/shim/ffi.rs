//! The functions of `shim.cc` and `process.cc`; `shim.h` says what each promises.

// The crate holds FAISS's static library; naming it makes the linker see it.
use faiss_sys as _;
use std::ffi::{c_char, c_int, c_void};

pub const OK: c_int = 0;
pub const INTERRUPTED: c_int = 2;
pub const OUT_OF_MEMORY: c_int = 3;
pub const SINK_STOPPED: c_int = 4;

pub const INNER_PRODUCT: i32 = 0;
pub const L2: i32 = 1;
pub const L1: i32 = 2;

/// An index with its parts: `vekter::Handle` of parts.h.
#[repr(C)]
pub struct RawIndex {
    opaque: [u8; 0],
}

/// Links that were removed from a graph.
#[repr(C)]
pub struct RemovedLinks {
    opaque: [u8; 0],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Description {
    pub rows: i64,
    pub lists: i64,
    pub dims: i32,
    pub metric: i32,
    pub is_trained: i32,
    pub scans_all: i32,
    pub searches_graph: i32,
    pub refines: i32,
    pub stores_rows: i32,
    pub stores_halves: i32,
}

#[repr(C)]
pub struct WrittenParams {
    pub nprobe: i64,
    pub ef_search: i32,
    pub quantizer_ef_search: i32,
    pub k_factor: f32,
    pub query_bits: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct RowCursor {
    pub list: usize,
    pub offset: usize,
}

#[repr(C)]
pub struct RawSearchParams {
    pub nprobe: i64,
    pub ef_search: i64,
    pub k_factor: f32,
    pub quantizer_ef_search: i64,
    pub max_codes: i64,
    pub hamming_threshold: i32,
    pub query_bits: i32,
    pub unrefined: i32,
    pub dead: *const u8,
    pub dead_bytes: usize,
    pub dead_rows: i64,
}

/// Room for a `sigset_t`; glibc's has 128 bytes.
pub type SignalMask = [u64; 16];

unsafe extern "C" {
    pub fn vekter_message() -> *const c_char;
    pub fn vekter_initialise(interrupted: extern "C" fn() -> bool) -> c_int;
    pub fn vekter_set_threads(threads: c_int);
    pub fn vekter_start_openmp_threads(threads: c_int);
    pub fn vekter_skip_destructors(status: c_int);
    pub fn vekter_lower_priority();
    pub fn vekter_block_signals(previous: *mut c_void, previous_bytes: usize) -> c_int;
    pub fn vekter_restore_signals(previous: *const c_void) -> c_int;
    pub fn vekter_index_new(
        factory: *const c_char,
        dims: i32,
        metric: i32,
        index: *mut *mut RawIndex,
    ) -> c_int;
    pub fn vekter_index_open(bytes: *const u8, length: usize, index: *mut *mut RawIndex) -> c_int;
    pub fn vekter_index_resume(
        like: *const RawIndex,
        bytes: *const u8,
        length: usize,
        keeps_rows: c_int,
        index: *mut *mut RawIndex,
    ) -> c_int;
    pub fn vekter_index_free(index: *mut RawIndex);
    pub fn vekter_index_describe(index: *const RawIndex, description: *mut Description);
    pub fn vekter_index_reserve(index: *mut RawIndex, rows: i64) -> c_int;
    pub fn vekter_index_train(
        index: *mut RawIndex,
        rows: i64,
        values: *const f32,
        additive_rows: i64,
    ) -> c_int;
    pub fn vekter_index_add(index: *mut RawIndex, rows: i64, values: *const f32) -> c_int;
    pub fn vekter_index_unlinked_rows(index: *const RawIndex) -> i64;
    pub fn vekter_index_link(index: *mut RawIndex, rows: i64) -> c_int;
    pub fn vekter_index_write(
        index: *const RawIndex,
        sink: extern "C" fn(*mut c_void, *const u8, usize) -> c_int,
        context: *mut c_void,
    ) -> c_int;
    pub fn vekter_index_set_search(index: *mut RawIndex, params: *const WrittenParams);
    pub fn vekter_index_write_labelled(
        index: *const RawIndex,
        labels: *const i64,
        normalises: c_int,
        sink: extern "C" fn(*mut c_void, *const u8, usize) -> c_int,
        context: *mut c_void,
    ) -> c_int;
    pub fn vekter_index_search(
        index: *const RawIndex,
        query: *const f32,
        k: i64,
        params: *const RawSearchParams,
        distances: *mut f32,
        positions: *mut i64,
        found: *mut i64,
    ) -> c_int;
    pub fn vekter_index_search_each(
        index: *const RawIndex,
        count: usize,
        queries: *const f32,
        k: i64,
        params: *const RawSearchParams,
        distances: *mut f32,
        positions: *mut i64,
        found: *mut i64,
    ) -> c_int;
    pub fn vekter_index_can_decode(index: *const RawIndex, can: *mut i32) -> c_int;
    pub fn vekter_index_next_rows(
        index: *const RawIndex,
        cursor: *mut RowCursor,
        limit: usize,
        positions: *mut i64,
        values: *mut f32,
        found: *mut usize,
    ) -> c_int;
    pub fn vekter_index_rows_at(
        index: *const RawIndex,
        count: usize,
        positions: *const i64,
        values: *mut f32,
    ) -> c_int;
    pub fn vekter_index_distances_at(
        index: *const RawIndex,
        query: *const f32,
        count: usize,
        positions: *const i64,
        distances: *mut f32,
        can: *mut i32,
    ) -> c_int;
    pub fn vekter_index_only_code(
        index: *const RawIndex,
        code: *mut u8,
        room: usize,
        length: *mut usize,
    ) -> c_int;
    pub fn vekter_index_imbalance(index: *const RawIndex, factor: *mut f64) -> c_int;
    pub fn vekter_index_lists_by_position(index: *const RawIndex, lists: *mut i32) -> c_int;
    pub fn vekter_index_nearest_lists(
        index: *const RawIndex,
        query: *const f32,
        count: i64,
        lists: *mut i64,
    ) -> c_int;
    pub fn vekter_index_remove_links(
        index: *mut RawIndex,
        hidden: *const u8,
        hidden_bytes: usize,
        links: *mut *mut RemovedLinks,
    ) -> c_int;
    pub fn vekter_index_restore_links(index: *mut RawIndex, links: *mut RemovedLinks);
    pub fn vekter_nearest_rows(
        queries: *const f32,
        query_count: i64,
        rows: *const f32,
        row_count: i64,
        dims: i32,
        metric: i32,
        k: i64,
        distances: *mut f32,
        positions: *mut i64,
    ) -> c_int;
    pub fn vekter_cluster(
        values: *const f32,
        rows: i64,
        dims: i32,
        clusters: i32,
        spherical: c_int,
        iterations: i32,
        seed: i32,
        centroids: *mut f32,
    ) -> c_int;
    pub fn vekter_squared_distances(
        out: *mut f32,
        query: *const f32,
        values: *const f32,
        dims: usize,
        rows: usize,
    );
    pub fn vekter_taxicab_distances(
        out: *mut f32,
        query: *const f32,
        values: *const f32,
        dims: usize,
        rows: usize,
    );
    pub fn vekter_inner_products(
        out: *mut f32,
        query: *const f32,
        values: *const f32,
        dims: usize,
        rows: usize,
    );
    pub fn vekter_distances_each(
        out: *mut f32,
        metric: i32,
        count: usize,
        queries: *const f32,
        values: *const f32,
        dims: usize,
        rows: usize,
    ) -> c_int;
}

/// An index that is deleted with its owner.
#[derive(Debug)]
pub struct Handle(*mut RawIndex);

// SAFETY: neither a faiss::Index nor its parts have thread affinity; they may be used and deleted on any thread.
unsafe impl Send for Handle {}
// SAFETY: functions that take a `*const RawIndex` (describe, write, search, decode) do not change the index, which
// FAISS allows from several threads at once (faiss wiki, "Threads and asynchronous calls"). The one exception, nprobe
// of some fast-scan lists, is guarded by a lock of the handle's (`NprobeLease` in searching.cc). Everything else needs
// `as_mut`.
unsafe impl Sync for Handle {}

impl Handle {
    /// Takes what `make` stores into its argument when it returns `OK`.
    pub fn from_shim(make: impl FnOnce(*mut *mut RawIndex) -> c_int) -> Result<Self, c_int> {
        let mut index = std::ptr::null_mut();
        match make(&mut index) {
            OK => Ok(Self(index)),
            code => Err(code),
        }
    }

    pub fn as_ptr(&self) -> *const RawIndex {
        self.0
    }

    pub fn as_mut(&mut self) -> *mut RawIndex {
        self.0
    }

    pub fn describe(&self) -> Description {
        let mut description = Description::default();
        // SAFETY: the handle is a live index; the description is a local of the declared layout.
        unsafe { vekter_index_describe(self.0, &mut description) };
        description
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle owns the index, made by vekter_index_new or vekter_index_open, and is not used again.
        unsafe { vekter_index_free(self.0) };
    }
}
