//! A batch of queries: each gets what it gets alone, whatever the others are.

use super::data::*;
use std::time::{Duration, Instant};
use vekter_engine::{EngineError, Hit, Metric, OpenIndex, SearchParams, initialise, on_worker};

const THREADS: usize = 3;

fn search_each(
    index: &OpenIndex,
    queries: &[f32],
    k: usize,
    params: &SearchParams,
    dead: Option<&[u8]>,
) -> Result<Vec<Option<Vec<Hit>>>, EngineError> {
    on_worker(THREADS, &mut || (), || index.search_each(queries, k, params, dead))
}

/// Fails unless every query of the batch gets the rows and the distances, to the bit, that it gets alone.
fn assert_each_as_alone(index: &OpenIndex, queries: &[f32], k: usize, dead: Option<&[u8]>, what: &str) {
    let params = narrow();
    let together = search_each(index, queries, k, &params, dead).unwrap();
    assert_eq!(together.len(), queries.len() / index.dims(), "{what}");
    for (at, (query, hits)) in queries.chunks_exact(index.dims()).zip(together).enumerate() {
        let alone = index.search(query, k, &params, dead).ok();
        assert_eq!(hits, alone, "{what}: query {at}");
    }
}

#[test]
fn each_query_of_a_batch_gets_what_it_gets_alone() {
    let _together = CANCELLING.read();
    const DIMS: usize = 24;
    const ROWS: usize = 1_600;
    let factories = [
        "Flat",
        "IVF16,Flat",
        "IVF16_HNSW8,Flat",
        "HNSW16",
        "IVF16,PQ4x4fs,RFlat",
        "IVF16,SQ8",
        "PQ8",
        "PCA8,Flat",
        "LSH",
    ];
    for metric in Metric::ALL {
        let rows = prepared(metric, clustered(ROWS, DIMS, 1), DIMS);
        let queries = prepared(metric, clustered(300, DIMS, 2), DIMS);
        let dead: Vec<u8> = (0..ROWS / 8).map(|byte| if byte % 3 == 0 { 0b0101_0011 } else { 0 }).collect();
        for factory in factories {
            let Ok(builder) = build(factory, metric, &rows, DIMS) else { continue };
            let index = open(&serialised(&builder), metric).unwrap();
            for (k, dead) in [(1, None), (10, None), (10, Some(dead.as_slice()))] {
                assert_each_as_alone(&index, &queries, k, dead, &format!("{factory}, {metric:?}, k = {k}"));
            }
            // All rows there are, and more.
            for (k, dead) in [(ROWS, None), (ROWS + 1_000, Some(dead.as_slice()))] {
                let queries = &queries[..20 * DIMS];
                assert_each_as_alone(&index, queries, k, dead, &format!("{factory}, {metric:?}, k = {k}"));
            }
            assert_each_as_alone(&index, &queries[..2 * DIMS], 10, None, factory);
            assert_each_as_alone(&index, &[], 10, None, factory);
        }
    }
}

/// Matrix products tell such distances badly: they must only rule out what is certainly farther.
#[test]
fn an_exact_index_stays_exact_where_matrix_products_round() {
    const ROWS: usize = 700;
    let _together = CANCELLING.read();
    for dims in [3usize, 13, 96, 400] {
        let near = clustered(ROWS, dims, 3);
        let moved =
            |offset: f32, spread: f32| near.iter().map(|value| offset + spread * value).collect::<Vec<f32>>();
        let repeated = near[..dims].repeat(ROWS);
        for (what, rows) in [
            ("far from the origin", moved(1e4, 1e-2)),
            ("large", moved(0.0, 1e17)),
            ("overflowing", moved(1e19, 1e19)),
            ("small", moved(0.0, 1e-20)),
            ("denormal", moved(0.0, 1e-39)),
            ("all alike", repeated),
            ("zero", vec![0.0; ROWS * dims]),
        ] {
            for metric in [Metric::L2, Metric::InnerProduct, Metric::L1] {
                let index = open(&serialised(&build("Flat", metric, &rows, dims).unwrap()), metric).unwrap();
                assert_each_as_alone(
                    &index,
                    &rows[..64 * dims],
                    20,
                    None,
                    &format!("{what}, {dims}, {metric:?}"),
                );
            }
        }
    }
}

#[test]
fn a_query_that_does_not_fit_leaves_the_others_alone() {
    let _together = CANCELLING.read();
    let rows = clustered(1_000, 16, 1);
    let index = open(&serialised(&build("HNSW16", Metric::L2, &rows, 16).unwrap()), Metric::L2).unwrap();
    let mut queries = rows[..40 * 16].to_vec();
    queries[16 * 7] = 1e30;
    queries[16 * 9] = f32::NAN;
    let found = search_each(&index, &queries, 5, &narrow(), None).unwrap();
    for (at, hits) in found.iter().enumerate() {
        match hits {
            None => assert!(at == 7 || at == 9, "query {at}"),
            Some(hits) => assert_eq!((hits[0].position, hits[0].distance), (at as u64, 0.0)),
        }
    }
}

#[test]
fn distances_of_a_batch_are_those_of_its_queries() {
    let _together = CANCELLING.read();
    for (metric, dims) in Metric::ALL.into_iter().zip([2, 17, 384, 24]) {
        let (rows, queries) = (clustered(100, dims, 1), clustered(33, dims, 2));
        let each = on_worker(THREADS, &mut || (), || metric.distances_each(dims, &queries, &rows)).unwrap();
        let mut alone = Vec::new();
        for query in queries.chunks_exact(dims) {
            metric.distances(query, &rows, &mut alone);
        }
        assert_eq!(each, alone);
    }
}

#[test]
fn a_batch_ends_soon_after_a_cancel() {
    let _alone = CANCELLING.write();
    initialise(|| false);
    let rows = clustered(40_000, 64, 1);
    for factory in ["Flat", "IVF64,Flat", "HNSW8"] {
        let index = open(&serialised(&build(factory, Metric::L2, &rows, 64).unwrap()), Metric::L2).unwrap();
        let params = SearchParams { nprobe: Some(64), ef_search: Some(2_000), ..narrow() };
        let queries = rows.repeat(5);
        let start = Instant::now();
        let outcome = on_worker_until(start + Duration::from_millis(50), || {
            index.search_each(&queries, 10, &params, None)
        });
        assert!(matches!(outcome, Err(EngineError::Interrupted)), "{factory}");
        assert!(start.elapsed() < Duration::from_secs(5), "{factory} went on for {:?}", start.elapsed());
    }
}

fn on_worker_until<T: Send>(end: Instant, work: impl FnOnce() -> T + Send) -> T {
    vekter_engine::on_worker_while(THREADS, &mut || Instant::now() < end, work).0
}
