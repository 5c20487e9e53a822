//! `vekter_kmeans()` and `vekter_kmeans_centroids()`: clusters of rows.
//!
//! The table is read twice by ordinary queries of the caller, under one snapshot: first for a sample that fits into
//! `maintenance_work_mem`, on which FAISS trains, and then in batches to find the nearest centroid of each row. The
//! sample is chosen by hashed ids, so the same rows give the same clusters whatever their physical order.

use core::ffi::CStr;
use std::collections::BinaryHeap;

use pgrx::prelude::*;
use pgrx::spi::quote_identifier;
use pgrx::{PgSqlErrorCode as Code, pg_sys};

use super::column::Column;
use super::target::{qualified_name, relation_name};
use crate::am::clustering::{self, Clustering, ClusteringPlan};
use crate::am::resources::{Resources, resources};
use crate::am::{EngineError, Metric};
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::memory;
use crate::pg::results::ResultRows;
use crate::pg::spi::QueryCursor;
use crate::pg::text::{Text, from_server};
use crate::vector::ValueKind;

/// Rows of the first fetch, before the width of rows is known.
const FIRST_FETCH_ROWS: usize = 64;

/// Arguments are declared as `(regclass, name, name, integer, text, integer, integer)`.
#[pg_extern]
#[expect(clippy::too_many_arguments, reason = "the arguments in SQL")]
fn vekter_kmeans(
    table: pg_sys::Oid,
    id_column: &CStr,
    vector_column: &CStr,
    clusters: i32,
    metric: Text,
    seed: i32,
    iterations: i32,
    call: pg_sys::FunctionCallInfo,
) {
    // SAFETY: the running call, of a function that returns a table.
    let mut results = unsafe { ResultRows::begin(call) };
    let plan = plan(clusters, &metric, seed, iterations).or_raise();
    let (rows, clustering) = cluster(table, id_column, vector_column, &plan).or_raise();
    let mut push = |id: i64, cluster: usize, distance: f64| {
        results.push([id.into_datum(), (cluster as i32).into_datum(), distance.into_datum()]);
    };
    assign(&rows, &clustering, &mut push).or_raise();
}

/// Arguments as of `vekter_kmeans`.
#[pg_extern]
#[expect(clippy::too_many_arguments, reason = "the arguments in SQL")]
fn vekter_kmeans_centroids(
    table: pg_sys::Oid,
    id_column: &CStr,
    vector_column: &CStr,
    clusters: i32,
    metric: Text,
    seed: i32,
    iterations: i32,
    call: pg_sys::FunctionCallInfo,
) {
    // SAFETY: as above.
    let mut results = unsafe { ResultRows::begin(call) };
    let plan = plan(clusters, &metric, seed, iterations).or_raise();
    let (rows, clustering) = cluster(table, id_column, vector_column, &plan).or_raise();
    let mut counts = vec![0i64; plan.clusters()];
    assign(&rows, &clustering, &mut |_, cluster, _| counts[cluster] += 1).or_raise();
    for (number, (centroid, count)) in clustering.centroids().zip(counts).enumerate() {
        let centroid = ValueKind::Single.into_datum(centroid);
        results.push([(number as i32).into_datum(), Some(centroid), count.into_datum()]);
    }
}

fn plan(clusters: i32, metric: &str, seed: i32, iterations: i32) -> Result<ClusteringPlan, SqlError> {
    let invalid = |message: String| SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message);
    let known = Metric::from_name(metric).filter(|known| [Metric::L2, Metric::Cosine].contains(known));
    let metric = known.ok_or_else(|| {
        invalid(format!("\"{metric}\" is not a metric for clusters")).hint("Valid metrics are l2 and cosine.")
    })?;
    let count = |value: i32, name: &str| {
        usize::try_from(value).map_err(|_| invalid(format!("{name} must not be negative, but is {value}")))
    };
    let seed =
        u32::try_from(seed).map_err(|_| invalid(format!("seed must not be negative, but is {seed}")))?;
    let (clusters, iterations) = (count(clusters, "clusters")?, count(iterations, "iterations")?);
    Ok(ClusteringPlan::new(clusters, metric, iterations, seed)?)
}

/// The table's rows, and their clusters.
fn cluster(
    table: pg_sys::Oid,
    id_column: &CStr,
    vector_column: &CStr,
    plan: &ClusteringPlan,
) -> Result<(Rows, Clustering), SqlError> {
    let rows = Rows::of(table, id_column, vector_column, plan.metric())?;
    let clustering = find(&rows, plan)?;
    Ok((rows, clustering))
}

// ---------------------------------------------------------------- rows

/// Called with id and prepared vector of a row.
type VisitVector<'a> = dyn FnMut(i64, &[f32]) -> Result<(), SqlError> + 'a;

/// Ids and vectors of a table, as visible to the caller.
struct Rows {
    query: String,
    vector_column: String,
    id_column: String,
    kind: ValueKind,
    metric: Metric,
    resources: Resources,
}

impl Rows {
    fn of(table: pg_sys::Oid, id: &CStr, vector: &CStr, metric: Metric) -> Result<Self, SqlError> {
        let name = relation_name(table)?;
        // SAFETY: looks a catalogue row up by oid.
        let kind = unsafe { pg_sys::get_rel_relkind(table) } as u8;
        if !matches!(kind, b'r' | b'p' | b'm' | b'v' | b'f') {
            let message = format!("\"{name}\" is not a table or view");
            return Err(SqlError::new(Code::ERRCODE_WRONG_OBJECT_TYPE, message));
        }
        let (id_column, vector_column) = (from_server(id.to_bytes()), from_server(vector.to_bytes()));
        Column::find(table, &id_column, metric)?.require_integer(&id_column)?;
        let column = Column::find(table, &vector_column, metric)?;
        column.require_vector(&vector_column)?;
        let kind = column.kind;
        let (id, vector) = (quote_identifier(&id_column), quote_identifier(&vector_column));
        let query = format!(
            "SELECT {id}::pg_catalog.int8, {vector} FROM {} WHERE {vector} IS NOT NULL",
            qualified_name(table)?
        );
        Ok(Rows { query, vector_column, id_column, kind, metric, resources: resources() })
    }

    /// Calls `visit` with id and prepared vector of each row. Under cosine, zero vectors are left out.
    fn scan(&self, visit: &mut VisitVector) -> Result<(), SqlError> {
        let mut cursor = QueryCursor::open(&self.query);
        let (mut limit, mut prepared) = (FIRST_FETCH_ROWS, Vec::new());
        loop {
            let mut outcome = Ok(());
            let fetched = cursor.fetch(limit, |row| {
                if outcome.is_ok() {
                    outcome = self.visit_row(row.datum(1), row.datum(2), &mut prepared, visit);
                }
            });
            outcome?;
            if fetched < limit {
                return Ok(());
            }
            // Detoasted vectors are freed one by one, but inline ones are in memory for a whole fetch.
            let row_bytes = size_of_val(prepared.as_slice()).max(1);
            limit = (self.resources.batch_bytes / 2 / row_bytes).clamp(1, 10_000);
        }
    }

    fn visit_row(
        &self,
        id: Option<pg_sys::Datum>,
        value: Option<pg_sys::Datum>,
        prepared: &mut Vec<f32>,
        visit: &mut VisitVector,
    ) -> Result<(), SqlError> {
        let Some(id) = id.map(|id| id.value() as i64) else {
            let message = format!("column \"{}\" contains null values", self.id_column);
            return Err(
                SqlError::new(Code::ERRCODE_NOT_NULL_VIOLATION, message).hint("Give every row an id.")
            );
        };
        let Some(value) = value else { return Ok(()) };
        // SAFETY: the query's second column is of this kind, and the row lives while it is visited.
        let vector = unsafe { self.kind.read(value) };
        if !prepared.is_empty() && prepared.len() != vector.len() {
            let message = format!("different vector dimensions {} and {}", prepared.len(), vector.len());
            return Err(SqlError::new(Code::ERRCODE_DATA_EXCEPTION, message)
                .detail(format!("The row with id {id} differs from those before it."))
                .hint(format!(
                    "Vectors of column \"{}\" must all have the same dimensions.",
                    self.vector_column
                )));
        }
        prepared.clear();
        prepared.extend_from_slice(&vector);
        if !self.metric.normalise(prepared) {
            return Ok(());
        }
        if !Clustering::accepts(prepared) {
            let message = format!("the vector of the row with id {id} is too long for clustering");
            return Err(SqlError::new(Code::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, message)
                .hint("Scale the vectors, or cluster by cosine."));
        }
        visit(id, prepared)
    }
}

// ---------------------------------------------------------------- sample

/// The rows whose ids have the smallest hashes: a random sample that does not depend on the rows' order.
struct HashSample {
    seed: u64,
    dims: usize,
    max_rows: usize,
    /// Row-major, by slot.
    values: Vec<f32>,
    /// Hash, id and slot of the chosen rows; the largest hash first.
    chosen: BinaryHeap<(u64, i64, usize)>,
    rows_seen: u64,
}

impl HashSample {
    fn new(plan: &ClusteringPlan, seed: u64, dims: usize, work_bytes: u64) -> Result<Self, SqlError> {
        // Each sampled row has an entry in the heap and one in the final order.
        let bytes = |rows: usize| plan.bytes(rows, dims) + 48 * rows as u64;
        let shortage = |code, message: &str, available: u64| {
            let needed = bytes(plan.clusters()).div_ceil(1 << 20);
            Err(SqlError::new(code, message)
                .detail(format!(
                    "Finding {} clusters in {dims} dimensions takes at least {needed} MB, and {} MB are available.",
                    plan.clusters(),
                    available >> 20
                ))
                .hint(format!("Set maintenance_work_mem to at least {needed} MB, or ask for fewer clusters.")))
        };
        if bytes(plan.clusters()) > work_bytes {
            let message = "maintenance_work_mem is too small for so many clusters";
            return shortage(Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, message, work_bytes);
        }
        let per_row = bytes(1) - bytes(0);
        let max_rows = plan.sample_rows().min(((work_bytes - bytes(0)) / per_row) as usize);
        if let Some(available) = memory::available_bytes()
            && available < bytes(max_rows)
        {
            return shortage(Code::ERRCODE_OUT_OF_MEMORY, "not enough memory to find clusters", available);
        }
        let mut values = Vec::new();
        values.try_reserve_exact(max_rows * dims).map_err(|_| EngineError::OutOfMemory)?;
        Ok(HashSample { seed, dims, max_rows, values, chosen: BinaryHeap::new(), rows_seen: 0 })
    }

    fn offer(&mut self, id: i64, row: &[f32]) {
        self.rows_seen += 1;
        let hash = mixed(id as u64 ^ mixed(self.seed));
        if self.chosen.len() < self.max_rows {
            self.values.extend_from_slice(row);
            self.chosen.push((hash, id, self.chosen.len()));
        } else if let Some(mut largest) = self.chosen.peek_mut()
            && (hash, id) < (largest.0, largest.1)
        {
            let slot = largest.2;
            self.values[slot * self.dims..][..self.dims].copy_from_slice(row);
            *largest = (hash, id, slot);
        }
    }

    /// The sampled values, row-major, in the order of the hashes.
    fn into_rows(self) -> Vec<f32> {
        let HashSample { dims, mut values, chosen, .. } = self;
        let mut sources: Vec<usize> = chosen.into_sorted_vec().into_iter().map(|(_, _, slot)| slot).collect();
        let mut first = vec![0.0; dims];
        for start in 0..sources.len() {
            // Permutes in place: follows each cycle of the permutation once; a row already in place is a cycle of one.
            first.copy_from_slice(&values[start * dims..][..dims]);
            let mut at = start;
            loop {
                let source = std::mem::replace(&mut sources[at], at);
                if source == start || source == at {
                    break;
                }
                values.copy_within(source * dims..(source + 1) * dims, at * dims);
                at = source;
            }
            values[at * dims..][..dims].copy_from_slice(&first);
        }
        values
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): each bit of the result depends on all bits of the argument.
fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

// ---------------------------------------------------------------- the two passes

fn find(rows: &Rows, plan: &ClusteringPlan) -> Result<Clustering, SqlError> {
    let mut sample: Option<HashSample> = None;
    rows.scan(&mut |id, row| {
        let sample = match &mut sample {
            Some(sample) => sample,
            None => sample.insert(HashSample::new(
                plan,
                u64::from(plan.seed()),
                row.len(),
                rows.resources.work_bytes(),
            )?),
        };
        sample.offer(id, row);
        Ok(())
    })?;
    let count = sample.as_ref().map_or(0, |sample| sample.rows_seen);
    let Some(sample) = sample.filter(|_| count >= plan.clusters() as u64) else {
        let message = format!("cannot make {} clusters of {count} rows", plan.clusters());
        let hint = match count {
            0 => "There are no rows with a vector that could be clustered.".to_string(),
            _ => format!("Ask for at most {count} clusters."),
        };
        return Err(SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message).hint(hint));
    };
    let dims = sample.dims;
    let values = sample.into_rows();
    clustering::find(plan, &values, dims, rows.resources.threads)
}

/// Calls `visit` with id, number of the nearest centroid and distance of each row.
fn assign(
    rows: &Rows,
    clustering: &Clustering,
    visit: &mut dyn FnMut(i64, usize, f64),
) -> Result<(), SqlError> {
    let (mut ids, mut batch) = (Vec::<i64>::new(), Vec::<f32>::new());
    let mut flush = |ids: &mut Vec<i64>, batch: &mut Vec<f32>| -> Result<(), SqlError> {
        let nearest = clustering::assign(clustering, batch, rows.resources.threads)?;
        for (id, (cluster, distance)) in ids.drain(..).zip(nearest) {
            visit(id, cluster, distance);
        }
        batch.clear();
        Ok(())
    };
    rows.scan(&mut |id, row| {
        ids.push(id);
        batch.extend_from_slice(row);
        if size_of_val(batch.as_slice()) >= rows.resources.batch_bytes {
            flush(&mut ids, &mut batch)?;
        }
        Ok(())
    })?;
    flush(&mut ids, &mut batch)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn sample_of(ids: impl Iterator<Item = i64>) -> Vec<f32> {
        let plan = ClusteringPlan::new(3, Metric::L2, 5, 7).unwrap();
        let mut sample = HashSample::new(&plan, 7, 2, 1 << 30).unwrap();
        sample.max_rows = 100;
        ids.for_each(|id| sample.offer(id, &[id as f32, -id as f32]));
        sample.into_rows()
    }

    #[test]
    fn a_sample_does_not_depend_on_the_order_of_the_rows() {
        let rows = sample_of(0..1000);
        assert_eq!(rows, sample_of((0..1000).rev()));
        assert_eq!(rows.len(), 200);
        let mut ids: Vec<i64> = rows.chunks(2).map(|row| row[0] as i64).collect();
        assert!(rows.chunks(2).all(|row| row[0] == -row[1]));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 100);
        let (low, high) = (ids.iter().filter(|id| **id < 500).count(), 500);
        assert!((30..=70).contains(&low), "{low} of 100 are below {high}");
    }

    #[test]
    fn a_small_table_is_sampled_whole() {
        let mut rows: Vec<i64> = sample_of(0..50).chunks(2).map(|row| row[0] as i64).collect();
        rows.sort_unstable();
        assert!(rows.into_iter().eq(0..50));
    }
}
