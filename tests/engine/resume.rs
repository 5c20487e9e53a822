//! Indexes that were written and are added to later, as when segments merge.

use super::data::*;
use super::families::{DIMS, FAMILIES, ROWS, each_metric};
use std::collections::HashSet;
use vekter_engine::{Builder, EngineError, Metric};

const QUERIES: usize = 20;
const K: usize = 10;

#[test]
fn a_resumed_index_is_the_one_that_was_written_and_has_its_own_memory() {
    for family in FAMILIES {
        each_metric(family, |built, _, _, _| {
            let mut bytes = vec![0xa5; 7];
            bytes.extend_from_slice(&built.serial);
            let resumed = Builder::resume(family.factory, DIMS, built.metric, &bytes[7..], true).unwrap();
            // Whatever still pointed there would now be written as this.
            bytes.fill(0xff);
            assert!(!resumed.needs_training());
            assert_eq!((resumed.rows(), resumed.dims()), (ROWS as u64, DIMS));
            assert!(serialised(&resumed) == built.serial, "{} under {:?}", family.factory, built.metric);
        });
    }
}

#[test]
fn a_reset_index_has_learnt_what_it_had_learnt() {
    for family in FAMILIES {
        each_metric(family, |built, _, rows, _| {
            // FAISS stores it as one of the other two.
            if built.metric == Metric::Cosine {
                return;
            }
            let mut bytes = built.serial.clone();
            let mut resumed = Builder::resume(family.factory, DIMS, built.metric, &bytes, false).unwrap();
            bytes.fill(0xff);
            assert!(!resumed.needs_training());
            assert_eq!(resumed.rows(), 0);
            let empty = open(&serialised(&resumed), built.metric).unwrap();
            assert_eq!(empty.search(&rows[..DIMS], K, &narrow(), None).unwrap(), []);
            let again = Builder::resume(family.factory, DIMS, built.metric, &serialised(&resumed), true);
            assert_eq!(again.unwrap().rows(), 0);
            // In the batches of `build`: the graph depends on them.
            let half = ROWS / 2 * DIMS;
            resumed.reserve(ROWS as u64).unwrap();
            resumed.add(&rows[..half]).unwrap();
            resumed.add(&rows[half..]).unwrap();
            assert_eq!(resumed.rows(), ROWS as u64);
            // Graphs of more than one thread come out differently each time.
            let is_graph = family.factory.contains("HNSW") && !family.factory.contains("IVF");
            // Matrix products round as their threads share them out, which hangs on the machine's load.
            let is_rotated = ["PCA", "OPQ", "ITQ", "RR"].iter().any(|step| family.factory.starts_with(step));
            assert!(is_graph || is_rotated || serialised(&resumed) == built.serial, "{}", family.factory);
        });
    }
}

#[test]
fn adding_to_a_resumed_index_answers_like_adding_to_one_that_was_never_written() {
    const MORE: usize = 800;
    for family in FAMILIES {
        each_metric(family, |built, _, rows, queries| {
            let metric = built.metric;
            // As above.
            if metric == Metric::Cosine {
                return;
            }
            let more = prepared(metric, clustered(MORE, DIMS, 5), DIMS);
            let mut resumed = built.resume(true);
            resumed.reserve((ROWS + MORE) as u64).unwrap();
            resumed.add(&more).unwrap();
            assert_eq!(resumed.rows(), (ROWS + MORE) as u64);
            let all = [rows, &more].concat();
            let resumed = serialised(&resumed);
            let opened = open(&resumed, metric).unwrap();
            let queries: Vec<&[f32]> = queries.chunks(DIMS).take(QUERIES).collect();
            let reached = |opened: &vekter_engine::OpenIndex| {
                mean(&queries, |query| {
                    let hits = opened.search(query, 100, &opened.max_useful(), None).unwrap();
                    check_form(&hits, 100, ROWS + MORE, None);
                    recall(&hits, &exact(metric, query, &all, None), K)
                })
            };
            assert!(!family.exact || reached(&opened) == 1.0, "{}", family.factory);
            if metric == Metric::L2 {
                let mut continued = build(family.factory, metric, rows, DIMS).unwrap();
                continued.add(&more).unwrap();
                let continued = serialised(&continued);
                let is_graph = family.factory.contains("HNSW") && !family.factory.contains("IVF");
                assert!(is_graph || resumed == continued, "{} under {metric:?}", family.factory);
                let (after, before) = (reached(&opened), reached(&open(&continued, metric).unwrap()));
                assert!(after >= before - 0.05, "{}: {after} < {before}", family.factory);
            }
            // The new rows take part.
            let hits: HashSet<u64> = (queries.iter())
                .flat_map(|query| opened.search(query, 100, &opened.max_useful(), None).unwrap())
                .map(|hit| hit.position)
                .collect();
            assert!(hits.iter().any(|&position| position >= ROWS as u64), "{}", family.factory);
            assert!(hits.iter().any(|&position| position < ROWS as u64), "{}", family.factory);
        });
    }
}

/// Levels are drawn anew after a resume: drawn from the start once more, all entries to the upper levels would be
/// rows of the first part.
#[test]
fn a_graph_that_is_resumed_many_times_reaches_every_row() {
    let _shared = CANCELLING.read();
    const PART: usize = 700;
    let rows = clustered(10 * PART, DIMS, 1);
    let mut builder = Builder::new("HNSW16", DIMS, Metric::L2).unwrap();
    for part in rows.chunks(PART * DIMS) {
        builder.add(part).unwrap();
        builder = Builder::resume("HNSW16", DIMS, Metric::L2, &serialised(&builder), true).unwrap();
    }
    let opened = open(&serialised(&builder), Metric::L2).unwrap();
    let queries = clustered(50, DIMS, 2);
    let queries: Vec<&[f32]> = queries.chunks(DIMS).collect();
    let reached = mean(&queries, |query| {
        let hits = opened.search(query, K, &narrow(), None).unwrap();
        recall(&hits, &exact(Metric::L2, query, &rows, None), K)
    });
    assert!(reached >= 0.99, "recall@10 is {reached}");
}

#[test]
fn bytes_of_another_factory_dimension_or_metric_are_corrupt() {
    let _shared = CANCELLING.read();
    let rows = clustered(ROWS, DIMS, 1);
    for (factory, others) in [
        ("Flat", &["SQ8", "HNSW16", "IVF64,Flat", "Flat,RFlat", "RR,Flat", "PQ8x4fs", "LSH"][..]),
        ("HNSW16", &["HNSW32", "HNSW16,SQ8", "Flat", "HNSW16,RFlat"]),
        ("HNSW16_SQ8", &["HNSW16", "HNSW16_SQfp16"]),
        ("IVF64,Flat", &["IVF32,Flat", "IVF64_HNSW32,Flat", "IVF64,SQ8", "IVF64,PQ8", "IVF64,Flat,RFlat"]),
        ("IVF64,PQ16", &["IVF64,PQ8", "IVF64,PQ16x6", "IVF64,PQ16x4fs", "IVF64,SQ8"]),
        ("IVF64,PQ16x4fs", &["IVF64,PQ8x4fs", "IVF64,PQ16x4", "IVF64,PQ16x4fsr"]),
        ("IVF64,SQ8", &["IVF64,SQ4", "IVF64,SQfp16", "IVF64,RaBitQ"]),
        ("IVF64,RaBitQ", &["IVF64,Flat", "RaBitQ"]),
        ("PQ16x4", &["PQ16", "PQ8x4", "PQ16x4fs"]),
        ("PQ16x4fs", &["PQ16x4fs_64", "PQ8x4fs"]),
        ("SQ8", &["SQ6", "SQ8_direct", "SQ8,RFlat"]),
        ("LSH", &["LSH32", "LSHr", "LSHt"]),
        ("RaBitQ", &["Flat", "LSH"]),
        (
            "RQ8x4_Nrq2x4",
            &["RQ8x4", "RQ8x4_Nlsq2x4", "RQ7x4_Nrq2x4", "LSQ8x4_Nrq2x4", "RQ8x4fs_Nrq2x4", "PQ8x4"],
        ),
        ("PRQ4x2x4", &["PRQ2x4x4", "PLSQ4x2x4", "RQ8x4"]),
        ("IVF64,RQ8x4fs_Nrq2x4", &["IVF64,RQ8x4fsr_Nrq2x4", "IVF64,RQ8x4_Nrq2x4", "IVF64,LSQ8x4fs_Nrq2x4"]),
        ("PCA32,Flat", &["PCA16,Flat", "PCAW32,Flat", "PCAR32,Flat", "OPQ8_32,Flat", "RR32,Flat", "Flat"]),
        ("RR32,Flat", &["PCA32,Flat", "OPQ8_32,Flat", "ITQ32,Flat"]),
        ("OPQ8_32,PQ8", &["PCA32,PQ8", "RR32,PQ8", "OPQ8,PQ8"]),
        ("L2norm,Flat", &["RR,Flat", "Flat", "L2norm,L2norm,Flat"]),
        ("Pad96,Flat", &["Pad128,Flat", "Flat"]),
        ("PQ16,RFlat", &["PQ16", "PQ8,RFlat", "PQ16,Refine(SQ8)"]),
    ] {
        let serial = serialised(&build(factory, Metric::L2, &rows, DIMS).unwrap());
        let resumed = |factory: &str, dims, metric| Builder::resume(factory, dims, metric, &serial, true);
        assert!(resumed(factory, DIMS, Metric::L2).is_ok(), "{factory}");
        let is_corrupt = |outcome: Result<Builder, EngineError>, what: &str| {
            assert!(matches!(outcome, Err(EngineError::Corrupt { .. })), "{factory} as {what}: {outcome:?}");
        };
        for other in others {
            is_corrupt(resumed(other, DIMS, Metric::L2), other);
        }
        is_corrupt(resumed(factory, 2 * DIMS, Metric::L2), "128 dimensions");
        // FAISS has neither LSH nor fast scan with norms under inner product.
        if !factory.starts_with("LSH") && !factory.contains("fs_N") {
            is_corrupt(resumed(factory, DIMS, Metric::InnerProduct), "inner product");
        }
    }
    let flat = serialised(&build("Flat", Metric::L2, &rows, DIMS).unwrap());
    let refused = Builder::resume("Flut", DIMS, Metric::L2, &flat, true);
    assert!(matches!(refused, Err(EngineError::Refused { .. })));
    let refused = Builder::resume("LSH", DIMS, Metric::InnerProduct, &flat, true);
    assert!(matches!(refused, Err(EngineError::Refused { .. })));
}

#[test]
fn a_resumed_builder_estimates_memory_like_a_new_one() {
    for family in FAMILIES {
        each_metric(family, |built, _, _, _| {
            let resumed = built.resume(true);
            assert_eq!(resumed.bytes_per_row(), built.builder.bytes_per_row());
            assert_eq!(resumed.fixed_bytes(1_000), built.builder.fixed_bytes(1_000));
            assert_eq!(resumed.training_rows().wanted, 0);
        });
    }
}
