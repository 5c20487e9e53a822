//! Open relations.

use pgrx::{PgSqlErrorCode, pg_sys};

use super::error::SqlError;
use super::{lock, settings, text};

/// PostgreSQL's `InvalidSubTransactionId` (c.h).
const INVALID_SUBTRANSACTION: pg_sys::SubTransactionId = 0;

/// A relation that the caller of a callback keeps open and locked during the callback.
#[derive(Clone, Copy)]
pub struct Rel(pg_sys::Relation);

impl Rel {
    /// # Safety
    /// `relation` is open and stays so while the value is used.
    pub unsafe fn new(relation: pg_sys::Relation) -> Self {
        Rel(relation)
    }

    pub fn as_ptr(self) -> pg_sys::Relation {
        self.0
    }

    fn data(&self) -> &pg_sys::RelationData {
        // SAFETY: open relations point to a valid relcache entry (contract of `new`).
        unsafe { &*self.0 }
    }

    fn class(&self) -> &pg_sys::FormData_pg_class {
        // SAFETY: each relcache entry has its pg_class row.
        unsafe { &*self.data().rd_rel }
    }

    /// The relation's file.
    #[cfg(feature = "pg15")]
    pub fn locator(self) -> pg_sys::RelFileNode {
        self.data().rd_node
    }

    /// The relation's file.
    #[cfg(not(feature = "pg15"))]
    pub fn locator(self) -> pg_sys::RelFileLocator {
        self.data().rd_locator
    }

    /// Path of its first file, relative to the data directory.
    #[cfg(feature = "pg15")]
    pub fn path(self) -> String {
        let (file, fork) = (self.locator(), pg_sys::ForkNumber::MAIN_FORKNUM);
        let backend = self.data().rd_backend;
        // SAFETY: computes a name from numbers.
        let path = unsafe { pg_sys::GetRelationPath(file.dbNode, file.spcNode, file.relNode, backend, fork) };
        // SAFETY: the name is a C string in the current memory context.
        let copy = unsafe { core::ffi::CStr::from_ptr(path) }.to_string_lossy().into_owned();
        // SAFETY: it was allocated for this call, and nobody uses it any more.
        unsafe { pg_sys::pfree(path.cast()) };
        copy
    }

    pub fn oid(self) -> pg_sys::Oid {
        self.data().rd_id
    }

    pub fn name(self) -> String {
        // SAFETY: a name ends with a zero byte.
        unsafe { text::from_c(self.class().relname.data.as_ptr()) }
    }

    /// Whether it is a heap table.
    pub fn is_heap(self) -> bool {
        self.class().relam == pg_sys::HEAP_TABLE_AM_OID
    }

    /// Whether it is partitioned and has no pages of its own.
    pub fn is_partitioned(self) -> bool {
        let kind = self.class().relkind as u8;
        [pg_sys::RELKIND_PARTITIONED_INDEX, pg_sys::RELKIND_PARTITIONED_TABLE].contains(&kind)
    }

    /// The owner's role.
    pub fn owner(self) -> pg_sys::Oid {
        self.class().relowner
    }

    /// The planner's estimate of a table's rows.
    pub fn estimated_rows(self) -> f64 {
        let (mut pages, mut rows, mut visible) = (0, 0.0, 0.0);
        // SAFETY: the relation is open; widths are not asked for.
        unsafe {
            let no_widths = core::ptr::null_mut();
            pg_sys::estimate_rel_size(self.0, no_widths, &mut pages, &mut rows, &mut visible)
        };
        rows
    }

    /// Whether its pages are in this session's memory only.
    pub fn is_temporary(self) -> bool {
        self.class().relpersistence == pg_sys::RELPERSISTENCE_TEMP as core::ffi::c_char
    }

    /// Whether this transaction created it or replaced its file, so that other sessions cannot see its pages before the
    /// commit.
    pub fn is_uncommitted(self) -> bool {
        let data = self.data();
        data.rd_createSubid != INVALID_SUBTRANSACTION || !first_filenode_is_old(data)
    }

    /// PostgreSQL's `RelationNeedsWAL` (utils/rel.h).
    pub fn needs_wal(self) -> bool {
        let data = self.data();
        let wal_is_needed = settings::wal_level() >= pg_sys::WalLevel::WAL_LEVEL_REPLICA as i32;
        self.class().relpersistence == pg_sys::RELPERSISTENCE_PERMANENT as core::ffi::c_char
            && (wal_is_needed
                || (data.rd_createSubid == INVALID_SUBTRANSACTION && first_filenode_is_old(data)))
    }

    /// Counts a scan in pg_stat_all_indexes.idx_scan: PostgreSQL's `pgstat_count_index_scan` (pgstat.h).
    pub fn count_scan(self) {
        // SAFETY: the relation is open.
        unsafe { pgrx::PgRelation::from_pg(self.0) }.count_index_scan();
    }

    /// Whether PostgreSQL's planner ignores this index in the current transaction (plancat.c, `get_relation_info`),
    /// because its build saw HOT chains of which an older snapshot would get the wrong member.
    pub fn is_too_new_to_plan_with(self) -> bool {
        if !self.index_row().indcheckxmin {
            return false;
        }
        let tuple = of_index(self.data().rd_indextuple);
        // SAFETY: the entry's copy of the index's row in pg_index.
        let header = unsafe { &*tuple.t_data };
        // SAFETY: a copy of a row on disk.
        let written_by = unsafe { xmin(header) };
        // SAFETY: a number of this process.
        let horizon = unsafe { pg_sys::TransactionXmin };
        // SAFETY: compares two numbers.
        !unsafe { pg_sys::TransactionIdPrecedes(written_by, horizon) }
    }

    /// Of an index: its row in pg_index.
    pub fn index_row(&self) -> &pg_sys::FormData_pg_index {
        of_index(self.data().rd_index)
    }

    /// Of an index: what the access method's `amoptions` made of its options; null if it has none.
    pub fn options(self) -> *const pg_sys::bytea {
        self.data().rd_options
    }

    /// Of an index: operator family and input type of its first column.
    pub fn operator_family(self) -> (pg_sys::Oid, pg_sys::Oid) {
        (*of_index(self.data().rd_opfamily), *of_index(self.data().rd_opcintype))
    }

    /// Number of blocks in the main fork.
    pub fn blocks(self) -> u32 {
        self.blocks_of(pg_sys::ForkNumber::MAIN_FORKNUM)
    }

    pub fn blocks_of(self, fork: pg_sys::ForkNumber::Type) -> u32 {
        // SAFETY: the relation is open.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.0, fork) }
    }
}

/// What the entry of an index points to and that of a table does not.
fn of_index<'a, T>(pointer: *const T) -> &'a T {
    // SAFETY: null, or what belongs to the entry and lives as long, which is as long as the relation is open.
    let found = unsafe { pointer.as_ref() };
    found.unwrap_or_else(|| pgrx::error!("a relation that should be an index is none"))
}

/// PostgreSQL's `HeapTupleHeaderGetXmin` (access/htup_details.h).
///
/// # Safety
/// `tuple` is a row on disk or a copy of one.
unsafe fn xmin(tuple: &pg_sys::HeapTupleHeaderData) -> pg_sys::TransactionId {
    let frozen = pg_sys::HEAP_XMIN_FROZEN as u16;
    if tuple.t_infomask & frozen == frozen {
        return pg_sys::FrozenTransactionId;
    }
    // SAFETY: the caller's promise.
    unsafe { tuple.t_choice.t_heap.t_xmin }
}

#[cfg(not(any(feature = "pg16", feature = "pg17", feature = "pg18")))]
fn first_filenode_is_old(data: &pg_sys::RelationData) -> bool {
    data.rd_firstRelfilenodeSubid == INVALID_SUBTRANSACTION
}

#[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
fn first_filenode_is_old(data: &pg_sys::RelationData) -> bool {
    data.rd_firstRelfilelocatorSubid == INVALID_SUBTRANSACTION
}

/// An open relation; dropping it closes the relation and releases its lock.
pub struct OpenRelation {
    relation: pg_sys::Relation,
    mode: u32,
}

impl OpenRelation {
    /// Waits for the lock. None if the relation does not exist any more.
    pub fn open(oid: pg_sys::Oid, mode: u32) -> Option<Self> {
        // SAFETY: takes the lock first and looks then.
        let relation = unsafe { pg_sys::try_relation_open(oid, mode as pg_sys::LOCKMODE) };
        (!relation.is_null()).then(|| OpenRelation { relation, mode })
    }

    /// As `open`, but also None if the lock is not available at once.
    pub fn try_open(oid: pg_sys::Oid, mode: u32) -> Option<Self> {
        if !lock::try_lock_relation(oid, mode) {
            return None;
        }
        // SAFETY: the lock is held, so the relation stays if it is there.
        let relation = unsafe { pg_sys::try_relation_open(oid, pg_sys::NoLock as pg_sys::LOCKMODE) };
        if relation.is_null() {
            lock::unlock_relation(oid, mode);
            return None;
        }
        Some(OpenRelation { relation, mode })
    }

    /// Opens a table, or the table of an index. Afterwards a valid index of the table stays valid: DROP INDEX and
    /// REINDEX CONCURRENTLY wait for processes that have the table open. None if the relation does not exist any more.
    pub fn table_of(relation: pg_sys::Oid) -> Option<Self> {
        // SAFETY: looks a catalogue row up by its oid.
        let table = unsafe { pg_sys::IndexGetRelation(relation, true) };
        let table = if table == pg_sys::InvalidOid { relation } else { table };
        Self::open(table, pg_sys::AccessShareLock)
    }

    /// Opens an index by an oid that was just looked up; Err if it was dropped meanwhile.
    pub fn index(oid: pg_sys::Oid) -> Result<Self, SqlError> {
        Self::open(oid, pg_sys::AccessShareLock).ok_or_else(index_is_gone)
    }

    pub fn rel(&self) -> Rel {
        Rel(self.relation)
    }
}

impl Drop for OpenRelation {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened in `open`.
            unsafe { pg_sys::relation_close(self.relation, self.mode as pg_sys::LOCKMODE) };
        }
    }
}

/// The error for an index that was dropped between lookup and opening.
pub fn index_is_gone() -> SqlError {
    SqlError::new(PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT, "the index was dropped concurrently")
}

/// An index and its table, opened for reading.
pub struct IndexAndTable {
    // Drop order.
    index: OpenRelation,
    table: OpenRelation,
}

impl IndexAndTable {
    /// Locks the table before its index, as PostgreSQL does. Err if one of them was dropped.
    pub fn open(index: pg_sys::Oid) -> Result<Self, SqlError> {
        Self::in_table(OpenRelation::table_of(index), index)
    }

    /// As `open`, for a table that is already open; None if it was dropped.
    pub fn in_table(table: Option<OpenRelation>, index: pg_sys::Oid) -> Result<Self, SqlError> {
        let table = table.ok_or_else(index_is_gone)?;
        Ok(IndexAndTable { index: OpenRelation::index(index)?, table })
    }

    pub fn index(&self) -> Rel {
        self.index.rel()
    }

    pub fn table(&self) -> Rel {
        self.table.rel()
    }
}
