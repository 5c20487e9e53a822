//! Every index family, under every metric: from factory string to answers.

use super::data::*;
use std::sync::LazyLock;
use vekter_engine::{Builder, EngineError, Metric, OpenIndex};

pub const DIMS: usize = 64;
pub const ROWS: usize = 1_600;
const QUERIES: usize = 20;
const K: usize = 10;

/// What a factory string promises on the clustered rows.
pub struct Family {
    pub factory: &'static str,
    /// At `max_useful` the answer is that of the exact scan.
    pub exact: bool,
    /// Least share of the 10 nearest rows among 100 candidates at `max_useful`, under L2 and cosine.
    floor: f64,
}

const fn exact_family(factory: &'static str) -> Family {
    Family { factory, exact: true, floor: 1.0 }
}

const fn lossy(factory: &'static str, floor: f64) -> Family {
    Family { factory, exact: false, floor }
}

pub const FAMILIES: &[Family] = &[
    exact_family("Flat"),
    exact_family("IVF64,Flat"),
    exact_family("IVF64,PQ32x4fs,RFlat"),
    exact_family("PQ16,RFlat"),
    exact_family("SQ8,Refine(Flat)"),
    exact_family("IVF64,SQ8,RFlat"),
    exact_family("PCA32,IVF64,Flat,RFlat"),
    exact_family("LSH,RFlat"),
    lossy("HNSW16", 0.99),
    lossy("HNSW32", 0.99),
    lossy("HNSW32,Flat", 0.99),
    lossy("HNSW32,SQ8", 0.99),
    lossy("HNSW32_SQfp16", 0.99),
    lossy("HNSW32_PQ16", 0.8),
    lossy("HNSW32_PQ16,RFlat", 0.99),
    lossy("IVF64_HNSW32,Flat", 0.99),
    lossy("IVF64,PQ16", 0.8),
    lossy("IVF64,PQ16np", 0.8),
    lossy("IVF64,PQ16x4fs", 0.6),
    lossy("IVF64,PQ16x4fsr", 0.8),
    lossy("IVF64,PQ8x6", 0.6),
    lossy("IVF64,SQ8", 0.99),
    lossy("IVF64,SQ4", 0.8),
    lossy("IVF64,SQfp16", 0.99),
    lossy("IVF64,RaBitQ", 0.6),
    lossy("SQ8", 0.99),
    lossy("SQ6", 0.95),
    lossy("SQ4", 0.8),
    lossy("SQfp16", 0.99),
    lossy("SQbf16", 0.99),
    lossy("PQ16", 0.8),
    lossy("PQ16x4", 0.6),
    lossy("PQ16x4fs", 0.6),
    lossy("PQ16x4fs_64", 0.6),
    lossy("LSH", 0.3),
    lossy("LSHrt", 0.3),
    lossy("LSH32", 0.2),
    lossy("RaBitQ", 0.6),
    lossy("OPQ16,IVF64,PQ16", 0.8),
    lossy("OPQ16_32,PQ16", 0.5),
    lossy("PCA32,IVF64,Flat", 0.5),
    lossy("PCA32,Flat", 0.5),
    lossy("PCAR32,HNSW16", 0.5),
    lossy("PCAW16,Flat", 0.2),
    lossy("PCAW16,HNSW16", 0.2),
    lossy("PCAW16,IVF64,PQ8", 0.2),
    lossy("ITQ,LSH", 0.3),
    lossy("ITQ32,LSH", 0.2),
    lossy("RR,SQ8", 0.99),
    lossy("Pad96,PQ12", 0.6),
    lossy("L2norm,Flat", 0.2),
    lossy("RQ8x6", 0.6),
    lossy("RQ4x8_2x4_Nfloat", 0.6),
    lossy("RQ8x6_Nnone", 0.0),
    lossy("LSQ6x6_Nqint4", 0.4),
    lossy("PRQ4x2x6_Nfloat", 0.6),
    lossy("PLSQ2x3x6_Nrq2x4", 0.6),
    lossy("RQ15x4fs_Nrq2x4", 0.5),
    lossy("PLSQ4x3x4fs_Nlsq2x4", 0.5),
    lossy("PRQ4x4x4fs", 0.5),
    lossy("IVF64,RQ6x6_Nqint8", 0.6),
    lossy("IVF64_HNSW16,LSQ4x6_Nfloat", 0.6),
    lossy("IVF64,PLSQ2x3x6_Nlsq2x4", 0.6),
    lossy("IVF64,PRQ4x3x4fsr_Nlsq2x4", 0.5),
    lossy("OPQ16,IVF64,RQ6x6_Nfloat,Refine(SQ8)", 0.99),
    exact_family("IVF64,RQ12x4fsr_Nrq2x4,RFlat"),
    lossy("PQ16,Refine(SQ8)", 0.99),
    lossy("IVF64,PQ16x4fs,Refine(SQfp16)", 0.99),
];

/// One of each kind of code, list, graph and transform: for inputs on which training is slow.
const KINDS: &[&str] = &[
    "Flat",
    "IVF64,Flat",
    "IVF64,PQ32x4fs,RFlat",
    "HNSW32",
    "HNSW32,SQ8",
    "HNSW32_PQ16",
    "IVF64_HNSW32,Flat",
    "IVF64,PQ16",
    "IVF64,PQ16x4fsr",
    "IVF64,SQ8",
    "IVF64,RaBitQ",
    "SQ4",
    "SQfp16",
    "PQ16",
    "PQ16x4fs",
    "LSH",
    "RaBitQ",
    "PCA32,IVF64,Flat",
    "PCAW16,Flat",
    "ITQ,LSH",
    "RR,SQ8",
    "L2norm,Flat",
    "RQ8x6",
    "LSQ6x6_Nqint4",
    "PRQ4x2x6_Nfloat",
    "RQ15x4fs_Nrq2x4",
];

pub struct Built {
    factory: &'static str,
    pub metric: Metric,
    pub builder: Builder,
    pub serial: Vec<u8>,
}

impl Built {
    pub fn resume(&self, keep_rows: bool) -> Builder {
        Builder::resume(self.factory, DIMS, self.metric, &self.serial, keep_rows).unwrap()
    }
}

/// Every family under every metric that it has, built once for all tests; the others were refused with a reason.
static BUILT: LazyLock<Vec<Vec<Built>>> = LazyLock::new(|| FAMILIES.iter().map(build_family).collect());

static ROWS_BY_METRIC: LazyLock<Vec<Vec<f32>>> = LazyLock::new(|| {
    Metric::ALL.into_iter().map(|metric| prepared(metric, clustered(ROWS, DIMS, 1), DIMS)).collect()
});

fn rows_of(metric: Metric) -> &'static [f32] {
    &ROWS_BY_METRIC[usize::from(metric.code()) - 1]
}

fn build_family(family: &Family) -> Vec<Built> {
    let mut built = Vec::new();
    for metric in Metric::ALL {
        match build(family.factory, metric, rows_of(metric), DIMS) {
            Ok(builder) => {
                built.push(Built { factory: family.factory, metric, serial: serialised(&builder), builder })
            }
            Err(EngineError::Refused { reason, .. }) => {
                let fits = match metric {
                    Metric::L1 => {
                        assert!(reason.contains("taxicab"), "{reason}");
                        continue;
                    }
                    Metric::InnerProduct => ["LSH", "HNSW32_PQ", "x4fs_N", "x4fs_32_N", "x4fsr_N"],
                    Metric::L2 => ["PRQ4x4x4fs", "", "", "", ""],
                    Metric::Cosine => panic!("{} is refused: {reason}", family.factory),
                };
                let is_expected = fits.iter().any(|part| !part.is_empty() && family.factory.contains(part));
                assert!(is_expected, "{} under {metric:?}: {reason}", family.factory);
            }
            Err(error) => panic!("{} under {metric:?}: {error}", family.factory),
        }
    }
    built
}

pub fn each_metric(family: &Family, mut check: impl FnMut(&Built, OpenIndex, &[f32], &[f32])) {
    let _shared = CANCELLING.read();
    let number = FAMILIES.iter().position(|other| other.factory == family.factory).unwrap();
    for built in &BUILT[number] {
        let queries = prepared(built.metric, clustered(QUERIES, DIMS, 2), DIMS);
        let opened = open(&built.serial, built.metric).unwrap();
        check(built, opened, rows_of(built.metric), &queries);
    }
}

#[test]
fn an_opened_index_answers_like_the_one_that_was_written() {
    for family in FAMILIES {
        each_metric(family, |built, opened, _, queries| {
            let metric = built.metric;
            let again = open(&built.serial, metric).unwrap();
            assert_eq!((opened.rows(), opened.dims()), (ROWS as u64, DIMS));
            for query in queries.chunks(DIMS) {
                for params in [narrow(), opened.max_useful()] {
                    let hits = opened.search(query, K, &params, None).unwrap();
                    check_form(&hits, K, ROWS, None);
                    assert_eq!(hits.len(), K, "{} under {metric:?}", family.factory);
                    assert_eq!(hits, again.search(query, K, &params, None).unwrap(), "{}", family.factory);
                    // Tables that one of the two computes ahead round differently, so ties may change places.
                    let unwritten = built.builder.search_unwritten(query, K, &params, None).unwrap();
                    assert_eq!(hits.len(), unwritten.len());
                    for (hit, other) in std::iter::zip(&hits, &unwritten) {
                        let tolerance = 1e-4 * (1.0 + hit.distance.abs());
                        assert!(
                            (hit.distance - other.distance).abs() <= tolerance,
                            "{} under {metric:?}: {hit:?} became {other:?}",
                            family.factory
                        );
                    }
                }
            }
        });
    }
}

#[test]
fn recall_keeps_its_promise_at_the_widest_search() {
    for family in FAMILIES {
        each_metric(family, |built, opened, rows, queries| {
            let metric = built.metric;
            let queries: Vec<&[f32]> = queries.chunks(DIMS).collect();
            let wanted = if family.exact { K } else { 100 };
            let reached = mean(&queries, |query| {
                let hits = opened.search(query, wanted, &opened.max_useful(), None).unwrap();
                recall(&hits, &exact(metric, query, rows, None), K)
            });
            // Centring and whitening keep distances, not inner products, and no matrix keeps taxicab distances.
            let bends = match metric {
                Metric::InnerProduct => true,
                Metric::L1 => ["PCA", "RR", "L2norm"].iter().any(|step| family.factory.starts_with(step)),
                Metric::L2 | Metric::Cosine => false,
            };
            let floor = if bends && !family.exact { 0.0 } else { family.floor };
            if std::env::var_os("VEKTER_SHOW").is_some() {
                println!("{:32} {:7} {reached:.3}", family.factory, metric.name());
            }
            assert!(reached >= floor, "{} under {metric:?}: {reached} < {floor}", family.factory);
        });
    }
}

#[test]
fn floats_have_taxicab_distance_and_codes_do_not() {
    let reason = |factory| Builder::new(factory, DIMS, Metric::L1).map(|_| ()).unwrap_err().to_string();
    for factory in
        ["Flat", "HNSW32", "HNSW32,Flat", "IVF64,Flat", "IVF64,Flat,RFlat", "Pad96,Flat", "PCA32,IVF64,Flat"]
    {
        assert!(Builder::new(factory, DIMS, Metric::L1).is_ok(), "{factory}");
    }
    for factory in
        ["IVF64_HNSW32,Flat", "SQ8", "HNSW32,SQ8", "PQ16", "IVF64,PQ16x4fs,RFlat", "LSH", "RaBitQ", "RQ4x8"]
    {
        assert!(reason(factory).contains("use Flat, HNSWm or IVFn,Flat"), "{factory}: {}", reason(factory));
    }
}

#[test]
fn distances_that_are_called_exact_are_those_of_the_operator() {
    for family in FAMILIES {
        each_metric(family, |built, opened, rows, queries| {
            let metric = built.metric;
            assert!(!family.exact || opened.ranks_exactly(), "{}", family.factory);
            if !opened.ranks_exactly() {
                return;
            }
            for query in queries.chunks(DIMS) {
                for hit in opened.search(query, K, &narrow(), None).unwrap() {
                    let row = &rows[hit.position as usize * DIMS..][..DIMS];
                    let mut distance = Vec::new();
                    metric.distances(query, row, &mut distance);
                    let tolerance = 1e-5 * (1.0 + distance[0].abs());
                    assert!((hit.distance - distance[0]).abs() < tolerance, "{}: {hit:?}", family.factory);
                }
            }
        });
    }
}

#[test]
fn lossy_and_transformed_indexes_do_not_claim_exact_distances() {
    let _shared = CANCELLING.read();
    let rows = clustered(2_000, DIMS, 1);
    for (factory, exactly) in [
        ("Flat", true),
        ("HNSW16", true),
        ("IVF16,Flat", true),
        ("PQ8,RFlat", true),
        ("PQ8,Refine(SQ8)", false),
        ("SQfp16", false),
        ("L2norm,Flat", false),
        ("PCA32,Flat", false),
        ("HNSW16,SQ8", false),
        ("IVF16,SQ8", false),
    ] {
        let opened =
            open(&serialised(&build(factory, Metric::L2, &rows, DIMS).unwrap()), Metric::L2).unwrap();
        assert_eq!(opened.ranks_exactly(), exactly, "{factory}");
    }
}

#[test]
fn dead_rows_never_come_out_and_the_living_are_still_found() {
    let mut random = Random(11);
    for share in [3, 50, 97] {
        let mut dead = vec![0u8; ROWS.div_ceil(8)];
        for position in 0..ROWS {
            if random.below(100) < share {
                dead[position / 8] |= 1 << (position % 8);
            }
        }
        for family in FAMILIES.iter().filter(|family| share == 50 || family.exact || family.floor == 0.99) {
            each_metric(family, |built, opened, rows, queries| {
                let metric = built.metric;
                let queries: Vec<&[f32]> = queries.chunks(DIMS).take(5).collect();
                let reached = mean(&queries, |query| {
                    let hits = opened.search(query, K, &narrow(), Some(&dead)).unwrap();
                    check_form(&hits, K, ROWS, Some(&dead));
                    let hits = opened.search(query, K, &opened.max_useful(), Some(&dead)).unwrap();
                    check_form(&hits, K, ROWS, Some(&dead));
                    assert_eq!(hits.len(), K, "{} under {metric:?}, {share} % dead", family.factory);
                    recall(&hits, &exact(metric, query, rows, Some(&dead)), K)
                });
                assert!(!family.exact || reached == 1.0, "{} under {metric:?}: {reached}", family.factory);
            });
        }
    }
}

#[test]
fn when_all_rows_are_dead_nothing_is_found() {
    let dead = vec![0xff; ROWS.div_ceil(8)];
    for family in FAMILIES.iter().filter(|family| !family.factory.starts_with("IVF64,SQ4")) {
        each_metric(family, |_, opened, _, queries| {
            assert_eq!(opened.search(&queries[..DIMS], K, &narrow(), Some(&dead)).unwrap(), []);
        });
    }
}

#[test]
fn one_row_and_more_rows_than_there_are_can_be_asked_for() {
    for family in FAMILIES {
        each_metric(family, |built, opened, rows, queries| {
            let metric = built.metric;
            let query = &queries[..DIMS];
            let one = opened.search(query, 1, &narrow(), None).unwrap();
            check_form(&one, 1, ROWS, None);
            assert_eq!(one.len(), 1, "{}", family.factory);
            let all = opened.search(query, 10 * ROWS, &opened.max_useful(), None).unwrap();
            check_form(&all, ROWS, ROWS, None);
            if opened.is_exhaustive() || family.exact {
                assert_eq!(all.len(), ROWS, "{} under {metric:?}", family.factory);
            }
            if family.exact {
                let truth = exact(metric, query, rows, None);
                assert_eq!(all[0].position, truth[0].position);
            }
            assert_eq!(opened.search(query, 0, &narrow(), None).unwrap(), []);
        });
    }
}

#[test]
fn rows_that_are_all_equal_are_all_the_same_distance() {
    const EQUAL_ROWS: usize = 400;
    let _shared = CANCELLING.read();
    let row = prepared(Metric::Cosine, clustered(1, DIMS, 3), DIMS);
    let rows = row.repeat(EQUAL_ROWS);
    for factory in KINDS {
        for metric in [Metric::L2, Metric::Cosine] {
            let builder =
                build(factory, metric, &rows, DIMS).unwrap_or_else(|error| panic!("{factory}: {error}"));
            let opened = open(&serialised(&builder), metric).unwrap();
            let hits = opened.search(&row, K, &opened.max_useful(), None).unwrap();
            check_form(&hits, K, EQUAL_ROWS, None);
            assert!(!hits.is_empty(), "{factory}");
            if opened.ranks_exactly() {
                assert!(hits.iter().all(|hit| hit.distance.abs() < 1e-3), "{factory}: {hits:?}");
            }
        }
    }
}

#[test]
fn one_row_is_found_where_no_training_is_needed() {
    let _shared = CANCELLING.read();
    let row = prepared(Metric::Cosine, clustered(1, DIMS, 3), DIMS);
    for factory in ["Flat", "HNSW32", "SQfp16", "HNSW16,SQfp16", "LSH", "Flat,RFlat"] {
        for metric in [Metric::L2, Metric::Cosine] {
            let opened = open(&serialised(&build(factory, metric, &row, DIMS).unwrap()), metric).unwrap();
            let hits = opened.search(&row, 5, &narrow(), None).unwrap();
            assert_eq!(hits.iter().map(|hit| hit.position).collect::<Vec<_>>(), [0], "{factory}");
        }
    }
}

#[test]
fn an_index_without_rows_is_written_opened_and_finds_nothing() {
    let _shared = CANCELLING.read();
    for factory in ["Flat", "HNSW32", "SQfp16", "LSH"] {
        let builder = build(factory, Metric::L2, &[], DIMS).unwrap();
        let opened = open(&serialised(&builder), Metric::L2).unwrap();
        assert_eq!(opened.search(&[1.0; DIMS], 5, &narrow(), None).unwrap(), []);
    }
}

#[test]
fn values_at_the_edge_of_float_break_nothing() {
    const ROWS: usize = 400;
    let _shared = CANCELLING.read();
    let mut random = Random(5);
    let mut rows = clustered(ROWS, DIMS, 1);
    for value in rows.iter_mut() {
        *value = match random.below(4) {
            0 => f32::MAX * value.signum(),
            1 => f32::MIN_POSITIVE,
            2 => 1e-42,
            _ => *value * 1e25,
        };
    }
    // Long, but not too long for any index.
    let long: Vec<f32> = clustered(ROWS, DIMS, 1).iter().map(|value| value * 1e10).collect();
    let mixed: Vec<f32> = rows.iter().map(|value| value.clamp(-1e10, 1e10)).collect();
    for factory in KINDS {
        // Cosine divides by the norm first.
        for metric in [Metric::L2, Metric::InnerProduct, Metric::L1] {
            for values in [&rows, &long, &mixed] {
                let rows = prepared(metric, values.clone(), DIMS);
                let builder = match build(factory, metric, &rows, DIMS) {
                    Ok(builder) => builder,
                    Err(EngineError::Refused { .. } | EngineError::BadParameter { .. }) => continue,
                    Err(error) => panic!("{factory} under {metric:?}: {error}"),
                };
                let opened = open(&serialised(&builder), metric).unwrap();
                for query in rows.chunks(DIMS).take(3).chain([&[f32::MAX; DIMS][..]]) {
                    match opened.search(query, K, &opened.max_useful(), None) {
                        Ok(hits) => check_form(&hits, K, ROWS, None),
                        Err(EngineError::BadParameter { .. }) => assert!(query[0] == f32::MAX),
                        Err(error) => panic!("{factory} under {metric:?}: {error}"),
                    }
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error_and_not_a_crash() {
    let _shared = CANCELLING.read();
    let rows = clustered(500, DIMS, 1);
    let mut builder = build("HNSW16", Metric::L2, &rows, DIMS).unwrap();
    assert!(matches!(builder.add(&rows[..DIMS - 1]), Err(EngineError::BadParameter { .. })));
    assert!(matches!(builder.add(&[f32::NAN; DIMS]), Err(EngineError::BadParameter { .. })));
    let opened = open(&serialised(&builder), Metric::L2).unwrap();
    assert!(matches!(opened.search(&rows[..3], 5, &narrow(), None), Err(EngineError::BadParameter { .. })));
    let unfit = [f32::INFINITY; DIMS];
    assert!(matches!(opened.search(&unfit, 5, &narrow(), None), Err(EngineError::BadParameter { .. })));
    let none = vekter_engine::SearchParams { nprobe: Some(0), ..narrow() };
    assert!(matches!(opened.search(&rows[..DIMS], 5, &none, None), Err(EngineError::BadParameter { .. })));

    let mut builder = Builder::new("IVF64,Flat", DIMS, Metric::L2).unwrap();
    assert!(matches!(builder.add(&rows), Err(EngineError::BadParameter { .. })), "untrained");
    assert!(matches!(builder.train(&rows[..10 * DIMS]), Err(EngineError::UntrainableSample { .. })));
}

#[test]
fn training_needs_no_more_rows_than_it_says() {
    let _shared = CANCELLING.read();
    for family in FAMILIES {
        let metric = if family.factory == "PRQ4x4x4fs" { Metric::InnerProduct } else { Metric::L2 };
        let mut builder = Builder::new(family.factory, DIMS, metric).unwrap();
        let wanted = builder.training_rows();
        assert!(wanted.min <= wanted.wanted);
        assert_eq!(builder.needs_training(), wanted.min > 0, "{}", family.factory);
        let rows = clustered(wanted.min, DIMS, 1);
        builder.train(&rows).unwrap_or_else(|error| panic!("{}: {error}", family.factory));
        builder.add(&rows).unwrap();
    }
}

#[test]
fn a_sink_that_fails_or_panics_stops_the_writing() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::Error::other("no space"));
            }
            if self.0 == usize::MAX {
                panic!("as an error of Postgres unwinds");
            }
            self.0 -= 1;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let _shared = CANCELLING.read();
    let builder = build("HNSW16", Metric::L2, &clustered(100, DIMS, 1), DIMS).unwrap();
    for pieces in [0, 1, 12] {
        let error = builder.write(&mut Full(pieces)).unwrap_err();
        assert!(matches!(&error, EngineError::Io(inner) if inner.to_string() == "no space"), "{error:?}");
    }
    let panic = std::panic::catch_unwind(|| builder.write(&mut Full(usize::MAX))).unwrap_err();
    assert_eq!(*panic.downcast::<&str>().unwrap(), "as an error of Postgres unwinds");
    assert_eq!(open(&serialised(&builder), Metric::L2).unwrap().rows(), 100);
}

#[test]
fn the_largest_array_is_where_the_layout_says() {
    let _shared = CANCELLING.read();
    let rows = clustered(1_000, DIMS, 1);
    let builder = build("HNSW16", Metric::L2, &rows, DIMS).unwrap();
    let at = builder.layout().unwrap().aligned_at as usize;
    let first: Vec<u8> = rows[..DIMS].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(&serialised(&builder)[at..at + first.len()], first);
}
