//! Settings. Any user can change them at any time, except for the cache limit, which applies to the whole server.

use core::ffi::{c_char, c_void};
use std::ffi::CString;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

use crate::engine::{KnownParams, SearchParams};
use crate::pg::error::capitalised;
use crate::pg::text::{from_c, from_server, to_server};

/// Inverted lists to scan in an IVF index; 0 = chosen for the recall, or from the number of lists if it was not
/// measured.
static NPROBE: GucSetting<i32> = GucSetting::<i32>::new(0);
/// Length of the candidate queue in an HNSW index; 0 = chosen for the recall.
static EF_SEARCH: GucSetting<i32> = GucSetting::<i32>::new(0);
/// Over-fetch for lossy codes: candidates per wanted row that are re-ranked by exact distance; 0 = automatic.
static K_FACTOR: GucSetting<f64> = GucSetting::<f64>::new(0.0);
/// Share of the true neighbours to find; 0 = the index's option.
static RECALL: GucSetting<f64> = GucSetting::<f64>::new(0.0);
/// Search parameters in FAISS's syntax; the settings above override them.
static SEARCH: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Treatment of rows that an approximate search finds too late; name and values as in pgvector.
static ITERATIVE_SCAN: GucSetting<IterativeScan> =
    GucSetting::<IterativeScan>::new(IterativeScan::StrictOrder);

#[derive(Clone, Copy, Debug, PartialEq, Eq, pgrx::PostgresGucEnum)]
pub enum IterativeScan {
    #[name = c"strict_order"]
    StrictOrder,
    #[name = c"relaxed_order"]
    RelaxedOrder,
}

/// Size of the delta above which it is sealed, in kB. An exact search of 2,500 rows of 384 dimensions was measured to
/// take less than a millisecond.
static DELTA_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(4096);
pub const MIN_DELTA_LIMIT_KB: i32 = 64;
static BACKGROUND_COMPACTION: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Threads for the queries of a batch; 0 = as many as for a build.
static BATCH_THREADS: GucSetting<i32> = GucSetting::<i32>::new(0);
const MAX_BATCH_THREADS: i32 = 256;

/// Size of the cache folder in MB; -1 = no limit.
static CACHE_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(-1);

/// Registers the settings, in `_PG_init`.
pub fn register() {
    let flags = GucFlags::default();
    GucRegistry::define_int_guc(
        c"vekter.nprobe",
        c"Sets the number of inverted lists that a search of an IVF index scans.",
        c"More lists find more of the nearest rows and take longer. 0 means that vekter chooses.",
        &NPROBE,
        0,
        i32::MAX,
        GucContext::Userset,
        flags,
    );
    GucRegistry::define_int_guc(
        c"vekter.ef_search",
        c"Sets the number of candidates that a search of an HNSW index keeps.",
        c"More candidates find more of the nearest rows and take longer. 0 means that vekter chooses.",
        &EF_SEARCH,
        0,
        i32::MAX,
        GucContext::Userset,
        flags,
    );
    GucRegistry::define_float_guc(
        c"vekter.k_factor",
        c"Sets the number of candidates per row of the result that are ranked by exact distance if the index has lossy codes.",
        c"Values below 1 count as 1. 0 means that vekter chooses.",
        &K_FACTOR,
        0.0,
        f64::from(f32::MAX),
        GucContext::Userset,
        flags,
    );
    GucRegistry::define_float_guc(
        c"vekter.recall",
        c"Sets the share of the true neighbours that a search should find.",
        c"Search parameters that are not set themselves are chosen to reach it. 0 means the option of the index.",
        &RECALL,
        0.0,
        1.0,
        GucContext::Userset,
        flags,
    );
    // SAFETY: the hook is guarded.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            c"vekter.search",
            c"Sets search parameters in FAISS's syntax, such as nprobe=32,efSearch=64.",
            c"An index ignores those that do not fit it. vekter.nprobe, vekter.ef_search and vekter.k_factor override it.",
            &SEARCH,
            GucContext::Userset,
            flags,
            Some(check_search),
            None,
            None,
        );
    }
    GucRegistry::define_enum_guc(
        c"vekter.iterative_scan",
        c"Sets whether a scan returns a row that it finds after it has returned a farther one.",
        c"strict_order leaves such rows out, as PostgreSQL relies on the order; relaxed_order returns them late.",
        &ITERATIVE_SCAN,
        GucContext::Userset,
        flags,
    );
    GucRegistry::define_int_guc(
        c"vekter.delta_limit",
        c"Sets the maximum size of inserted rows in a faiss index; beyond it, they are sealed into a segment.",
        c"A search compares these rows one by one, so a higher limit makes searches slower and inserts faster.",
        &DELTA_LIMIT,
        MIN_DELTA_LIMIT_KB,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_bool_guc(
        c"vekter.background_compaction",
        c"Lets inserts and VACUUM start a background worker that seals and merges segments of a faiss index.",
        c"Without it, VACUUM and inserting sessions do the work themselves.",
        &BACKGROUND_COMPACTION,
        GucContext::Userset,
        flags,
    );
    GucRegistry::define_int_guc(
        c"vekter.batch_threads",
        c"Sets the number of threads that answer the queries of knn_batch() and knn_join().",
        c"0 means one more than max_parallel_maintenance_workers.",
        &BATCH_THREADS,
        0,
        MAX_BATCH_THREADS,
        GucContext::Userset,
        flags,
    );
    GucRegistry::define_int_guc(
        c"vekter.cache_limit",
        c"Limits the disk space of the server's copies of segments.",
        c"The least recently used files are removed first. -1 means no limit.",
        &CACHE_LIMIT,
        -1,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MB,
    );
    #[cfg(feature = "failpoints")]
    failpoints::register();
    // SAFETY: called while the library is loaded; the name is copied.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"vekter".as_ptr()) };
}

/// The search parameters from the settings.
pub fn search_params() -> SearchParams {
    let positive = |value: i32| usize::try_from(value).ok().filter(|&value| value > 0);
    let k_factor = K_FACTOR.get() as f32;
    let named = SearchParams {
        nprobe: positive(NPROBE.get()),
        ef_search: positive(EF_SEARCH.get()),
        k_factor: (k_factor > 0.0).then_some(k_factor.max(1.0)),
        recall: Some(RECALL.get()).filter(|&recall| recall > 0.0),
        ..SearchParams::default()
    };
    let listed = SEARCH.get().unwrap_or_default();
    // Cannot fail: the check hook has parsed it.
    let listed = SearchParams::parse(&from_server(listed.to_bytes()), &KnownParams::any());
    named.or(listed.unwrap_or_default())
}

pub fn iterative_scan() -> IterativeScan {
    ITERATIVE_SCAN.get()
}

/// Checks that `vekter.search` can be parsed. Whether its parameters fit an index is checked by the search.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn check_search(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL passes a place.
    let value = unsafe { *value };
    // SAFETY: it holds a string or NULL.
    let text = unsafe { text(value) };
    let Err(error) = SearchParams::parse(&text, &KnownParams::any()) else {
        return true;
    };
    let (message, detail) = (error.to_string(), error.detail().unwrap_or_default());
    let detail = to_server(&format!("{}. {detail}", capitalised(&message)));
    // SAFETY: copies into the current memory context, which outlives the report of the failed check.
    let detail = unsafe { pg_sys::pstrdup(detail.as_ptr()) };
    // SAFETY: a pointer of this process, for check hooks.
    unsafe { pg_sys::GUC_check_errdetail_string = detail };
    false
}

/// # Safety
/// `value` is NULL or points to a C string.
unsafe fn text(value: *const c_char) -> String {
    // SAFETY: the caller's promise.
    if value.is_null() { String::new() } else { unsafe { from_c(value) } }
}

pub fn delta_limit_bytes() -> u64 {
    u64::from(DELTA_LIMIT.get().max(0).unsigned_abs()) * 1024
}

/// None: as many as for a build.
pub fn batch_threads() -> Option<usize> {
    usize::try_from(BATCH_THREADS.get()).ok().filter(|&threads| threads > 0)
}

/// None: no limit.
pub fn cache_limit_bytes() -> Option<u64> {
    u64::try_from(CACHE_LIMIT.get()).ok().map(|megabytes| megabytes << 20)
}

pub fn background_compaction() -> bool {
    BACKGROUND_COMPACTION.get()
}

#[cfg(feature = "failpoints")]
mod failpoints {
    use core::ffi::{c_char, c_void};
    use std::ffi::CString;

    use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

    use super::text;
    use crate::failpoint;

    static FAILPOINT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
    /// In milliseconds; -1 = no limit.
    static LONGEST_PAUSE: GucSetting<i32> = GucSetting::<i32>::new(-1);

    pub fn register() {
        // SAFETY: the hooks do not unwind.
        unsafe {
            GucRegistry::define_string_guc_with_hooks(
                c"vekter.failpoint",
                c"Arms failpoints, for tests.",
                c"A list of name=action or name=action@arrival, where an action is crash, error, enospc or wait.",
                &FAILPOINT,
                GucContext::Suset,
                GucFlags::default(),
                Some(check),
                Some(assign),
                None,
            )
        };
        // SAFETY: the hook does not unwind.
        unsafe {
            GucRegistry::define_int_guc_with_hooks(
                c"vekter.longest_pause",
                c"Shortens the waits that spare the processor, for tests.",
                c"-1 leaves them as they are.",
                &LONGEST_PAUSE,
                -1,
                i32::MAX,
                GucContext::Suset,
                GucFlags::UNIT_MS,
                None,
                Some(assign_longest_pause),
                None,
            )
        };
    }

    unsafe extern "C-unwind" fn assign_longest_pause(milliseconds: i32, _extra: *mut c_void) {
        failpoint::set_longest_pause(u64::try_from(milliseconds).ok());
    }

    unsafe extern "C-unwind" fn check(
        value: *mut *mut c_char,
        _extra: *mut *mut c_void,
        _source: pg_sys::GucSource::Type,
    ) -> bool {
        // SAFETY: PostgreSQL passes a place.
        let value = unsafe { *value };
        // SAFETY: it holds a string or NULL.
        failpoint::is_valid(&unsafe { text(value) })
    }

    unsafe extern "C-unwind" fn assign(value: *const c_char, _extra: *mut c_void) {
        // SAFETY: PostgreSQL passes a string or NULL.
        failpoint::arm(&unsafe { text(value) });
    }
}
