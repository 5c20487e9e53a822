//! The words in which factory strings are refused.

#![allow(clippy::unwrap_used, clippy::expect_used)]
use crate::EngineError;
use crate::factory::parse;

/// Reason and guess, for 384 dimensions.
fn said(factory: &str) -> (String, Option<String>) {
    match parse(factory, 384).unwrap_err() {
        EngineError::Refused { reason, meant } => (reason, meant),
        other => panic!("{factory}: {other:?}"),
    }
}

#[test]
fn every_refusal_reads_well() {
    for (factory, reason, meant) in MESSAGES {
        let (said, guess) = said(factory);
        assert_eq!((said.as_str(), guess.as_deref()), (*reason, *meant), "{factory}");
    }
    assert_eq!(said(&"Flat,".repeat(300)).0, "factory string is longer than 1000 bytes");
}

/// String, reason, guess.
const MESSAGES: &[(&str, &str, Option<&str>)] = &[
    (
        "Flut",
        "could not use \"Flut\" as an index: it is not a FAISS index family that is known here",
        Some("Flat"),
    ),
    (
        "flt",
        "could not use \"flt\" as an index: it is not a FAISS index family that is known here",
        Some("Flat"),
    ),
    (
        "HSNW32",
        "could not use \"HSNW32\" as an index: it is not a FAISS index family that is known here",
        Some("HNSW32"),
    ),
    ("HNSW1", "\"HNSW1\": HNSW takes between 2 and 512 links", None),
    ("HNSW100000", "\"HNSW100000\": HNSW takes between 2 and 512 links", None),
    ("HNSW1000000000", "\"HNSW1000000000\": HNSW takes between 2 and 512 links", None),
    (
        "HNSW99999999999999999999999",
        "\"HNSW99999999999999999999999\": HNSW takes between 2 and 512 links",
        None,
    ),
    (
        "HNSW32Flat",
        "\"HNSW32Flat\": HNSW takes Flat, SQ or PQ codes, behind a comma, as in HNSW32,SQ8",
        Some("HNSW32,Flat"),
    ),
    (
        "HNSW32,RQ8x8",
        "\"HNSW32,RQ8x8\": HNSW takes Flat, SQ or PQ codes, behind a comma, as in HNSW32,SQ8",
        None,
    ),
    ("HNSW32,SQ5", "\"HNSW32,SQ5\": HNSW takes Flat, SQ or PQ codes, behind a comma, as in HNSW32,SQ8", None),
    (
        "NSG32",
        "could not use \"NSG32\" as an index: FAISS builds NSG graphs over all rows in one pass that cannot be cancelled, and copies them into each process that searches; use HNSW",
        None,
    ),
    (
        "NSG32,Flat",
        "could not use \"NSG32,Flat\" as an index: FAISS builds NSG graphs over all rows in one pass that cannot be cancelled, and copies them into each process that searches; use HNSW",
        None,
    ),
    (
        "IVF,Flat",
        "could not use \"IVF,Flat\" as an index: IVF takes the number of its lists, as in IVF1024,Flat",
        None,
    ),
    ("IVF", "could not use \"IVF\" as an index: IVF takes the number of its lists, as in IVF1024,Flat", None),
    (
        "IVF1024",
        "could not use \"IVF1024\" as an index: behind the lists stands how rows are coded, as in IVF1024,Flat",
        Some("IVF1024,Flat"),
    ),
    ("IVF0,Flat", "\"IVF0,Flat\": IVF takes between 1 and 1048576 lists", None),
    ("IVF100000000,Flat", "\"IVF100000000,Flat\": IVF takes between 1 and 1048576 lists", None),
    ("IVF9999999M,Flat", "\"IVF9999999M,Flat\": IVF takes between 1 and 1048576 lists", None),
    (
        "IVF1024Flat",
        "could not use \"IVF1024Flat\" as an index: behind the lists stands how rows are coded, as in IVF1024,Flat",
        Some("IVF1024,Flat"),
    ),
    (
        "IVF64,HNSW32",
        "could not use \"HNSW32\" in inverted lists: lists are no graphs; a graph over their centroids is IVFn_HNSW,Flat",
        None,
    ),
    (
        "IVF64,LSH",
        "could not use \"LSH\" in inverted lists: LSH is a scan without lists; RaBitQ keeps a bit for each dimension as well",
        None,
    ),
    (
        "IVF64,Flt",
        "could not use \"Flt\" in inverted lists: lists take Flat, SQ, PQ, RaBitQ, RQ, LSQ, PRQ and PLSQ codes",
        Some("IVF64,Flat"),
    ),
    (
        "IVF64,FlatDedup",
        "could not use \"FlatDedup\" in inverted lists: FAISS copies the table of equal rows into each process that searches; use Flat",
        None,
    ),
    ("IVF64,", "could not use \"\" in inverted lists: a part before or behind a comma is empty", None),
    (
        "IVF64,,Flat",
        "could not use \",Flat\" in inverted lists: a part before or behind a comma is empty",
        None,
    ),
    ("IVF64_HNSW0,Flat", "\"IVF64_HNSW0,Flat\": HNSW takes between 2 and 512 links", None),
    (
        "IVF64(Flat),Flat",
        "could not use \"IVF64(Flat),Flat\" as an index: an index in parentheses is understood in Refine(...) only; for a coarse quantiser use IVFn_HNSWm",
        None,
    ),
    ("IVF64,PQ7", "\"PQ7\": 7 is not a divisor of 384 dimensions; 6 and 8 are", None),
    (
        "IVF64,Flat,PCA32",
        "could not use \"Flat,PCA32\" in inverted lists: transforms and lists come before codes, and only RFlat or Refine(...) behind them",
        None,
    ),
    (
        "IVF64,PCA32,Flat",
        "could not use \"PCA32,Flat\" in inverted lists: a transform stands before an index, as in PCA64,IVF1024,Flat",
        None,
    ),
    (
        "IVF8_NSG8,Flat",
        "could not use \"IVF8_NSG8,Flat\" as an index: NSG graphs over centroids are built in a pass that cannot be cancelled; use IVFn_HNSW",
        None,
    ),
    (
        "IMI2x8,Flat",
        "could not use \"IMI2x8,Flat\" as an index: most of the 2^(2b) lists of an inverted multi-index are empty, and each takes memory in every process that searches; use IVFn_HNSW",
        None,
    ),
    ("PQ", "could not use \"PQ\" as an index: a number is missing, as in PCA64,Flat or PQ48", None),
    ("PQ0", "\"PQ0\": a vector is divided into 1 part at least", None),
    ("PQ7", "\"PQ7\": 7 is not a divisor of 384 dimensions; 6 and 8 are", None),
    ("PQ500", "\"PQ500\": 500 is not a divisor of 384 dimensions; 384 is", None),
    ("PQ48x0", "\"PQ48x0\": PQ takes between 1 and 12 bits for each part", None),
    ("PQ48x64", "\"PQ48x64\": PQ takes between 1 and 12 bits for each part", None),
    (
        "PQ48x",
        "could not use \"PQ48x\" as an index: product codes are PQ48, PQ48x10 or, for fast scan, PQ48x4fs",
        None,
    ),
    (
        "PQ48z",
        "could not use \"PQ48z\" as an index: product codes are PQ48, PQ48x10 or, for fast scan, PQ48x4fs",
        None,
    ),
    (
        "PQ8x4fsr",
        "\"PQ8x4fsr\": \"r\" is for residuals to the centroids of lists; use PQ8x4fs, or IVFn,PQ8x4fsr",
        Some("PQ8x4fs"),
    ),
    (
        "PQ8x8fs",
        "could not use \"PQ8x8fs\" as an index: fast scan takes codes of 4 bits, as in PQ48x4fs",
        Some("PQ8x4fs"),
    ),
    ("PQ8x4fs_16", "\"PQ8x4fs_16\": fast scan takes blocks of 32 codes, as in PQ8x4fs", None),
    (
        "IVF64,PQ8x4fs_64",
        "\"PQ8x4fs_64\": fast scan takes blocks of 32 codes, as in PQ8x4fs",
        Some("IVF64,PQ8x4fs"),
    ),
    (
        "IVF64,PQ8x4fsq",
        "could not use \"PQ8x4fsq\" in inverted lists: fast scan takes codes of 4 bits, as in PQ48x4fs",
        None,
    ),
    (
        "PQ48+8",
        "could not use \"PQ48+8\" as an index: FAISS copies the refining codes into each process that searches; use PQ with RFlat or Refine(...)",
        None,
    ),
    (
        "IVF64,PQ48+8",
        "could not use \"PQ48+8\" in inverted lists: FAISS copies the refining codes into each process that searches; use PQ with RFlat or Refine(...)",
        None,
    ),
    ("PQ7x4fs", "\"PQ7x4fs\": 7 is not a divisor of 384 dimensions; 6 and 8 are", None),
    (
        "SQ",
        "could not use \"SQ\" as an index: scalar codes are SQ4, SQ6, SQ8, SQfp16, SQbf16, SQ8_direct and SQ8_direct_signed",
        None,
    ),
    (
        "SQ5",
        "could not use \"SQ5\" as an index: scalar codes are SQ4, SQ6, SQ8, SQfp16, SQbf16, SQ8_direct and SQ8_direct_signed",
        None,
    ),
    (
        "SQ16",
        "could not use \"SQ16\" as an index: scalar codes are SQ4, SQ6, SQ8, SQfp16, SQbf16, SQ8_direct and SQ8_direct_signed",
        Some("SQfp16"),
    ),
    (
        "SQfp32",
        "could not use \"SQfp32\" as an index: scalar codes are SQ4, SQ6, SQ8, SQfp16, SQbf16, SQ8_direct and SQ8_direct_signed",
        None,
    ),
    ("LSH0", "\"LSH0\": LSH takes between 1 and 384 bits for 384 dimensions", None),
    ("LSH500", "\"LSH500\": LSH takes between 1 and 384 bits for 384 dimensions", None),
    (
        "LSH384x",
        "could not use \"LSH384x\" as an index: signs are LSH, LSH64, LSHr (rotated), LSHt (with thresholds) or LSH64rt",
        None,
    ),
    (
        "LSHz",
        "could not use \"LSHz\" as an index: signs are LSH, LSH64, LSHr (rotated), LSHt (with thresholds) or LSH64rt",
        Some("LSH"),
    ),
    ("PCA", "could not use \"PCA\" as an index: a number is missing, as in PCA64,Flat or PQ48", None),
    (
        "PCA,Flat",
        "could not use \"PCA,Flat\" as an index: a number is missing, as in PCA64,Flat or PQ48",
        None,
    ),
    ("PCA0,Flat", "\"PCA0\" must leave between 1 and 384 of 384 dimensions", None),
    ("PCA500,Flat", "\"PCA500\" must leave between 1 and 384 of 384 dimensions", None),
    (
        "PCA64",
        "could not use \"PCA64\" as an index: a transform stands before an index, as in PCA64,IVF1024,Flat",
        Some("PCA64,Flat"),
    ),
    (
        "PCA64Flat",
        "could not use \"PCA64Flat\" as an index: a transform stands before an index, as in PCA64,IVF1024,Flat",
        Some("PCA64,Flat"),
    ),
    ("OPQ", "could not use \"OPQ\" as an index: a number is missing, as in PCA64,Flat or PQ48", None),
    ("OPQ0,PQ8", "\"OPQ0\": a vector is divided into 1 part at least", None),
    ("OPQ7,PQ7", "\"OPQ7\": 7 is not a divisor of 384 dimensions; 6 and 8 are", None),
    ("OPQ16_500,PQ16", "\"OPQ16_500\": 16 is not a divisor of 500 dimensions; 10 and 20 are", None),
    ("OPQ16_60,PQ16", "\"OPQ16_60\": 16 is not a divisor of 60 dimensions; 15 and 20 are", None),
    ("RR500,Flat", "\"RR500\" must leave between 1 and 384 of 384 dimensions", None),
    (
        "Pad,Flat",
        "could not use \"Pad,Flat\" as an index: a number is missing, as in PCA64,Flat or PQ48",
        None,
    ),
    ("Pad17000,Flat", "\"Pad17000\": rows are padded to at most 16000 dimensions", None),
    ("ITQ500,LSH", "\"ITQ500\" must leave between 1 and 384 of 384 dimensions", None),
    (
        "L2norm",
        "could not use \"L2norm\" as an index: a transform stands before an index, as in PCA64,IVF1024,Flat",
        Some("L2norm,Flat"),
    ),
    (
        "L2,Flat",
        "could not use \"L2,Flat\" as an index: it is not a FAISS index family that is known here",
        None,
    ),
    (
        "RFlat",
        "could not use \"RFlat\" as an index: it refines an index that stands before it, as in IVF1024,PQ48,RFlat",
        None,
    ),
    (
        "Refine(SQ8)",
        "could not use \"Refine(SQ8)\" as an index: it refines an index that stands before it, as in IVF1024,PQ48,RFlat",
        None,
    ),
    ("SQ8,Refine(HNSW8)", "Refine takes Flat, SQ or PQ codes, not \"HNSW8\"", None),
    (
        "SQ8,Refine(SQ8",
        "Refine(...) must be the last part of a factory string, with one parenthesis on each side",
        None,
    ),
    (
        "SQ8,Refine(SQ8),Flat",
        "Refine(...) must be the last part of a factory string, with one parenthesis on each side",
        None,
    ),
    (
        "Flat,PCA64",
        "could not use \"Flat,PCA64\" as an index: transforms and lists come before codes, and only RFlat or Refine(...) behind them",
        None,
    ),
    (
        "HNSW32,PCA64",
        "\"HNSW32,PCA64\": HNSW takes Flat, SQ or PQ codes, behind a comma, as in HNSW32,SQ8",
        None,
    ),
    (
        "SQ8,IVF64",
        "could not use \"SQ8,IVF64\" as an index: transforms and lists come before codes, and only RFlat or Refine(...) behind them",
        None,
    ),
    ("PCA64,PCA32,PCA16,PCA8,PCA4,Flat", "more than 4 transforms before the index", None),
    (
        "RQ8",
        "could not use \"RQ8\" as an additive quantiser: its numbers cannot be read; RQ8x8 is 8 codebooks of 8 bits, PRQ4x8x8 as many for each of 4 parts",
        None,
    ),
    (
        "RQ8x13",
        "could not use \"RQ8x13\" as an additive quantiser: codebooks are 1 to 256, of 1 to 12 bits each",
        None,
    ),
    (
        "RQ64x8",
        "could not use \"RQ64x8\" as an additive quantiser: it has 16384 centroids, and the limit is 8192, since each process that searches holds a copy of them; use PRQ, which divides the dimensions",
        None,
    ),
    (
        "LSQ64x8",
        "could not use \"LSQ64x8\" as an additive quantiser: it has 16384 centroids, and the limit is 2048, since its training inverts matrices of that size, which cannot be interrupted; use PLSQ, which divides the dimensions",
        None,
    ),
    (
        "PRQ5x2x8",
        "could not use \"PRQ5x2x8\" as an additive quantiser: 384 dimensions cannot be divided into 5 equal parts",
        None,
    ),
    (
        "RQ8x8_Ncqint8",
        "could not use \"RQ8x8_Ncqint8\" as an additive quantiser: FAISS cannot learn norms this way where norms are equal; use _Nqint8",
        None,
    ),
    (
        "RQ8x4fs_Nfloat",
        "could not use \"RQ8x4fs_Nfloat\" as an additive quantiser: fast scan takes norms as _Nlsq2x4 or _Nrq2x4 (or _Nnone, for inner product)",
        None,
    ),
    (
        "RCQ2x8",
        "could not use \"RCQ2x8\" as an index: it is a coarse quantiser, which holds no rows; use RQ or LSQ",
        None,
    ),
    (
        "LSCQ2x8",
        "could not use \"LSCQ2x8\" as an index: it is a coarse quantiser, which holds no rows; use RQ or LSQ",
        None,
    ),
    (
        "RaBitQ4",
        "could not use \"RaBitQ4\" as an index: RaBitQ takes no numbers: it keeps a bit for each dimension",
        None,
    ),
    (
        "IDMap2,Flat",
        "could not use \"IDMap2,Flat\" as an index: id maps are not needed: the index keeps track of rows itself",
        None,
    ),
    (
        "Flat,IDMap",
        "could not use \"Flat,IDMap\" as an index: id maps are not needed: the index keeps track of rows itself",
        None,
    ),
    ("BIVF16", "could not use \"BIVF16\" as an index: binary indexes do not hold float vectors", None),
    ("BFlat", "could not use \"BFlat\" as an index: binary indexes do not hold float vectors", None),
    (
        "ZnLattice2x8_4",
        "could not use \"ZnLattice2x8_4\" as an index: the tables of lattice codes have no bound that is known before they are built; use PQ or RaBitQ",
        None,
    ),
    (
        "MinMax,SQ8",
        "could not use \"MinMax,SQ8\" as an index: FAISS cannot search codes with a range for each row; use SQ8",
        None,
    ),
    (
        "Residual8,Flat",
        "could not use \"Residual8,Flat\" as an index: FAISS cannot search two-level codes by themselves; use IVFn,PQm",
        None,
    ),
    (
        "IVF8,ITQ8,SH",
        "could not use \"ITQ8,SH\" in inverted lists: spectral hash codes in inverted lists are not supported; RaBitQ keeps a bit for each dimension as well",
        None,
    ),
    (
        "(",
        "could not use \"(\" as an index: an index in parentheses is understood in Refine(...) only; for a coarse quantiser use IVFn_HNSWm",
        None,
    ),
    (",Flat", "could not use \",Flat\" as an index: a part before or behind a comma is empty", None),
    ("Flat,", "could not use \"Flat,\" as an index: a part before or behind a comma is empty", None),
    ("a b", "factory string contains \" \"", None),
    ("Flat ", "factory string contains \" \"", Some("Flat")),
    (
        "auto,Flat",
        "could not use \"auto,Flat\" as an index: it is not a FAISS index family that is known here",
        None,
    ),
    (
        "autoo",
        "could not use \"autoo\" as an index: it is not a FAISS index family that is known here",
        Some("auto"),
    ),
    ("HNSW32;Flat", "factory string contains \";\"", None),
    ("HNSW-1", "\"HNSW-1\": HNSW takes Flat, SQ or PQ codes, behind a comma, as in HNSW32,SQ8", None),
    ("a\nb", "factory string contains \"\\n\"", None),
    ("v\u{e9}\u{7d22}c", "factory string contains \"\u{e9}\u{7d22}\"", None),
];
