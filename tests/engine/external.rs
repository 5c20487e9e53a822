//! FAISS's files that came from elsewhere: read as what they are, or refused, whatever is in them.

use super::data::*;
use super::process;
use vekter_engine::{Builder, ExternalIndex, ExternalIndexError, Metric, SearchParams};

const DIMS: usize = 16;
const ROWS: usize = 500;

/// Factory strings, and under which metrics.
const FACTORIES: &[(&str, &[Metric])] = &[
    ("Flat", &Metric::ALL),
    ("HNSW8", &Metric::ALL),
    ("HNSW8_SQ8", &[Metric::L2, Metric::InnerProduct, Metric::Cosine]),
    ("HNSW8_PQ4x4", &[Metric::L2, Metric::Cosine]),
    ("IVF8,Flat", &Metric::ALL),
    ("IVF8_HNSW4,PQ4x4", &[Metric::L2, Metric::InnerProduct]),
    ("IVF8,PQ4x8", &[Metric::L2, Metric::Cosine]),
    ("IVF8,PQ4x4fs,RFlat", &[Metric::L2, Metric::Cosine]),
    ("IVF8,PQ8x4fsr", &[Metric::L2]),
    ("IVF8,SQ8", &[Metric::L2, Metric::InnerProduct]),
    ("IVF8,SQfp16", &[Metric::L2]),
    ("SQ4", &[Metric::L2, Metric::Cosine]),
    ("SQ6", &[Metric::L2]),
    ("SQbf16", &[Metric::L2]),
    ("SQ8_direct", &[Metric::L2]),
    ("PQ4x6", &[Metric::L2]),
    ("PQ4x4fs", &[Metric::L2, Metric::Cosine]),
    ("PQ8x4fs_64", &[Metric::L2]),
    ("PQ4x4,Refine(SQ8)", &[Metric::L2]),
    ("OPQ4,IVF8,PQ4x4", &[Metric::L2, Metric::Cosine]),
    ("OPQ4_8,PQ4x4", &[Metric::L2]),
    ("PCA8,HNSW8_SQ8", &[Metric::L2]),
    ("PCAWR8,Flat", &[Metric::L2]),
    ("RR,Flat", &[Metric::L2]),
    ("Pad20,IVF8,Flat", &[Metric::L2]),
    ("L2norm,SQ8", &[Metric::L2, Metric::InnerProduct]),
    ("L2norm,PCA8,IVF8,Flat,RFlat", &[Metric::L2]),
];

fn rows(metric: Metric) -> Vec<f32> {
    prepared(metric, clustered(ROWS, DIMS, 1), DIMS)
}

fn each(mut visit: impl FnMut(&str, Metric, Builder)) {
    for (factory, metrics) in FACTORIES {
        for &metric in *metrics {
            visit(factory, metric, build(factory, metric, &rows(metric), DIMS).unwrap());
        }
    }
}

fn labels() -> Vec<i64> {
    (0..ROWS as i64).map(|row| 7 * row - 1_000).collect()
}

fn labelled(builder: &mut Builder) -> Vec<u8> {
    let mut bytes = Vec::new();
    builder.write_labelled(&labels(), &SearchParams::default(), &mut bytes).unwrap();
    bytes
}

/// Does with an index what a table would. Nothing of it may end the process.
fn use_all_of(external: &ExternalIndex) {
    let rows = rows(external.metric());
    if external.dims() != DIMS {
        return;
    }
    for keep_rows in [true, false] {
        let Ok(mut builder) = external.resume(keep_rows) else { continue };
        if keep_rows && external.rows() > 50 {
            let positions: Vec<u64> = (0..50).collect();
            let _ = external.differing_rows(&builder, &positions, &rows[..50 * DIMS]);
        }
        let _ = builder.reserve(2 * ROWS as u64);
        builder.add(&rows[..20 * DIMS]).unwrap();
        let written = serialised(&builder);
        let opened = open(&written, external.metric()).unwrap();
        for query in rows.chunks(DIMS).take(5) {
            opened.search(query, 10, &narrow(), None).unwrap();
            opened.search(query, 10, &opened.max_useful(), None).unwrap();
        }
        if opened.can_decode() {
            opened.all_rows(100, &mut |_, _| true).unwrap();
        }
        Builder::resume(external.factory(), DIMS, external.metric(), &written, true).unwrap();
    }
}

#[test]
fn a_file_is_read_as_the_index_that_it_is() {
    let _shared = CANCELLING.read();
    each(|factory, metric, mut builder| {
        let before = serialised(&builder);
        let external = ExternalIndex::read(labelled(&mut builder), None).unwrap();
        let what = format!("{factory} under {metric:?} as {}", external.factory());
        assert_eq!(
            (external.rows(), external.dims(), external.labels()),
            (ROWS as u64, DIMS, Some(&labels()[..]))
        );
        // Whoever normalises himself needs no metric that does.
        let is_normalised = factory.starts_with("L2norm") && metric == Metric::InnerProduct;
        assert_eq!(external.metric(), if is_normalised { Metric::Cosine } else { metric }, "{what}");
        let resumed = external.resume(true).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let (before, after) = (open(&before, metric).unwrap(), serialised(&resumed));
        let after = open(&after, external.metric()).unwrap();
        let rows = rows(metric);
        for query in rows.chunks(DIMS).take(if is_normalised { 0 } else { 10 }) {
            let answer =
                |opened: &vekter_engine::OpenIndex| opened.search(query, 10, &narrow(), None).unwrap();
            assert_eq!(answer(&after), answer(&before), "{what}");
        }
        let stores = !factory.contains("SQ") && !factory.contains("PQ") || factory.ends_with("RFlat");
        let transformed = ["PCA", "RR", "Pad", "L2norm"].iter().any(|step| factory.starts_with(step));
        assert_eq!(external.stores_rows(), stores && (!transformed || factory.ends_with("RFlat")), "{what}");
        use_all_of(&external);
    });
}

#[test]
fn a_file_without_ids_and_one_without_rows_are_read_too() {
    let _shared = CANCELLING.read();
    each(|factory, metric, builder| {
        let external = ExternalIndex::read(serialised(&builder), Some(metric)).unwrap();
        assert_eq!((external.rows(), external.labels()), (ROWS as u64, None), "{factory}");
        let empty = serialised(&external.resume(false).unwrap());
        let external = ExternalIndex::read(empty, Some(metric)).unwrap();
        assert_eq!((external.rows(), external.metric()), (0, metric), "{factory}");
        use_all_of(&external);
    });
}

#[test]
fn rows_are_told_from_others() {
    let _shared = CANCELLING.read();
    let positions: Vec<u64> = (0..ROWS as u64).collect();
    each(|factory, metric, builder| {
        let rows = rows(metric);
        let others = prepared(metric, clustered(ROWS, DIMS, 2), DIMS);
        let mut external = ExternalIndex::read(serialised(&builder), Some(metric)).unwrap();
        if external.stores_rows() {
            for (position, row) in rows.chunks(DIMS).enumerate() {
                let nearly: Vec<f32> = row.iter().map(|value| value * (1.0 + f32::EPSILON)).collect();
                assert!(external.replace_row(position as u64, &nearly), "{factory}");
                assert!(external.replace_row(position as u64, row), "{factory}");
            }
            assert!(serialised(&external.resume(true).unwrap()) == serialised(&builder), "{factory}");
            for (position, row) in others.chunks(DIMS).enumerate() {
                assert!(!external.replace_row(position as u64, row), "{factory}");
            }
        } else if factory.contains("PCAW") {
            assert!(external.differing_rows(&external.resume(true).unwrap(), &positions, &rows).is_err());
        } else {
            let builder = external.resume(true).unwrap();
            let differing_rows =
                |rows: &[f32]| external.differing_rows(&builder, &positions, rows).unwrap().len();
            assert!(differing_rows(&rows) <= ROWS / 100, "{factory}: {}", differing_rows(&rows));
            // Integers keep nothing of these rows.
            let is_blind = factory.ends_with("_direct");
            assert!(differing_rows(&others) > ROWS / 2 || is_blind, "{factory}: {}", differing_rows(&others));
        }
    });
}

#[test]
fn truncated_and_padded_files_are_damaged() {
    let _shared = CANCELLING.read();
    each(|factory, metric, mut builder| {
        let bytes = labelled(&mut builder);
        let near_the_ends = (0..200).chain(bytes.len() - 50..bytes.len());
        for length in near_the_ends.chain((200..bytes.len()).step_by(bytes.len() / 97)) {
            let cut = ExternalIndex::read(bytes[..length].to_vec(), Some(metric));
            assert!(matches!(cut, Err(ExternalIndexError::Damaged(_))), "{factory} cut to {length}: {cut:?}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(
            matches!(ExternalIndex::read(longer, Some(metric)), Err(ExternalIndexError::Damaged(_))),
            "{factory}"
        );
    });
    for bytes in [&b""[..], b"null", b"IxMp", b"%PDF-1.4", &[0; 4096], &[0xff; 4096]] {
        assert!(ExternalIndex::read(bytes.to_vec(), None).is_err());
    }
}

#[test]
fn changed_bytes_are_an_error_or_a_sound_index() {
    process::alone("external::changed_bytes_are_an_error_or_a_sound_index", 4_000, || {
        let mut random = Random(77);
        let (mut read, mut tried) = (0, 0);
        each(|factory, metric, mut builder| {
            let bytes = labelled(&mut builder);
            for round in 0..24 {
                let mut changed = bytes.clone();
                // Headers lie at the ends; in between are arrays with their lengths.
                let at = match round % 4 {
                    0 => random.below(250),
                    1 => bytes.len() - 1 - random.below(300),
                    _ => random.below(bytes.len()),
                };
                let value: &[u8] = match random.below(6) {
                    0 => &[0xff; 8],
                    1 => &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
                    2 => &[0; 8],
                    3 => &[0, 0, 0, 0, 1, 0, 0, 0],
                    4 => &(1u64 << 40).to_le_bytes(),
                    _ => &[bytes[at] ^ 1 << random.below(8)],
                };
                let end = (at + value.len()).min(bytes.len());
                changed[at..end].copy_from_slice(&value[..end - at]);
                println!("{factory} under {metric:?}: {value:?} at {at}");
                tried += 1;
                if let Ok(external) = ExternalIndex::read(changed, None) {
                    read += 1;
                    use_all_of(&external);
                }
            }
        });
        println!("{read} of {tried} were read");
        // Else the test would test nothing but refusals.
        assert!(read > tried / 20);
    })
    .assert_success();
}

/// Each word of a small file in turn, as a length, a count or a number of bits that is far too large, or none.
#[test]
fn no_number_in_a_file_is_believed() {
    process::alone("external::no_number_in_a_file_is_believed", 2_000, || {
        for factory in ["HNSW4", "IVF2_HNSW2,PQ2x2", "IVF2,PQ2x4fs,RFlat", "PCA2,SQ8"] {
            let rows = clustered(40, 4, 1);
            let mut builder = build(factory, Metric::L2, &rows, 4).unwrap();
            let labels: Vec<i64> = (0..40).collect();
            let mut bytes = Vec::new();
            builder.write_labelled(&labels, &SearchParams::default(), &mut bytes).unwrap();
            for at in (0..300).chain((300..bytes.len() - 8).step_by(23)) {
                for value in [u64::MAX, i64::MAX as u64, 1 << 33, 0] {
                    for length in [4, 8] {
                        let mut changed = bytes.clone();
                        changed[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
                        if let Ok(external) = ExternalIndex::read(changed, None) {
                            println!("{factory}: {value} at {at}");
                            if let Ok(mut builder) = external.resume(true) {
                                builder.add(&rows[..20]).unwrap();
                                let opened = serialised(&builder);
                                let opened = open(&opened, external.metric()).unwrap();
                                opened.search(&rows[..4], 10, &narrow(), None).unwrap();
                            }
                        }
                    }
                }
            }
        }
    })
    .assert_success();
}

#[test]
fn what_is_not_taken_is_refused_with_a_reason() {
    let _shared = CANCELLING.read();
    for (factory, reason) in [
        ("LSH", "LSH codes"),
        ("RaBitQ", "RaBitQ codes"),
        ("IVF8,RaBitQ", "RaBitQ codes"),
        ("RQ4x4_Nrq2x4", "additive"),
        ("IVF8,PLSQ2x2x4_Nqint8", "additive"),
        ("ITQ8,SQ8", "transforms by ITQ"),
    ] {
        let mut builder = build(factory, Metric::L2, &rows(Metric::L2), DIMS).unwrap();
        let error = ExternalIndex::read(labelled(&mut builder), None).unwrap_err();
        assert!(matches!(error, ExternalIndexError::Family(_)), "{factory}: {error:?}");
        assert!(error.to_string().contains(reason), "{factory}: {error}");
    }
    let untrained = serialised(&Builder::new("IVF8,PQ4x4", DIMS, Metric::L2).unwrap());
    assert!(ExternalIndex::read(untrained, None).unwrap_err().to_string().contains("not trained"));
    let flat = serialised(&build("Flat", Metric::L2, &rows(Metric::L2), DIMS).unwrap());
    for metric in [Metric::InnerProduct, Metric::L1] {
        let error = ExternalIndex::read(flat.clone(), Some(metric)).unwrap_err().to_string();
        assert!(error.contains("not made for the metric"), "{error}");
    }
    let twice = vec![3; ROWS];
    let mut bytes = Vec::new();
    let mut builder = build("Flat", Metric::L2, &rows(Metric::L2), DIMS).unwrap();
    builder.write_labelled(&twice, &SearchParams::default(), &mut bytes).unwrap();
    assert!(
        ExternalIndex::read(bytes, None).unwrap_err().to_string().contains("two of its rows have the id 3")
    );
}
