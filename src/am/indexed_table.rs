//! The table under an index, as builds, checks, exports and merges read it.

use core::ffi::c_void;
use core::ptr::null_mut;

use pgrx::pg_sys;

use super::table::{TableRows, scan_visible};
use super::{options, tid_of};
use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::table::{LinePointers, Table, TableRow, VisitRow};
use crate::pg::buffer::PageLock;
use crate::pg::relation::Rel;
use crate::pg::snapshot;
use crate::vector::ValueKind;

/// The relations must stay open while it lives. It may hold pins: drop it before the end of the call that created it,
/// or leave it to the transaction's abort.
pub struct IndexedTable {
    heap: Rel,
    index: Rel,
    /// Of the indexed values.
    kind: ValueKind,
    /// From PostgreSQL in a build; null: made for each scan.
    info: *mut pg_sys::IndexInfo,
    /// Number of the integer id column in the table; None: the index's second column, if there is one.
    id_attribute: Option<pg_sys::AttrNumber>,
    /// Null: no snapshot yet.
    snapshot: pg_sys::Snapshot,
    is_registered: bool,
    rows: Option<TableRows>,
}

impl IndexedTable {
    /// The table of an index that is being built.
    pub fn for_build(heap: Rel, index: Rel, info: *mut pg_sys::IndexInfo) -> Self {
        let mut table = Self::new(heap, index);
        table.info = info;
        table
    }

    pub fn new(heap: Rel, index: Rel) -> Self {
        IndexedTable {
            heap,
            index,
            kind: options::value_kind(index).unwrap_or_default(),
            info: null_mut(),
            id_attribute: None,
            snapshot: null_mut(),
            is_registered: false,
            rows: None,
        }
    }

    /// The table under the calling query's snapshot, with ids from a column of the table.
    pub fn for_query(heap: Rel, index: Rel, id_attribute: pg_sys::AttrNumber) -> Self {
        let mut table = Self::new(heap, index);
        table.id_attribute = Some(id_attribute);
        // Forgotten in `drop`, or by an error's abort.
        table.snapshot = snapshot::registered_active();
        table.is_registered = true;
        table
    }

    /// # Safety
    /// The snapshot stays valid while the value lives.
    pub unsafe fn under_snapshot(heap: Rel, index: Rel, snapshot: pg_sys::Snapshot) -> Self {
        let mut table = Self::new(heap, index);
        table.snapshot = snapshot;
        table
    }

    fn info(&self) -> *mut pg_sys::IndexInfo {
        if !self.info.is_null() {
            return self.info;
        }
        // SAFETY: the index is open.
        let info = unsafe { pg_sys::BuildIndexInfo(self.index.as_ptr()) };
        if let Some(attribute) = self.id_attribute {
            // SAFETY: just made, for us alone.
            let about = unsafe { &mut *info };
            // The array has room for any index, and PostgreSQL fills a value for each column.
            about.ii_NumIndexAttrs = 2;
            about.ii_IndexAttrNumbers[1] = attribute;
        }
        info
    }

    /// Width of the id column's type; None if there is no id column.
    fn id_bytes(&self, info: *const pg_sys::IndexInfo) -> Option<i16> {
        // SAFETY: from `info`.
        let info = unsafe { &*info };
        if info.ii_NumIndexAttrs < 2 {
            return None;
        }
        // SAFETY: looks a catalogue row up.
        let id_type = unsafe { pg_sys::get_atttype(self.heap.oid(), info.ii_IndexAttrNumbers[1]) };
        // SAFETY: looks a catalogue row up by its oid.
        Some(unsafe { pg_sys::get_typlen(id_type) })
    }

    fn collector<'a, 'v>(
        &self,
        info: *const pg_sys::IndexInfo,
        visit: &'a mut VisitRow<'v>,
    ) -> Collector<'a, 'v> {
        Collector { kind: self.kind, id_bytes: self.id_bytes(info), visit, outcome: Ok(()) }
    }

    fn forget_snapshot(&mut self) {
        self.rows = None;
        if self.is_registered {
            // SAFETY: registered by this value and forgotten once.
            unsafe { pg_sys::UnregisterSnapshot(self.snapshot) };
            self.is_registered = false;
        }
        self.snapshot = null_mut();
    }
}

impl Table for IndexedTable {
    fn blocks(&self) -> u32 {
        self.heap.blocks()
    }

    fn scan_blocks(
        &mut self,
        start: u32,
        blocks: u32,
        sample: bool,
        visit: &mut VisitRow,
    ) -> Result<f64, IndexError> {
        let info = self.info();
        let mut collector = self.collector(info, visit);
        // SAFETY: from `info`.
        let any_visible = sample && !unsafe { (*info).ii_Concurrent };
        // SAFETY: the relations are open, the info is the index's, and the state is the collector that `collect` takes.
        // Synchronised scans start anywhere, so a run of blocks forbids them. No progress: it would count runs.
        let heap_rows = unsafe {
            pg_sys::table_index_build_range_scan(
                self.heap.as_ptr(),
                self.index.as_ptr(),
                info,
                false,
                any_visible,
                false,
                start,
                blocks,
                Some(collect),
                core::ptr::from_mut(&mut collector).cast::<c_void>(),
                null_mut(),
            )
        };
        collector.outcome.map(|()| heap_rows)
    }

    fn take_snapshot(&mut self) {
        self.forget_snapshot();
        // Always a new snapshot, whatever the isolation level: an older one may see rows that the index does not
        // contain.
        self.snapshot = snapshot::registered_latest();
        self.is_registered = true;
    }

    fn scan_visible(&mut self, visit: &mut VisitRow) -> Result<(), IndexError> {
        let info = self.info();
        let mut collector = self.collector(info, visit);
        // SAFETY: relations and snapshot are open, and the state is the collector that `collect` takes.
        unsafe {
            let relations = (self.heap, self.index);
            scan_visible(relations, info, self.snapshot, true, Some(collect), &mut collector);
        }
        collector.outcome
    }

    fn fetch(&mut self, tid: Tid, visit: &mut dyn FnMut(&[f32])) -> bool {
        let rows = self.rows.get_or_insert_with(|| {
            // SAFETY: the relations stay open and the snapshot valid for as long as the rows, which are dropped before.
            unsafe { TableRows::open(self.heap, self.index, self.kind, self.snapshot) }
        });
        rows.with_row(tid, visit).is_some()
    }

    fn unpin(&mut self) {
        self.rows = None;
    }

    fn line_pointers(&mut self, block: u32) -> Option<LinePointers> {
        if !self.heap.is_heap() {
            return Some(LinePointers::Unknown);
        }
        crate::pg::take_interrupts();
        (block < self.heap.blocks())
            .then(|| LinePointers::Taken(PageLock::share(self.heap, block).view().line_pointers()))
    }
}

impl Drop for IndexedTable {
    fn drop(&mut self) {
        // While an error unwinds, the transaction's abort unregisters it.
        if !std::thread::panicking() {
            self.forget_snapshot();
        }
    }
}

struct Collector<'a, 'v> {
    kind: ValueKind,
    id_bytes: Option<i16>,
    visit: &'a mut VisitRow<'v>,
    outcome: Result<(), IndexError>,
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn collect(
    _index: pg_sys::Relation,
    tid: pg_sys::ItemPointer,
    values: *mut pg_sys::Datum,
    nulls: *mut bool,
    is_alive: bool,
    state: *mut c_void,
) {
    // SAFETY: `state` is the collector of a scan, which is waiting for this call to end.
    let collector = unsafe { &mut *state.cast::<Collector>() };
    // SAFETY: the arrays have an element for each column of the index, at least one.
    let is_null = unsafe { *nulls };
    if is_null || collector.outcome.is_err() {
        return;
    }
    let id = collector.id_bytes.and_then(|bytes| {
        // SAFETY: there is a second column.
        let is_null = unsafe { *nulls.wrapping_add(1) };
        // SAFETY: there is a second column.
        (!is_null).then(|| integer(unsafe { *values.wrapping_add(1) }, bytes))
    });
    // SAFETY: PostgreSQL's own argument.
    let tid = unsafe { tid_of(tid) };
    // SAFETY: there is a first column.
    let datum = unsafe { *values };
    // SAFETY: the column is of this kind, and the tuple stays while the callback runs.
    let vector = unsafe { collector.kind.read(datum) };
    collector.outcome = (collector.visit)(TableRow { tid, id, is_alive, vector: &vector });
}

/// The value of a smallint, integer or bigint datum.
fn integer(datum: pg_sys::Datum, bytes: i16) -> i64 {
    match bytes {
        2 => i64::from(datum.value() as i16),
        4 => i64::from(datum.value() as i32),
        _ => datum.value() as i64,
    }
}
