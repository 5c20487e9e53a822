//! Graphs of rows in many narrow clusters, as embeddings of real things come.

use super::data::*;
use vekter::engine::{Builder, Metric};

/// Inserting in batches loses FAISS's order of insertion (upper levels of the whole graph first). With its default
/// efConstruction of 40, whole clusters were then out of reach of any search: recall@10 was 0.85 instead of 1.
#[test]
fn a_graph_that_is_built_in_batches_reaches_every_cluster() {
    const DIMS: usize = 64;
    const ROWS: usize = 20_000;
    const CLUSTERS: usize = 400;
    let mut random = Random(21);
    let genres: Vec<f32> = (0..12 * DIMS).map(|_| random.normal()).collect();
    let centres: Vec<f32> = (0..CLUSTERS)
        .flat_map(|cluster| genres[cluster % 12 * DIMS..][..DIMS].to_vec())
        .map(|value| value + 0.7 * random.normal())
        .collect();
    let mut draw = |rows: usize| -> Vec<f32> {
        let mut values = Vec::with_capacity(rows * DIMS);
        for _ in 0..rows {
            let cluster = random.below(CLUSTERS).min(random.below(CLUSTERS));
            for centre in &centres[cluster * DIMS..][..DIMS] {
                values.push(centre + 0.2 * random.normal());
            }
        }
        values
    };
    let (rows, queries) = (draw(ROWS), draw(100));

    vekter::engine::initialise(|| false);
    let mut builder = Builder::new("HNSW32", DIMS, Metric::L2).unwrap();
    for batch in rows.chunks(2_000 * DIMS) {
        builder.add(batch).unwrap();
    }
    let opened = open(&serialised(&builder), Metric::L2).unwrap();
    let queries: Vec<&[f32]> = queries.chunks(DIMS).collect();
    let reached = mean(&queries, |query| {
        let hits = opened.search(query, 10, &narrow(), None).unwrap();
        recall(&hits, &exact(Metric::L2, query, &rows, None), 10)
    });
    assert!(reached >= 0.98, "recall@10 is {reached}");
}
