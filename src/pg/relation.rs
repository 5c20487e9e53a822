//! An open relation, as the access method's callbacks are handed it.

use pgrx::pg_sys;

/// PostgreSQL's `InvalidSubTransactionId` (c.h).
const INVALID_SUBTRANSACTION: pg_sys::SubTransactionId = 0;

/// Borrowed from the caller of a callback, who keeps the relation open and locked while the callback runs.
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

    pub fn oid(self) -> pg_sys::Oid {
        self.data().rd_id
    }

    pub fn name(self) -> String {
        pgrx::name_data_to_str(&self.class().relname).to_string()
    }

    /// PostgreSQL's `RelationNeedsWAL` (utils/rel.h).
    pub fn needs_wal(self) -> bool {
        let data = self.data();
        // SAFETY: a plain read of a setting.
        let wal_is_needed = unsafe { pg_sys::wal_level } >= pg_sys::WalLevel::WAL_LEVEL_REPLICA as i32;
        self.class().relpersistence == pg_sys::RELPERSISTENCE_PERMANENT as core::ffi::c_char
            && (wal_is_needed
                || (data.rd_createSubid == INVALID_SUBTRANSACTION && first_filenode_is_old(data)))
    }

    /// For pg_stat_all_indexes.idx_scan: PostgreSQL's `pgstat_count_index_scan` (pgstat.h).
    pub fn count_scan(self) {
        // SAFETY: the relation is open.
        unsafe { pgrx::PgRelation::from_pg(self.0) }.count_index_scan();
    }

    /// Blocks of the main fork.
    pub fn blocks(self) -> u32 {
        self.blocks_of(pg_sys::ForkNumber::MAIN_FORKNUM)
    }

    pub fn blocks_of(self, fork: pg_sys::ForkNumber::Type) -> u32 {
        // SAFETY: the relation is open.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.0, fork) }
    }
}

#[cfg(not(any(feature = "pg16", feature = "pg17", feature = "pg18")))]
fn first_filenode_is_old(data: &pg_sys::RelationData) -> bool {
    data.rd_firstRelfilenodeSubid == INVALID_SUBTRANSACTION
}

#[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
fn first_filenode_is_old(data: &pg_sys::RelationData) -> bool {
    data.rd_firstRelfilelocatorSubid == INVALID_SUBTRANSACTION
}
