//! Every form of factory string that FAISS 1.12 knows for float vectors (faiss/index_factory.cpp): it works, or is
//! refused with a reason of its own.

use super::data::*;
use vekter_engine::{Builder, EngineError, Metric};

const DIMS: usize = 16;
const ROWS: usize = 1_200;

/// In the order of index_factory.cpp.
const ACCEPTED: &[&str] = &[
    "PCA8,Flat",
    "PCAW8,Flat",
    "PCAR8,Flat",
    "PCAWR8,Flat",
    "L2norm,Flat",
    "L2Norm,Flat",
    "RR,Flat",
    "RR8,Flat",
    "ITQ,Flat",
    "ITQ8,Flat",
    "OPQ4,Flat",
    "OPQ4_8,Flat",
    "Pad32,Flat",
    "IVF8,Flat",
    "IVF8_HNSW,Flat",
    "IVF8_HNSW8,Flat",
    "IVF8,SQ4",
    "IVF8,SQ6",
    "IVF8,SQ8",
    "IVF8,SQfp16",
    "IVF8,SQbf16",
    "IVF8,SQ8_direct",
    "IVF8,SQ8_direct_signed",
    "IVF8,PQ4",
    "IVF8,PQ4x6",
    "IVF8,PQ4np",
    "IVF8,PQ4x6np",
    "IVF8,PQ4x4fs",
    "IVF8,PQ4x4fsr",
    "IVF8,PQ4x4fs_32",
    "IVF8,RQ3x4",
    "IVF8,RQ2x4_1x6_Nfloat",
    "IVF8,LSQ3x4_Nqint8",
    "IVF8,PRQ2x2x4_Nqint4",
    "IVF8,PLSQ2x2x4_Nnone",
    "IVF8,RQ6x4fs_Nrq2x4",
    "IVF8,RQ6x4fsr_Nlsq2x4",
    "IVF8,LSQ6x4fs_32_Nlsq2x4",
    "IVF8,PRQ2x3x4fsr_32_Nrq2x4",
    "IVF8,PLSQ2x3x4fs_Nrq2x4",
    "IVF8,RaBitQ",
    "HNSW",
    "HNSW8",
    "HNSW8,Flat",
    "HNSW8_Flat",
    "HNSW8,PQ4",
    "HNSW8_PQ4x6np",
    "HNSW8,SQ8",
    "Flat",
    "LSH",
    "LSH8",
    "LSHr",
    "LSHt",
    "LSH8rt",
    "SQ4",
    "SQ6",
    "SQ8",
    "SQfp16",
    "SQbf16",
    "SQ8_direct",
    "SQ8_direct_signed",
    "PQ4",
    "PQ4x6",
    "PQ4x6np",
    "PQ4x4fs",
    "PQ4x4fs_32",
    "PQ4x4fs_64",
    "RQ3x4",
    "RQ2x4_1x6",
    "RQ3x4_Nnone",
    "RQ3x4_Nfloat",
    "RQ3x4_Nqint8",
    "RQ3x4_Nqint4",
    "RQ3x4_Nlsq2x4",
    "RQ3x4_Nrq2x4",
    "LSQ3x4",
    "LSQ3x4_Nqint8",
    "PRQ2x2x4_Nfloat",
    "PLSQ2x2x4_Nrq2x4",
    "LSQ6x4fs_Nlsq2x4",
    "RQ6x4fs_32_Nrq2x4",
    "PLSQ2x3x4fs_Nlsq2x4",
    "PRQ2x3x4fs_Nrq2x4",
    "RaBitQ",
    "SQ8,RFlat",
    "SQ8,Refine(Flat)",
    "PQ4,Refine(SQ8)",
    "PQ4,Refine(PQ8)",
];

/// Under inner product only: codes without norms.
const INNER_PRODUCT: &[&str] =
    &["RQ6x4fs", "LSQ6x4fs_32_Nnone", "PRQ2x3x4fs", "IVF8,RQ6x4fsr", "IVF8,PLSQ2x3x4fs_Nnone"];

/// With words of the reason.
const REFUSED: &[(&str, &str)] = &[
    ("IMI2x4,PQ4", "use IVFn_HNSW"),
    ("IVF8_NSG8,Flat", "cannot be cancelled"),
    ("IVF8(Flat),Flat", "parentheses"),
    ("IVF8(RCQ2x4),PQ4", "parentheses"),
    ("Residual8,PQ4", "cannot search"),
    ("Residual2x4,PQ4", "cannot search"),
    ("IVF8,FlatDedup", "equal rows"),
    ("IVF8,PQ4+4", "Refine"),
    ("IVF8,PQ4x4fs_64", "blocks of 32"),
    ("IVF8,ITQ8,SH", "RaBitQ"),
    ("IVF8,PCAR8,SH4g", "RaBitQ"),
    ("HNSW8_16+PQ4", "HNSW takes"),
    ("HNSW8_2x4+PQ4", "HNSW takes"),
    ("HNSW8,RQ3x4", "HNSW takes"),
    ("NSG", "use HNSW"),
    ("NSG8", "use HNSW"),
    ("NSG8,Flat", "use HNSW"),
    ("NSG8_PQ4", "use HNSW"),
    ("NSG8,SQ8", "use HNSW"),
    ("ZnLattice2x8_4", "no bound"),
    ("RCQ2x4", "holds no rows"),
    ("LSCQ2x4", "holds no rows"),
    ("RQ3x4_Ncqint8", "_Nqint8"),
    ("RQ3x4_Ncqint4", "_Nqint8"),
    ("PLSQ2x2x4_Ncqint8", "_Nqint8"),
    ("RQ6x4fs_64_Nrq2x4", "cannot be read"),
    ("RQ6x4fs", "append _Nrq2x4"),
    ("RQ6x4fs_Nfloat", "_Nrq2x4"),
    ("MinMax,SQ8", "cannot search"),
    ("MinMaxFP16,SQ8", "cannot search"),
    ("PQ4,Refine(HNSW8)", "Refine takes"),
    ("IDMap,Flat", "id maps"),
    ("IDMap2,Flat", "id maps"),
    ("Flat,IDMap", "id maps"),
    ("BIVF8", "binary"),
    ("BHNSW8", "binary"),
    ("BFlat", "binary"),
];

fn works(factory: &str, metric: Metric) {
    let _shared = CANCELLING.read();
    let rows = prepared(metric, clustered(ROWS, DIMS, 1), DIMS);
    let built = build(factory, metric, &rows, DIMS).unwrap_or_else(|error| panic!("{factory}: {error}"));
    let opened = open(&serialised(&built), metric).unwrap_or_else(|error| panic!("{factory}: {error}"));
    let hits = opened.search(&rows[..DIMS], 100, &opened.max_useful(), None).unwrap();
    check_form(&hits, 100, ROWS, None);
    assert_eq!(hits.len(), 100, "{factory}");
}

#[test]
fn every_form_of_faiss_works_or_is_refused_with_a_reason_of_its_own() {
    for factory in ACCEPTED {
        works(factory, Metric::L2);
    }
    for factory in INNER_PRODUCT {
        works(factory, Metric::InnerProduct);
        works(factory, Metric::Cosine);
    }
    for (factory, words) in REFUSED {
        match Builder::new(factory, DIMS, Metric::L2) {
            Err(EngineError::Refused { reason, .. }) => {
                assert!(reason.contains(words), "{factory}: {reason}")
            }
            other => panic!("{factory}: {other:?}"),
        }
    }
}
