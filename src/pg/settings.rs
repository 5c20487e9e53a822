//! The server's settings that we go by.

use pgrx::pg_sys;

macro_rules! settings {
    ($($name:ident: $kind:ty,)*) => {$(
        #[inline]
        pub fn $name() -> $kind {
            // SAFETY: a number of this process, which only the main thread changes, as it does everything of
            // PostgreSQL's.
            unsafe { pg_sys::$name }
        }
    )*};
}

settings! {
    cpu_index_tuple_cost: f64,
    cpu_operator_cost: f64,
    cpu_tuple_cost: f64,
    seq_page_cost: f64,
    effective_cache_size: i32,
    enable_indexscan: bool,
    hash_mem_multiplier: f64,
    maintenance_work_mem: i32,
    max_parallel_maintenance_workers: i32,
    wal_level: i32,
    work_mem: i32,
}
