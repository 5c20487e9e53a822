//! Batches of searches: runs their first rounds before the query that continues them (`plan_hint`).

use std::rc::Rc;

use pgrx::pg_sys;

use super::search_options;
use crate::index::search::{FirstRounds, Request};
use crate::pg::error::SqlError;
use crate::pg::relation::{OpenRelation, Rel};
use crate::pg::snapshot::CallersSnapshot;

const READ_LOCK: u32 = pg_sys::AccessShareLock;

/// The first rounds of some queries in an index, or in the indexes of its partitions.
#[derive(Default)]
pub struct Batch {
    /// The snapshot under which they ran. Only scans under this snapshot may continue them: under a later one, rows
    /// could be missing.
    snapshot: Option<CallersSnapshot>,
    rounds: Vec<(pg_sys::Oid, Rc<FirstRounds>)>,
}

impl Batch {
    /// Searches `indexes` for `queries`, each of `dims` values, on `threads` threads. Skips indexes that were dropped
    /// meanwhile, and partitioned ones, which have no pages.
    pub fn search(
        indexes: &[pg_sys::Oid],
        dims: usize,
        queries: &[f32],
        request: &Request,
        threads: usize,
    ) -> Result<Self, SqlError> {
        let snapshot = CallersSnapshot::get();
        let mut rounds = Vec::new();
        for index in plain(indexes) {
            if let Some(relation) = OpenRelation::open(index, READ_LOCK) {
                if let Some(snapshot) = &snapshot {
                    snapshot.note_index_read(relation.rel());
                }
                let request = effective(relation.rel(), request);
                let found = FirstRounds::search(relation.rel(), dims, queries, request, threads)?;
                rounds.push((index, Rc::new(found)));
            }
        }
        Ok(Batch { snapshot, rounds })
    }

    /// The first rounds for a scan of `index` under `snapshot`.
    pub fn first_rounds(&self, index: pg_sys::Oid, snapshot: pg_sys::Snapshot) -> Option<Rc<FirstRounds>> {
        let is_ours = self.snapshot.as_ref().is_some_and(|ours| ours.is(snapshot));
        let found = self.rounds.iter().find(|(relation, _)| is_ours && *relation == index);
        found.map(|(_, rounds)| rounds.clone())
    }
}

/// Approximate memory for the first rounds of one query, in bytes.
pub fn bytes_per_query(indexes: &[pg_sys::Oid], request: &Request) -> Result<usize, SqlError> {
    let mut bytes = 0;
    for index in plain(indexes) {
        if let Some(relation) = OpenRelation::open(index, READ_LOCK) {
            bytes += FirstRounds::bytes_per_query(relation.rel(), &effective(relation.rel(), request))?;
        }
    }
    Ok(bytes)
}

/// The request with the index's own options applied.
fn effective(index: Rel, request: &Request) -> Request {
    Request { params: search_options::effective(index, request.params), ..request.clone() }
}

fn plain(indexes: &[pg_sys::Oid]) -> impl Iterator<Item = pg_sys::Oid> {
    // SAFETY: looks catalogue rows up by oid.
    indexes.iter().copied().filter(|&index| unsafe { pg_sys::get_rel_relkind(index) } as u8 == b'i')
}
