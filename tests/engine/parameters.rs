//! Search parameters do what FAISS says they do.

use super::data::*;
use vekter_engine::{KnownParams, Metric, SearchParams};

const DIMS: usize = 32;
const ROWS: usize = 4_000;
const K: usize = 10;

/// Mean recall@10 over some queries, and hits in all, of a search with parameters as text.
fn measured(factory: &str, metric: Metric, params: &[&str]) -> Vec<(f64, usize)> {
    let rows = prepared(metric, clustered(ROWS, DIMS, 1), DIMS);
    let queries = prepared(metric, clustered(50, DIMS, 2), DIMS);
    let opened = open(&serialised(&build(factory, metric, &rows, DIMS).unwrap()), metric).unwrap();
    let truth: Vec<_> = queries.chunks(DIMS).map(|query| exact(metric, query, &rows, None)).collect();
    params
        .iter()
        .map(|text| {
            let params = SearchParams::parse(text, &KnownParams::of(factory, Some(metric))).unwrap();
            let mut found = 0;
            let queries: Vec<_> = std::iter::zip(queries.chunks(DIMS), &truth).collect();
            let share = mean(&queries, |(query, truth)| {
                let hits = opened.search(query, K, &params, None).unwrap();
                check_form(&hits, K, ROWS, None);
                found += hits.len();
                recall(&hits, truth, K)
            });
            (share, found)
        })
        .collect()
}

#[test]
fn a_limit_on_codes_ends_the_scan_of_lists() {
    let _shared = CANCELLING.read();
    let [few, many, all] = measured(
        "IVF32,Flat",
        Metric::L2,
        &["nprobe=32,max_codes=50", "nprobe=32,max_codes=1000", "nprobe=32,max_codes=0"],
    )[..] else {
        panic!("three searches")
    };
    assert!(few.0 < many.0 && many.0 <= all.0 && all.0 > 0.999, "{few:?} {many:?} {all:?}");
}

#[test]
fn polysemous_codes_are_left_out_by_bits() {
    let _shared = CANCELLING.read();
    let found = measured("PQ8", Metric::L2, &["ht=1", "ht=24", "ht=64", ""]);
    assert!(found[0].1 < found[1].1 && found[1].1 <= found[2].1, "{found:?}");
    assert_eq!(found[2], found[3], "as many bits as a code has leave nothing out");
}

#[test]
fn more_bits_of_a_query_find_more() {
    let _shared = CANCELLING.read();
    for factory in ["RaBitQ", "IVF8,RaBitQ"] {
        let found = measured(factory, Metric::L2, &["qb=1", "qb=8", "qb=0"]);
        assert!(found[0].0 < found[1].0 && (found[1].0 - found[2].0).abs() < 0.03, "{factory}: {found:?}");
    }
}

#[test]
fn a_graph_over_centroids_finds_them_better_with_a_longer_queue() {
    let _shared = CANCELLING.read();
    let texts = ["nprobe=1,quantizer_efSearch=1", "nprobe=1,quantizer_efSearch=64", "nprobe=1,efSearch=64"];
    let found = measured("IVF64_HNSW4,Flat", Metric::L2, &texts);
    assert!(found[0].0 <= found[1].0, "{found:?}");
    assert_eq!(found[1], found[2], "another name for it");
}
