//! Factory strings that somebody made up to do harm, or mistyped.

use super::data::*;
use super::process;
use vekter_engine::{Builder, EngineError, Metric};

const DIMS: [usize; 6] = [1, 2, 3, 64, 384, 16_000];

const WHOLE: &[&str] = &[
    "",
    ",",
    "Flat,",
    ",Flat",
    "IVF100000000,Flat",
    "IVF1000000k,Flat",
    "IVF99999999999999999999,Flat",
    "IVF0,Flat",
    "IVF-1,Flat",
    "IVF4kM,Flat",
    "IVF1048576,PQ1x12,Refine(PQ1x12)",
    "PQ8x64",
    "PQ0",
    "PQ1x0",
    "PQ1x24",
    "PQ64x4fs_0",
    "PQ64x4fs_7",
    "HNSW0",
    "HNSW1",
    "HNSW-3",
    "HNSW100000000",
    "HNSW999999999999999999999999",
    "HNSW512",
    "IVF16_HNSW0,Flat",
    "LSH0",
    "LSH100000000",
    "LSH16000rt",
    "PCA0,Flat",
    "PCA100000,Flat",
    "PCAWR,Flat",
    "OPQ0,PQ1",
    "OPQ3_0,PQ1",
    "RR100000000,Flat",
    "Pad100000000,Flat",
    "Pad16000,IVF1024,PQ16000",
    "ITQ0,LSH",
    "L2norm,L2norm,L2norm,L2norm,L2norm,Flat",
    "IDMap,IDMap,IDMap2,Flat",
    "Flat,IDMap2",
    "BFlat",
    "BIVF100000000",
    "BHNSW32",
    "NSG32",
    "NSG0,Flat",
    "RQ1000x8",
    "LSQ64x8",
    "RQ1x12",
    "RQ4096x1",
    "RQ8x8_999999999x8",
    "LSQ1x1_Nfloat",
    "PRQ0x4x8",
    "PLSQ1x99999999999x8",
    "RQ2x4fs",
    "IVF4,RQ1x4fsr_Nrq2x4",
    "PRQ16000x256x8",
    "PRQ4x4x8",
    "RCQ1x30",
    "IMI2x30,PQ8",
    "Residual100000000,PQ8",
    "ZnLattice100x100_100",
    "MinMax,Flat",
    "IVF16(IVF16(IVF16(Flat),Flat),Flat),Flat",
    "IVF16(Index9),Flat",
    "IVF16((((((((((Flat))))))))),Flat",
    "Refine(Flat)",
    "Flat,Refine(Flat,Refine(Flat))",
    "Flat,Refine(Flat),RFlat",
    "Flat,RFlat,RFlat,RFlat",
    "Flat,Refine()",
    "Flat,Refine(HNSW32)",
    "SQ8_direct_signed_more",
    "SQ7",
    "Flat\0",
    "Flat\n",
    "Flat; DROP TABLE tracks",
    "FlatFlat",
    "ＦＬＡＴ",
    "GpuFlat",
];

const PARTS: &[&str] = &[
    "Flat",
    "IVF",
    "HNSW",
    "PQ",
    "SQ8",
    "SQ4",
    "SQfp16",
    "SQ8_direct",
    "LSH",
    "RaBitQ",
    "PCA",
    "PCAW",
    "PCAR",
    "OPQ",
    "ITQ",
    "RR",
    "L2norm",
    "Pad",
    "RFlat",
    "Refine(",
    ")",
    "(",
    "x4fs",
    "x4",
    "x",
    "_",
    ",",
    ",",
    ",",
    "r",
    "t",
    "np",
    "k",
    "M",
    "0",
    "1",
    "2",
    "3",
    "4",
    "8",
    "16",
    "64",
    "255",
    "384",
    "4096",
    "65536",
    "16777216",
    "99999999999",
    "-",
    "NSG",
    "RQ",
    "LSQ",
    "IMI2x",
    "IDMap",
    "B",
    "Residual",
    "HNSW32,SQ8",
    "IVF16,",
    "IVF4_HNSW8,",
    "PQ1x4fs",
];

/// A string of the parts above, or a good one with a few bytes changed.
fn made_up(random: &mut Random) -> String {
    let good = [
        "IVF16,PQ2x4fs,RFlat",
        "OPQ2_4,IVF16_HNSW8,PQ2x6",
        "HNSW32_PQ16np",
        "PCAW2,IVF4k,SQ8,Refine(SQfp16)",
        "IVF4,RQ2x4fsr_Nrq2x4",
        "PLSQ1x2x3_Nqint8",
    ];
    if random.below(3) > 0 {
        let mut bytes = good[random.below(good.len())].as_bytes().to_vec();
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[at] = b"0123456789,_()xXkMrFIPQ"[random.below(23)],
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"0123456789,_()xXkMrFIPQ"[random.below(23)]),
            }
        }
        return String::from_utf8(bytes).unwrap();
    }
    (0..1 + random.below(8)).map(|_| PARTS[random.below(PARTS.len())]).collect()
}

/// Builds what the string says if it is not refused, and where that is cheap trains, fills, opens and searches it.
fn try_out(factory: &str, dims: usize, metric: Metric) -> bool {
    let builder = match Builder::new(factory, dims, metric) {
        Ok(builder) => builder,
        Err(EngineError::Refused { reason, .. }) => {
            assert!(!reason.is_empty() && !reason.contains(".cpp"), "{factory}: {reason}");
            return false;
        }
        Err(error) => panic!("{factory} with {dims} dimensions: {error:?}"),
    };
    if dims > 64 || builder.training_rows().min > 600 || builder.fixed_bytes(600) > 256 << 20 {
        return true;
    }
    let rows = prepared(metric, clustered(600, dims, 1), dims);
    let built =
        build(factory, metric, &rows, dims).unwrap_or_else(|error| panic!("{factory}, {dims}: {error:?}"));
    let opened =
        open(&serialised(&built), metric).unwrap_or_else(|error| panic!("{factory}, {dims}: {error:?}"));
    let hits = opened.search(&rows[..dims], 10, &narrow(), None).unwrap();
    check_form(&hits, 10, 600, None);
    true
}

#[test]
fn no_factory_string_ends_the_process_or_takes_a_gigabyte() {
    let output =
        process::alone("hostile::no_factory_string_ends_the_process_or_takes_a_gigabyte", 2_000, || {
            let mut random = Random(2024);
            let mut used = 0;
            for factory in WHOLE {
                for dims in DIMS {
                    used += usize::from(try_out(factory, dims, Metric::L2));
                }
            }
            try_out(&"(".repeat(100_000), 64, Metric::L2);
            try_out(&"PCA8,".repeat(199), 64, Metric::L2);
            for _ in 0..4_000 {
                let (factory, dims) = (made_up(&mut random), DIMS[random.below(DIMS.len())]);
                used += usize::from(try_out(&factory, dims, Metric::ALL[random.below(4)]));
            }
            println!("{used} strings were used");
            // Otherwise the test would test nothing but refusals.
            assert!(used > 200, "{used}");
        });
    output.assert_success();
}

#[test]
fn dimensions_out_of_range_are_refused() {
    for dims in [0, 16_001, usize::MAX] {
        assert!(matches!(Builder::new("Flat", dims, Metric::L2), Err(EngineError::Refused { .. })));
    }
}
