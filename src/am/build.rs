//! CREATE INDEX and REINDEX.

use core::ffi::{c_char, c_void};
use std::time::Instant;

use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::maintenance::sweep_cache;
use super::resources::resources;
use super::table_scan::{Collector, collect, id_bytes, integer};
use super::{definition, search_options, tid_of};
use crate::index::build::{self, Built, Untrained};
use crate::index::create_init_fork;
use crate::index::error::IndexError;
use crate::index::table::{Heap, Identified, VisitRow};
use crate::index::train::check_factory;
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::progress;
use crate::pg::relation::Rel;
use crate::vector::Vector;

#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn ambuild(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
) -> *mut pg_sys::IndexBuildResult {
    // SAFETY: PostgreSQL keeps both relations open and locked for the build.
    let (heap, index) = unsafe { (Rel::new(heap), Rel::new(index)) };
    if index.blocks() != 0 {
        pgrx::error!("index \"{}\" already contains data", index.name());
    }
    let definition = definition::read(index).or_raise();
    search_options::check(index, &definition).or_raise();
    let mut table = Table { heap, index, info };
    let foreign = super::import::take(heap.oid(), &index.name());
    let started = Instant::now();
    let built = build::build(index, &definition, &mut table, resources(), foreign).or_raise();
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

/// The table under the index, scanned by its own access method.
struct Table {
    heap: Rel,
    index: Rel,
    info: *mut pg_sys::IndexInfo,
}

impl Table {
    /// Shows `collect` the rows in a run of blocks; returns how many there are. `sample`: also those that others have not
    /// committed, unless the build reads by a snapshot, as a concurrent one does.
    ///
    /// # Safety
    /// `state` is what `collect` takes for its last argument.
    unsafe fn scan_blocks<S>(
        &mut self,
        start: u32,
        blocks: u32,
        sample: bool,
        collect: pg_sys::IndexBuildCallback,
        state: &mut S,
    ) -> f64 {
        // SAFETY: relations and info come from ambuild's caller; the rest is the caller's promise. Synchronised scans start
        // anywhere, so a run of blocks forbids them. No progress: it would count runs.
        unsafe {
            let any_visible = sample && !(*self.info).ii_Concurrent;
            pg_sys::table_index_build_range_scan(
                self.heap.as_ptr(),
                self.index.as_ptr(),
                self.info,
                false,
                any_visible,
                false,
                start,
                blocks,
                collect,
                core::ptr::from_mut(state).cast::<c_void>(),
                core::ptr::null_mut(),
            )
        }
    }
}

impl Heap for Table {
    fn blocks(&self) -> u32 {
        self.heap.blocks()
    }

    fn scan(
        &mut self,
        start: u32,
        blocks: u32,
        sample: bool,
        visit: &mut VisitRow,
    ) -> Result<f64, IndexError> {
        let mut collector = Collector { visit, outcome: Ok(()) };
        // SAFETY: the state is the collector that `collect` takes.
        let heap_rows = unsafe { self.scan_blocks(start, blocks, sample, Some(collect), &mut collector) };
        collector.outcome.map(|()| heap_rows)
    }

    fn identify(
        &mut self,
        start: u32,
        blocks: u32,
        visit: &mut dyn FnMut(Identified) -> Result<(), IndexError>,
    ) -> Result<f64, IndexError> {
        // SAFETY: PostgreSQL keeps the relation open for the build; the second column of an index is the id, and the
        // array has room for any index.
        let (columns, attribute) =
            unsafe { ((*self.info).ii_NumIndexAttrs, (*self.info).ii_IndexAttrNumbers[1]) };
        let id_bytes = (columns > 1).then(|| id_bytes(self.heap, attribute));
        let mut identifier = Identifier { id_bytes, visit, outcome: Ok(()) };
        // SAFETY: the state is the identifier that `identify` takes.
        let heap_rows = unsafe { self.scan_blocks(start, blocks, false, Some(identify), &mut identifier) };
        identifier.outcome.map(|()| heap_rows)
    }
}

struct Identifier<'a> {
    /// Width of the id column's type; None: the index has none.
    id_bytes: Option<i16>,
    visit: &'a mut dyn FnMut(Identified) -> Result<(), IndexError>,
    outcome: Result<(), IndexError>,
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn identify(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    nulls: *mut bool,
    is_alive: bool,
    state: *mut c_void,
) {
    // SAFETY: `state` is the identifier of `identify`, which is waiting for this call to end; the arrays have an element
    // for each column of the index, at least one.
    let (identifier, datum, is_null) = unsafe { (&mut *state.cast::<Identifier>(), *values, *nulls) };
    if is_null || identifier.outcome.is_err() {
        return;
    }
    let id = identifier.id_bytes.and_then(|bytes| {
        // SAFETY: the index has a second column.
        let (id, is_null) = unsafe { (*values.add(1), *nulls.add(1)) };
        (!is_null).then(|| integer(id, bytes))
    });
    // SAFETY: the column is of type vector, and the tuple stays while the callback runs.
    let (tid, vector) = unsafe { (tid_of(tid), Vector::from_datum(datum)) };
    identifier.outcome = (identifier.visit)(Identified { tid, id, is_alive, vector: vector.as_slice() });
}
