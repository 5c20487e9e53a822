//! The access method `faiss`: thin callbacks that unpack C values, call safe Rust and pack the result.
//!
//! Callbacks have the names of the `IndexAmRoutine` fields they fill (access/amapi.h).

pub mod batch;
pub mod build;
pub mod check;
pub mod clustering;
pub mod codes;
pub mod cost;
pub mod definition;
mod distance_operator;
mod expected_rows;
pub mod export;
pub mod filtered_scan;
pub mod import;
mod indexed_table;
pub mod insert;
pub mod inspect;
pub mod maintenance;
pub mod options;
pub mod plan_hint;
pub mod resources;
pub mod scan;
pub mod search_options;
pub mod table;
pub mod vacuum;
pub mod validate;

use pgrx::prelude::*;
use pgrx::{PgBox, pg_sys};

// Names of lower layers that `functions` needs.
pub use crate::engine::{EngineError, Metric, SearchParams};
pub use crate::index::check::Finding;
pub use crate::index::error::IndexError;
pub use crate::index::format::Tid;
pub use crate::index::search::Request;

/// The handler of `CREATE ACCESS METHOD faiss`; its argument is declared in SQL and never read. Fields that are not set
/// are false, zero or absent.
#[pg_extern]
fn faiss_handler() -> PgBox<pg_sys::IndexAmRoutine> {
    // SAFETY: the node tag belongs to the type; alloc_node zeroes the rest.
    let mut routine =
        unsafe { PgBox::<pg_sys::IndexAmRoutine>::alloc_node(pg_sys::NodeTag::T_IndexAmRoutine) };
    // 0: any number of strategies; all of ours are for ordering.
    routine.amstrategies = 0;
    routine.amsupport = options::SUPPORT_PROCEDURES;
    routine.amcanorderbyop = true;
    // Required for paths from ORDER BY alone; paths without ORDER BY get a prohibitive cost (`cost`).
    routine.amoptionalkey = true;
    routine.amcaninclude = true;
    // FAISS's memory is not limited by maintenance_work_mem, and parallel VACUUM workers cannot assign transaction ids.
    routine.amparallelvacuumoptions = pg_sys::VACUUM_OPTION_NO_PARALLEL as u8;

    routine.ambuild = Some(build::ambuild);
    routine.ambuildempty = Some(build::ambuildempty);
    routine.ambuildphasename = Some(build::ambuildphasename);
    routine.aminsert = Some(insert::aminsert);
    routine.ambulkdelete = Some(vacuum::ambulkdelete);
    routine.amvacuumcleanup = Some(vacuum::amvacuumcleanup);
    routine.amcostestimate = Some(cost::amcostestimate);
    routine.amoptions = Some(options::amoptions);
    routine.amvalidate = Some(validate::amvalidate);
    routine.ambeginscan = Some(scan::ambeginscan);
    routine.amrescan = Some(scan::amrescan);
    routine.amgettuple = Some(scan::amgettuple);
    routine.amendscan = Some(scan::amendscan);
    routine.into_pg_boxed()
}

/// PostgreSQL's item pointer as a TID.
///
/// # Safety
/// `pointer` points to a valid item pointer.
pub(crate) unsafe fn tid_of(pointer: pg_sys::ItemPointer) -> Tid {
    // SAFETY: the caller's promise.
    let pointer = unsafe { *pointer };
    let (high, low) = (u32::from(pointer.ip_blkid.bi_hi), u32::from(pointer.ip_blkid.bi_lo));
    Tid::new(high << 16 | low, pointer.ip_posid)
}

pub(crate) fn item_pointer(tid: Tid) -> pg_sys::ItemPointerData {
    pg_sys::ItemPointerData {
        ip_blkid: pg_sys::BlockIdData { bi_hi: (tid.block() >> 16) as u16, bi_lo: tid.block() as u16 },
        ip_posid: tid.offset(),
    }
}
