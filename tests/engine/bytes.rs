//! Bytes that are not what was written. Their owner checks them before the engine sees them, so this is about bytes
//! of another index or version, and a second line behind a checksum.

use super::data::*;
use super::process;
use vekter_engine::{Builder, EngineError, Metric};

const DIMS: usize = 16;
const ROWS: usize = 600;

const FACTORIES: &[&str] = &[
    "Flat",
    "HNSW8",
    "IVF8,Flat",
    "IVF8_HNSW8,PQ4x4",
    "IVF8,PQ4x4fs,RFlat",
    "IVF8,SQ8",
    "IVF8,RaBitQ",
    "SQ8",
    "PQ4x4",
    "PQ4x4fs",
    "LSH",
    "RaBitQ",
    "RQ4x4_Nrq2x4",
    "LSQ3x4_Nfloat",
    "PRQ2x2x4",
    "RQ7x4fs_Nrq2x4",
    "IVF8,PLSQ2x2x4_Nqint8",
    "IVF8,PRQ2x4x4fsr_Nrq2x4",
    "OPQ4,PQ4x4",
    "PCA8,HNSW8,SQ8",
    "ITQ8,LSH",
];

#[test]
fn truncated_bytes_are_corrupt() {
    process::alone("bytes::truncated_bytes_are_corrupt", 4_000, || {
        for factory in FACTORIES {
            let serial = serialised(&build(factory, Metric::L2, &clustered(ROWS, DIMS, 1), DIMS).unwrap());
            let near_the_ends = (0..100).chain(serial.len() - 50..serial.len());
            for length in near_the_ends.chain((100..serial.len()).step_by(serial.len() / 97)) {
                let error = open(&serial[..length], Metric::L2).unwrap_err();
                assert!(matches!(error, EngineError::Corrupt { .. }), "{factory} cut to {length}: {error:?}");
                let error = Builder::resume(factory, DIMS, Metric::L2, &serial[..length], true).unwrap_err();
                assert!(matches!(error, EngineError::Corrupt { .. }), "{factory} cut to {length}: {error:?}");
            }
            let mut longer = serial.clone();
            longer.push(0);
            assert!(matches!(open(&longer, Metric::L2), Err(EngineError::Corrupt { .. })), "{factory}");
        }
    })
    .assert_success();
}

#[test]
fn bytes_of_something_else_are_corrupt() {
    let _shared = CANCELLING.read();
    vekter_engine::initialise(|| false);
    let mut random = Random(9);
    let noise: Vec<u8> = (0..4_096).map(|_| random.next() as u8).collect();
    for bytes in [&noise[..], &[0; 4_096], &[0xff; 4_096], b"", b"IxF2", b"null", b"IxMp", b"%PDF-1.4"] {
        assert!(matches!(open(bytes, Metric::L2), Err(EngineError::Corrupt { .. })));
        let resumed = Builder::resume("Flat", DIMS, Metric::L2, bytes, true);
        assert!(matches!(resumed, Err(EngineError::Corrupt { .. })));
    }
    let flat = serialised(&build("Flat", Metric::L2, &clustered(10, DIMS, 1), DIMS).unwrap());
    assert!(matches!(open(&flat, Metric::InnerProduct), Err(EngineError::Corrupt { .. })), "another metric");
    assert!(open(&flat, Metric::Cosine).is_ok(), "Euclidean distance orders unit vectors like cosine");
}

#[test]
fn a_range_beyond_the_bytes_is_corrupt() {
    use std::sync::Arc;
    use vekter_engine::{MappedBytes, OpenIndex};
    let bytes: Arc<dyn MappedBytes> = Arc::new(vec![0u8; 100]);
    for range in [0..101, 100..101, 50..usize::MAX] {
        let error = OpenIndex::open(Arc::clone(&bytes), range, Metric::L2).unwrap_err();
        assert!(matches!(error, EngineError::Corrupt { .. }));
    }
}

#[test]
fn flipped_bits_in_headers_are_an_error_or_another_answer() {
    process::alone("bytes::flipped_bits_in_headers_are_an_error_or_another_answer", 4_000, || {
        let rows = clustered(ROWS, DIMS, 1);
        let mut random = Random(31);
        for factory in FACTORIES {
            let serial = serialised(&build(factory, Metric::L2, &rows, DIMS).unwrap());
            for _ in 0..60 {
                let mut flipped = serial.clone();
                let (at, bit) = (random.below(160), random.below(8));
                flipped[at] ^= 1 << bit;
                println!("{factory}: bit {bit} of byte {at}");
                if let Ok(opened) = open(&flipped, Metric::L2) {
                    let query = vec![0.5; opened.dims()];
                    // What is found is not what was stored, but nothing is read that is not there.
                    let _ = opened.search(&query, 10, &narrow(), None);
                    let _ = opened.all_rows(100, &mut |_, _| true);
                    let _ = opened.rows_at(&[0], &mut Vec::new());
                }
                for keep_rows in [false, true] {
                    if let Ok(mut resumed) = Builder::resume(factory, DIMS, Metric::L2, &flipped, keep_rows) {
                        let _ = resumed.add(&rows[..10 * DIMS]);
                        let _ = resumed.write(&mut std::io::sink());
                    }
                }
            }
        }
    })
    .assert_success();
}

#[test]
fn the_head_of_a_flat_index_and_its_rows_are_what_faiss_writes() {
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine, Metric::L1] {
        for rows in [1, 7, 1_000] {
            let values = clustered(rows, DIMS, 5);
            let mut bytes = vekter_engine::flat_head(DIMS, metric, rows as u64).unwrap();
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            assert_eq!(
                bytes,
                serialised(&build("Flat", metric, &values, DIMS).unwrap()),
                "{metric:?} {rows}"
            );
        }
    }
}
