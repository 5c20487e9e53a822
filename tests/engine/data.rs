//! Rows that look like embeddings (clusters of unequal size), exact answers, and indexes made of them.

use std::cmp::Ordering;
use std::sync::{Arc, RwLock};
use vekter_engine::{Builder, EngineError, Hit, MappedBytes, Metric, OpenIndex, SearchParams};

/// Cancelling ends all of the engine's work in a process, so tests that cancel hold this alone.
pub static CANCELLING: RwLock<()> = RwLock::new(());

/// splitmix64: a fixed seed gives the same rows everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Between 0 and 1.
    pub fn fraction(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// About a standard normal variable (Irwin-Hall).
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.fraction()).sum::<f32>() - 6.0
    }
}

/// `rows` x `dims` values in 40 clusters. The same seed draws the same clusters for any number of rows.
pub fn clustered(rows: usize, dims: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(7);
    let centres: Vec<f32> = (0..40 * dims).map(|_| random.normal()).collect();
    let mut random = Random(seed);
    let mut values = Vec::with_capacity(rows * dims);
    for _ in 0..rows {
        let cluster = random.below(40).min(random.below(40));
        for centre in &centres[cluster * dims..(cluster + 1) * dims] {
            values.push(centre + 0.5 * random.normal());
        }
    }
    values
}

pub fn prepared(metric: Metric, mut values: Vec<f32>, dims: usize) -> Vec<f32> {
    for row in values.chunks_mut(dims) {
        assert!(metric.prepare(row));
    }
    values
}

/// Positions and distances of all living rows, nearest first.
pub fn exact(metric: Metric, query: &[f32], rows: &[f32], dead: Option<&[u8]>) -> Vec<Hit> {
    let mut distances = Vec::new();
    metric.distances(query, rows, &mut distances);
    let mut hits: Vec<Hit> = distances
        .into_iter()
        .enumerate()
        .filter(|(position, _)| dead.is_none_or(|dead| !is_dead(dead, *position)))
        .map(|(position, distance)| Hit { position: position as u64, distance })
        .collect();
    hits.sort_by(by_distance);
    hits
}

pub fn by_distance(a: &Hit, b: &Hit) -> Ordering {
    a.distance.total_cmp(&b.distance).then(a.position.cmp(&b.position))
}

pub fn is_dead(dead: &[u8], position: usize) -> bool {
    dead.get(position / 8).is_some_and(|byte| byte >> (position % 8) & 1 == 1)
}

pub fn build(factory: &str, metric: Metric, rows: &[f32], dims: usize) -> Result<Builder, EngineError> {
    vekter_engine::initialise(|| false);
    let mut builder = Builder::new(factory, dims, metric)?;
    builder.reserve((rows.len() / dims) as u64)?;
    if builder.needs_training() {
        // Local search and rotations learn slowly, and from half of the rows as well.
        let learns_slowly = factory.contains("LSQ") || factory.contains("OPQ");
        let enough = if learns_slowly { rows.len() / dims / 2 } else { rows.len() / dims };
        let sample = enough.max(builder.training_rows().min).min(rows.len() / dims);
        builder.train(&rows[..sample * dims])?;
    }
    // In two pieces, since positions must go on.
    let half = rows.len() / dims / 2 * dims;
    builder.add(&rows[..half])?;
    builder.add(&rows[half..])?;
    assert_eq!(builder.rows(), (rows.len() / dims) as u64);
    Ok(builder)
}

pub fn serialised(builder: &Builder) -> Vec<u8> {
    let mut bytes = Vec::new();
    builder.write(&mut bytes).unwrap();
    assert_eq!(builder.layout().unwrap().bytes, bytes.len() as u64);
    bytes
}

/// Opens the index at an odd offset of a larger buffer.
pub fn open(serial: &[u8], metric: Metric) -> Result<OpenIndex, EngineError> {
    let mut bytes = vec![0xa5; 13];
    bytes.extend_from_slice(serial);
    bytes.extend_from_slice(&[0xa5; 5]);
    let bytes: Arc<dyn MappedBytes> = Arc::new(bytes);
    OpenIndex::open(bytes, 13..13 + serial.len(), metric)
}

/// Every promise about the form of an answer.
pub fn check_form(hits: &[Hit], k: usize, rows: usize, dead: Option<&[u8]>) {
    assert!(hits.len() <= k);
    assert!(hits.is_sorted_by(|a, b| a.distance <= b.distance), "distances do not ascend");
    let mut positions: Vec<u64> = hits.iter().map(|hit| hit.position).collect();
    positions.sort_unstable();
    positions.dedup();
    assert_eq!(positions.len(), hits.len(), "a row came twice");
    for hit in hits {
        assert!(hit.position < rows as u64 && !hit.distance.is_nan());
        assert!(dead.is_none_or(|dead| !is_dead(dead, hit.position as usize)), "a dead row came out");
    }
}

/// The share of the `k` nearest that is among `hits`; rows as near as the last of them count.
pub fn recall(hits: &[Hit], truth: &[Hit], k: usize) -> f64 {
    let truth = &truth[..k.min(truth.len())];
    let found = truth.iter().filter(|near| hits.iter().any(|hit| hit.position == near.position)).count();
    found as f64 / truth.len().max(1) as f64
}

pub fn mean<T>(items: &[T], of: impl FnMut(&T) -> f64) -> f64 {
    items.iter().map(of).sum::<f64>() / items.len() as f64
}

pub fn narrow() -> SearchParams {
    SearchParams::default()
}
