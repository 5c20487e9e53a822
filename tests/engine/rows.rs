//! Rows that are read back from an index: the ones that were added, or what their codes make of them.

use super::data::*;
use super::families::{DIMS, FAMILIES, ROWS, each_metric};
use vekter_engine::{EngineError, Metric, OpenIndex, SearchParams};

/// Rows by position, each of which must come once.
pub fn read_back(opened: &OpenIndex, batch_rows: usize) -> Vec<f32> {
    let (dims, rows) = (opened.dims(), opened.rows() as usize);
    let mut values = vec![f32::NAN; rows * dims];
    let mut came = vec![false; rows];
    opened
        .all_rows(batch_rows, &mut |positions, batch| {
            assert!(!positions.is_empty() && positions.len() <= batch_rows);
            assert_eq!(batch.len(), positions.len() * dims);
            for (&position, row) in std::iter::zip(positions, batch.chunks(dims)) {
                let position = position as usize;
                assert!(!std::mem::replace(&mut came[position], true), "row {position} came twice");
                values[position * dims..][..dims].copy_from_slice(row);
            }
            true
        })
        .unwrap();
    assert!(came.into_iter().all(|came| came), "a row did not come");
    values
}

/// Mean of |decoded - row|^2, divided by the variance of the rows.
fn relative_error(decoded: &[f32], rows: &[f32]) -> f64 {
    let count = (rows.len() / DIMS) as f64;
    let mut centre = [0f64; DIMS];
    for row in rows.chunks(DIMS) {
        for (sum, value) in std::iter::zip(&mut centre, row) {
            *sum += f64::from(*value) / count;
        }
    }
    let squares = |values: &[f32], of: &dyn Fn(usize) -> f64| {
        values.iter().enumerate().map(|(i, value)| (f64::from(*value) - of(i)).powi(2)).sum::<f64>()
    };
    squares(decoded, &|i| f64::from(rows[i])) / squares(rows, &|i| centre[i % DIMS])
}

/// The error that a family may make. Where the transform or the codec forgets lengths, only directions come back.
fn error_limit(factory: &str) -> Option<f64> {
    let parts: Vec<&str> = factory.split(',').collect();
    let has = |part: &str| factory.contains(part);
    match parts.last() {
        Some(&"Refine(SQ8)") => Some(1e-3),
        Some(&"Refine(SQfp16)") => Some(1e-6),
        _ if has("LSH") || has("L2norm") => None,
        // Before the scalar quantisers: "LSQ6x6" contains "SQ6".
        _ if has("LSQ") => Some(0.25),
        _ if has("fp16") => Some(1e-6),
        _ if has("bf16") => Some(1e-4),
        _ if has("SQ8") => Some(1e-3),
        _ if has("SQ6") => Some(1e-2),
        _ if has("SQ4") => Some(3e-2),
        _ if has("RaBitQ") => Some(0.6),
        // PQ of 64 bits a row, and half of the dimensions.
        _ => Some(0.25),
    }
}

#[test]
fn an_index_that_stores_rows_gives_them_back_bit_by_bit() {
    let mut stored = 0;
    for family in FAMILIES {
        each_metric(family, |_, opened, rows, _| {
            assert!(!family.exact || opened.stores_rows(), "{}", family.factory);
            if opened.stores_rows() {
                stored += 1;
                assert!(opened.can_decode());
                for batch_rows in [1 << 20, 1000, 7] {
                    assert!(read_back(&opened, batch_rows) == rows, "{}", family.factory);
                }
            }
        });
    }
    assert!(stored > 30);
}

#[test]
fn transforms_and_lossy_codes_do_not_claim_to_store_rows() {
    for family in FAMILIES.iter().filter(|family| !family.factory.ends_with(",RFlat")) {
        let lossy = ["PQ", "SQ", "RQ", "LSH", "RaBitQ", "PCA", "RR", "L2norm", "OPQ", "ITQ", "Pad"];
        let is_lossy = lossy.iter().any(|part| family.factory.contains(part));
        each_metric(family, |_, opened, _, _| {
            assert_eq!(opened.stores_rows(), !is_lossy || family.exact, "{}", family.factory);
        });
    }
}

#[test]
fn decoded_rows_are_as_near_as_the_codec_allows() {
    for family in FAMILIES {
        each_metric(family, |built, opened, rows, _| {
            let (factory, metric) = (family.factory, built.metric);
            let undone = !factory.contains("PCAW") && !factory.contains("ITQ");
            assert_eq!(opened.can_decode(), undone, "{factory}");
            if !undone {
                let nothing = opened.all_rows(100, &mut |_, _| panic!("there is nothing to show"));
                assert!(matches!(nothing, Err(EngineError::Refused { .. })), "{factory}");
                let nothing = opened.rows_at(&[1], &mut Vec::new());
                assert!(matches!(nothing, Err(EngineError::Refused { .. })), "{factory}");
                return;
            }
            let decoded = read_back(&opened, 1000);
            assert!(decoded.iter().all(|value| value.is_finite()), "{factory}");
            let Some(limit) = error_limit(factory) else { return };
            let error = relative_error(&decoded, rows);
            if std::env::var_os("VEKTER_SHOW").is_some() {
                println!("{factory:32} {:7} {error:.6}", metric.name());
            }
            assert!(error <= limit, "{factory} under {metric:?}: {error} > {limit}");
        });
    }
}

#[test]
fn signs_come_back_as_they_were_coded() {
    for factory in ["LSH", "LSHrt"] {
        let family = FAMILIES.iter().find(|family| family.factory == factory).unwrap();
        each_metric(family, |built, opened, _, _| {
            let decoded = read_back(&opened, 1000);
            let mut again = built.resume(false);
            again.add(&decoded).unwrap();
            assert!(serialised(&again) == built.serial, "{factory}: other codes for the decoded rows");
        });
    }
}

#[test]
fn rows_at_positions_are_those_of_all_rows() {
    let mut random = Random(17);
    for family in FAMILIES {
        each_metric(family, |_, opened, _, _| {
            if !opened.can_decode() {
                return;
            }
            let all = read_back(&opened, ROWS);
            // In no order, the first, the last, and one twice.
            let mut positions: Vec<u64> = (0..50).map(|_| random.below(ROWS) as u64).collect();
            positions.extend([ROWS as u64 - 1, 0, positions[7]]);
            let mut rows = vec![0.5; 3];
            opened.rows_at(&positions, &mut rows).unwrap();
            assert_eq!(rows.len(), 3 + positions.len() * DIMS);
            assert_eq!(rows[..3], [0.5; 3], "what was there stays");
            for (&position, row) in std::iter::zip(&positions, rows[3..].chunks(DIMS)) {
                let expected = &all[position as usize * DIMS..][..DIMS];
                // Products of matrices are added up in another order for another number of rows.
                let near = std::iter::zip(row, expected).all(|(a, b)| (a - b).abs() <= 1e-4);
                assert!(near, "{}: row {position}", family.factory);
                assert!(!opened.stores_rows() || row == expected, "{}", family.factory);
            }
            opened.rows_at(&[], &mut rows).unwrap();
            assert_eq!(rows.len(), 3 + positions.len() * DIMS);
        });
    }
}

#[test]
fn distances_at_positions_are_those_of_the_rows_that_are_stored() {
    let mut random = Random(18);
    let mut measured = 0;
    for family in FAMILIES {
        each_metric(family, |built, opened, rows, queries| {
            let metric = built.metric;
            let mut positions: Vec<u64> = (0..500).map(|_| random.below(ROWS) as u64).collect();
            positions.extend([0, ROWS as u64 - 1]);
            positions.sort_unstable();
            positions.dedup();
            let query = &queries[..DIMS];
            let Some(found) = opened.distances_at(query, &positions).unwrap() else {
                assert!(!opened.stores_rows() || metric == Metric::L1, "{}", family.factory);
                return;
            };
            let mut expected = Vec::new();
            metric.distances(query, rows, &mut expected);
            for (&position, distance) in std::iter::zip(&positions, found) {
                let right = expected[position as usize];
                assert!(
                    (distance - right).abs() <= 1e-3 * right.abs().max(1.0),
                    "{}: row {position}",
                    family.factory
                );
            }
            assert_eq!(opened.distances_at(query, &[]).unwrap(), Some(Vec::new()));
            for wrong in [&[1, 1][..], &[2, 1], &[ROWS as u64]] {
                assert!(matches!(opened.distances_at(query, wrong), Err(EngineError::BadParameter { .. })));
            }
            measured += 1;
        });
    }
    assert!(measured > 10, "{measured}");
}

#[test]
fn positions_that_do_not_exist_are_an_error_and_leave_nothing() {
    let _shared = CANCELLING.read();
    for factory in ["Flat", "IVF8,Flat", "IVF8,PQ8,RFlat"] {
        let opened = open(
            &serialised(&build(factory, Metric::L2, &clustered(600, DIMS, 1), DIMS).unwrap()),
            Metric::L2,
        )
        .unwrap();
        let mut rows = vec![0.5; 3];
        for position in [600, u64::MAX] {
            let outcome = opened.rows_at(&[0, position, 1], &mut rows);
            assert!(matches!(outcome, Err(EngineError::BadParameter { .. })), "{factory}: {outcome:?}");
            assert_eq!(rows, [0.5; 3]);
        }
    }
}

#[test]
fn a_visitor_can_stop() {
    let _shared = CANCELLING.read();
    for factory in ["Flat", "IVF8,Flat"] {
        let opened = open(
            &serialised(&build(factory, Metric::L2, &clustered(600, DIMS, 1), DIMS).unwrap()),
            Metric::L2,
        )
        .unwrap();
        let mut batches = 0;
        opened
            .all_rows(50, &mut |_, _| {
                batches += 1;
                batches < 3
            })
            .unwrap();
        assert_eq!(batches, 3);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            opened.all_rows(50, &mut |_, _| panic!("as an error unwinds"))
        }));
        assert!(panic.is_err());
    }
}

#[test]
fn an_index_without_rows_shows_none() {
    let _shared = CANCELLING.read();
    for factory in ["Flat", "HNSW32", "SQfp16", "LSH"] {
        let opened = open(&serialised(&build(factory, Metric::L2, &[], DIMS).unwrap()), Metric::L2).unwrap();
        opened.all_rows(10, &mut |_, _| panic!("a row came")).unwrap();
        assert_eq!(opened.imbalance(), None);
    }
}

#[test]
fn imbalance_tells_equal_lists_from_unequal_ones() {
    for family in FAMILIES {
        each_metric(family, |_, opened, _, _| {
            let factor = opened.imbalance();
            assert_eq!(factor.is_some(), family.factory.contains("IVF"), "{}", family.factory);
            assert!(
                factor.is_none_or(|factor| (1.0..10.0).contains(&factor)),
                "{}: {factor:?}",
                family.factory
            );
        });
    }
    let _shared = CANCELLING.read();
    let mut builder = build("IVF16,Flat", Metric::L2, &clustered(1_000, DIMS, 1), DIMS).unwrap();
    // All into one list.
    builder.add(&clustered(1, DIMS, 3).repeat(50_000)).unwrap();
    let factor = open(&serialised(&builder), Metric::L2).unwrap().imbalance().unwrap();
    assert!((14.0..=16.0).contains(&factor), "{factor}");
}

/// IEEE's 16-bit floats: multiples of 1/64, of few enough bits.
fn halves(rows: usize, dims: usize, seed: u64) -> Vec<f32> {
    clustered(rows, dims, seed).into_iter().map(|value| (value * 64.0).round() / 64.0).collect()
}

#[test]
fn codes_of_halves_are_the_rows_where_the_rows_were_halves() {
    let _shared = CANCELLING.read();
    let rows = halves(1_000, DIMS, 11);
    for (factory, is_kept) in [
        ("SQfp16", true),
        ("HNSW16,SQfp16", true),
        ("HNSW16,SQbf16", false),
        ("IVF4,SQfp16", false),
        ("RR,SQfp16", false),
    ] {
        for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
            let rows = prepared(metric, rows.clone(), DIMS);
            let serial = serialised(&build(factory, metric, &rows, DIMS).unwrap());
            let opened = open(&serial, metric).unwrap();
            assert!(!opened.stores_rows(), "{factory}: nobody said that the rows are halves");
            let opened = opened.of_halves(true);
            assert_eq!(opened.stores_rows(), is_kept && metric != Metric::Cosine, "{factory} {metric:?}");
            assert_eq!(opened.ranks_exactly(), opened.stores_rows());
            if !opened.stores_rows() {
                continue;
            }
            assert!(read_back(&opened, 100) == rows, "{factory}");
            let query = &rows[7 * DIMS..8 * DIMS];
            for hit in opened.search(query, 10, &SearchParams::default(), None).unwrap() {
                let mut distance = Vec::new();
                metric.distances(query, &rows[hit.position as usize * DIMS..][..DIMS], &mut distance);
                assert!((distance[0] - hit.distance).abs() <= 1e-4 * distance[0].abs().max(1.0), "{factory}");
            }
        }
    }
}
