//! Batches of searches: `knn_batch()` and `knn_join()`.
//!
//! FAISS runs the first rounds of all queries on several threads (`am::batch`). Then one ordinary query over the table
//! continues them, one index scan for each, so that privileges, row-level security and visibility are PostgreSQL's, as
//! in `knn()`. A scan that needs more rows than its first round found searches by itself.

mod knn_batch;
mod knn_join;

use std::rc::Rc;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::arguments::{Effort, row_count};
use super::distributed;
use super::knn::query::{id_of, order};
use super::target::{self, Target};
use crate::am::Request;
use crate::am::batch::{self, Batch};
use crate::am::plan_hint::{self, COLUMN, Hint};
use crate::am::resources::resources;
use crate::guc;
use crate::pg::error::SqlError;
use crate::pg::relation::OpenRelation;
use crate::pg::spi;
use crate::vector::ValueKind;

/// A larger batch makes FAISS no faster.
const MAX_QUERIES: usize = 1024;
/// Limit on the memory for the first rounds of a batch.
const BATCH_BYTES: usize = 64 << 20;
/// Limit on the result rows of a batch.
const BATCH_ROWS: usize = 100_000;

/// A result row of one of the queries.
struct Neighbor {
    /// Number of the query in the batch.
    query: usize,
    id: i64,
    distance: f64,
}

/// Searches one index for batches of queries.
struct Searcher {
    target: Target,
    plan: spi::Plan,
    k: usize,
    request: Request,
    element_type: pg_sys::Oid,
    /// Keeps the index from being dropped.
    _table: Option<OpenRelation>,
}

impl Searcher {
    /// `relation`: a table or an index. Raises an error unless the caller has the privileges that `knn()` needs.
    fn new(relation: pg_sys::Oid, k: i32, effort: Effort) -> Result<Self, SqlError> {
        let k = row_count("k", k)?;
        let table = OpenRelation::table_of(relation);
        let target = target::describe(relation)?;
        distributed::check_batch_is_here(target.table_oid)?;
        let query = query_text(&target)?;
        // SAFETY: looks catalogue rows up by oid.
        let element_type = unsafe { pg_sys::getBaseType(target.vector_type) };
        // SAFETY: looks a catalogue row up by its oid.
        let array_type = unsafe { pg_sys::get_array_type(element_type) };
        let plan = spi::Plan::prepare(&query, &[array_type, pg_sys::INT8OID]);
        let request = Request::of(k, effort.params_of(&target)?);
        let searcher = Searcher { target, plan, k, request, element_type, _table: table };
        // Starting this query locks the table and checks privileges, before the index is read.
        let nobody = Batch::default();
        searcher.run(nobody, &[], 1);
        Ok(searcher)
    }

    /// Required dimensions of queries; None: the index's, which its scan checks.
    fn dims(&self) -> Option<usize> {
        usize::try_from(self.target.dims).ok().filter(|&dims| dims > 0)
    }

    /// Limit on the queries of one call of `nearest`, which bounds memory.
    fn most_queries(&self) -> Result<usize, SqlError> {
        let bytes = batch::bytes_per_query(&self.target.indexes, &self.request)?;
        Ok((BATCH_BYTES / bytes.max(1)).min(BATCH_ROWS / self.k).clamp(1, MAX_QUERIES))
    }

    /// The nearest rows of each of `queries`, each of `dims` values: query by query, nearest first.
    fn nearest(&self, queries: &[f32], dims: usize) -> Result<Vec<Neighbor>, SqlError> {
        let threads = guc::batch_threads().unwrap_or(resources().threads);
        let batch = Batch::search(&self.target.indexes, dims, queries, &self.request, threads)?;
        Ok(self.run(batch, queries, dims))
    }

    fn run(&self, batch: Batch, queries: &[f32], dims: usize) -> Vec<Neighbor> {
        let array = self.target.kind.into_marked_array(self.element_type, queries.chunks_exact(dims));
        let arguments = [Some(array), Some(pg_sys::Datum::from(self.k as i64))];
        let mut found = Vec::new();
        let (indexes, request) = (self.target.indexes.clone(), self.request.clone());
        let hint = Hint { batch: Some(Rc::new(batch)), ..Hint::new(indexes, request) };
        plan_hint::with(hint, || {
            self.plan.for_each_row(&arguments, |row| {
                if let [Some(number), Some(id), Some(distance)] = [1, 2, 3].map(|column| row.datum(column)) {
                    // SAFETY: the query's third column is float8.
                    let distance = unsafe { f64::from_datum(distance, false) }.unwrap_or(f64::NAN);
                    found.push(Neighbor { query: number.value() - 1, id: id.value() as i64, distance });
                }
            });
        });
        // SAFETY: the array was made above, and the query over it has ended.
        unsafe { pg_sys::pfree(array.cast_mut_ptr()) };
        // An approximate index may return a nearer row late.
        found.sort_by(|a: &Neighbor, b| a.query.cmp(&b.query).then_with(|| order(a.distance, b.distance)));
        found
    }
}

/// Queries of equal dimensions, each with a label, collected until there are enough for a batch.
struct Waiting<L> {
    most: usize,
    labels: Vec<L>,
    values: Vec<f32>,
}

impl<L> Waiting<L> {
    fn new(most: usize) -> Self {
        Waiting { most, labels: Vec::new(), values: Vec::new() }
    }

    /// `kind`: of the values that the query is compared with.
    fn push(&mut self, label: L, query: &[f32], kind: ValueKind) {
        let start = self.values.len();
        self.labels.push(label);
        self.values.extend_from_slice(query);
        kind.round(&mut self.values[start..]);
    }

    fn len(&self) -> usize {
        self.labels.len()
    }

    fn is_full(&self) -> bool {
        self.labels.len() >= self.most
    }

    /// Calls `visit` with the nearest rows of each query: its label, their ids and distances. Empties the batch.
    fn answer(&mut self, searcher: &Searcher, mut visit: impl FnMut(&L, i64, f64)) -> Result<(), SqlError> {
        if !self.labels.is_empty() {
            let dims = self.values.len() / self.labels.len();
            for Neighbor { query, id, distance } in searcher.nearest(&self.values, dims)? {
                visit(&self.labels[query], id, distance);
            }
        }
        self.labels.clear();
        self.values.clear();
        Ok(())
    }
}

/// For each vector of the array `$1`, its number and its `$2` nearest rows: ids and distances.
fn query_text(target: &Target) -> Result<String, SqlError> {
    let id = id_of(target)?;
    let Target { table, vector, operator, .. } = target;
    // Differs from the name of the table, whose columns are referred to without qualification.
    let queries = if table.ends_with(".queries") { "vectors" } else { "queries" };
    Ok(format!(
        "SELECT {queries}.number, nearest.id, nearest.\"{COLUMN}\" \
         FROM pg_catalog.unnest($1) WITH ORDINALITY AS {queries} (query, number) \
         CROSS JOIN LATERAL (SELECT {id}::pg_catalog.int8 AS id, {vector} {operator} {queries}.query AS \"{COLUMN}\" \
           FROM {} WHERE {id} IS NOT NULL AND {} \
           ORDER BY {vector} {operator} {queries}.query LIMIT $2) AS nearest",
        target.from(),
        target.is_covered()
    ))
}
