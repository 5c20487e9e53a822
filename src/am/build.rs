//! CREATE INDEX and REINDEX.

use core::ffi::c_char;
use std::time::Instant;

use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::indexed_table::IndexedTable;
use super::maintenance::sweep_cache;
use super::resources::resources;
use super::{definition, search_options};
use crate::index::build::{self, Built, Untrained};
use crate::index::create_init_fork;
use crate::index::train::check_factory;
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::progress;
use crate::pg::relation::Rel;

#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn ambuild(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult {
    // SAFETY: PostgreSQL keeps both relations open and locked for the build.
    let [heap, index] = [heap, index].map(|relation| unsafe { Rel::new(relation) });
    if index.blocks() != 0 {
        pgrx::error!("index \"{}\" already contains data", index.name());
    }
    let definition = definition::read(index).or_raise();
    search_options::check(index, &definition).or_raise();
    let mut table = IndexedTable::for_build(heap, index, info);
    let external = super::import::take(heap.oid(), &index.name());
    let started = Instant::now();
    let built = build::build(index, &definition, &mut table, resources(), external).or_raise();
    pgrx::debug1!(
        "index \"{}\" was built in {:.2} s, of which calibration took {:.2} s",
        index.name(),
        started.elapsed().as_secs_f64(),
        built.calibration.as_secs_f64()
    );
    if let Some(untrained) = &built.untrained {
        untrained_notice(&index.name(), untrained).notice();
    }
    if !built.shortage.is_empty() {
        pgrx::notice!("index \"{}\" has {}", index.name(), built.shortage);
    }
    sweep_cache(index);
    result(built)
}

fn untrained_notice(index: &str, Untrained { factory, rows, needed_rows }: &Untrained) -> SqlError {
    let message = format!("index \"{index}\" has too few rows to train \"{factory}\"");
    SqlError::new(Code::ERRCODE_SUCCESSFUL_COMPLETION, message).detail(format!(
        "Training takes {needed_rows} rows, and there are {rows}. The index is exact, and a search reads all of it, until a \
         merge or REINDEX finds enough rows."
    ))
}

fn result(built: Built) -> *mut pg_sys::IndexBuildResult {
    // SAFETY: a zeroed result is a valid one.
    let mut result = unsafe { pgrx::PgBox::<pg_sys::IndexBuildResult>::alloc0() };
    result.heap_tuples = built.heap_rows;
    result.index_tuples = built.index_rows;
    result.into_pg()
}

#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn ambuildempty(index: pg_sys::Relation) {
    // SAFETY: PostgreSQL keeps the relation open and locked.
    let index = unsafe { Rel::new(index) };
    let definition = definition::read(index).or_raise();
    check_factory(&definition).or_raise();
    search_options::check(index, &definition).or_raise();
    create_init_fork(index, &definition).or_raise();
}

#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn ambuildphasename(number: i64) -> *mut c_char {
    // PostgreSQL only reads the name.
    progress::phase_name(number).map_or(core::ptr::null_mut(), |name| name.as_ptr().cast_mut())
}
