#![allow(clippy::unwrap_used)]
use super::*;

const MB: u64 = 1 << 20;

/// A machine with PostgreSQL's own defaults: 4 GB of cache, 64 MB to build.
const STOCK: Memory = Memory {
    cache_bytes: 4096 * MB,
    work_bytes: Some(64 * MB),
    available_bytes: Some(16_384 * MB),
    batch_bytes: 8 << 20,
};

fn of(rows: u64, dims: usize, memory: Memory) -> Situation {
    let (metric, recall) = (Metric::L2, 0.95);
    Situation { rows, index_rows: rows, dims, metric, recall, are_halves: false, memory }
}

fn chosen(situation: &Situation) -> String {
    situation.choose().factory
}

fn stock(rows: u64, dims: usize) -> String {
    chosen(&of(rows, dims, STOCK))
}

/// With so much cache, and no limit on the build.
fn cached(megabytes: u64) -> Memory {
    Memory { cache_bytes: megabytes * MB, work_bytes: None, ..STOCK }
}

#[test]
fn few_rows_are_scanned_and_fewer_if_they_are_long() {
    assert_eq!([stock(0, 4), stock(9_999, 4), stock(10_000, 4)], ["Flat", "Flat", "HNSW32"]);
    assert_eq!([stock(9_999, 384), stock(10_000, 384)], ["Flat", "HNSW32"]);
    // 16 MB of floats.
    assert_eq!([stock(2_729, 1_536), stock(2_730, 1_536)], ["Flat", "HNSW32"]);
    assert_eq!([stock(2_499, 16_000), stock(2_500, 16_000)], ["Flat", "HNSW32"]);
}

#[test]
fn a_graph_of_the_vectors_is_best_where_memory_allows() {
    let situation = of(115_659, 384, STOCK);
    let choice = situation.choose();
    assert_eq!(choice.factory, "HNSW32");
    assert_eq!(
        choice.reason,
        "a graph of full vectors takes 200 MB, less than half of effective_cache_size (4096 MB)"
    );
    for recall in [0.5, 0.9, 0.99, 0.9999] {
        assert_eq!(chosen(&Situation { recall, ..situation }), "HNSW32");
    }
}

#[test]
fn recall_of_one_is_a_scan_of_however_many_rows() {
    let choice = Situation { recall: 1.0, ..of(10_000_000, 384, STOCK) }.choose();
    assert_eq!(
        (choice.factory.as_str(), choice.reason.as_str()),
        ("Flat", "recall = 1 asks for an exact index")
    );
}

#[test]
fn the_less_cache_there_is_the_smaller_the_codes() {
    let million = |megabytes| chosen(&of(1_000_000, 384, cached(megabytes)));
    assert_eq!(million(4_000), "HNSW32");
    assert_eq!(million(3_000), "HNSW32,SQbf16");
    assert_eq!(million(1_500), "HNSW32,SQ8");
    assert_eq!(million(1_000), "IVF4096,SQ8");
    assert_eq!(million(500), "IVF4096,PQ96x4fs");
    let choice = of(1_000_000, 384, cached(500)).choose();
    assert_eq!(
        choice.reason,
        "a graph of full vectors would take 1731 MB, and half of effective_cache_size is 250 MB; 4,096 lists of \
         short codes take 59 MB"
    );
    // Where nothing fits, the smallest.
    let choice = of(1_000_000, 384, cached(10)).choose();
    assert_eq!(choice.factory, "IVF4096,PQ96x4fs");
    assert!(choice.reason.ends_with("short codes take 59 MB, the least of all"), "{}", choice.reason);
}

#[test]
fn halves_are_kept_as_halves() {
    let million = |megabytes| Situation { are_halves: true, ..of(1_000_000, 384, cached(megabytes)) };
    let choice = million(4_000).choose();
    assert_eq!(choice.factory, "HNSW32,SQfp16");
    assert_eq!(
        choice.reason,
        "a graph of 16-bit floats takes 998 MB, less than half of effective_cache_size (4000 MB)"
    );
    assert_eq!(chosen(&million(2_500)), "HNSW32,SQfp16");
    assert_eq!(chosen(&million(1_500)), "HNSW32,SQ8");
    assert_eq!(chosen(&million(1_000)), "IVF4096,SQ8");
    assert_eq!(chosen(&Situation { metric: Metric::L1, ..million(4_000) }), "HNSW32");
    assert_eq!(million(4_000).choose_again("HNSW32,SQfp16", "HNSW32,SQfp16", false).factory, "HNSW32,SQfp16");
    assert_eq!(million(4_000).choose_again("HNSW32,SQ8", "HNSW32,SQ8", false).factory, "HNSW32,SQ8");
}

#[test]
fn a_graph_may_take_the_whole_cache_where_lists_would_have_to_read_many_of_theirs() {
    let asked = |recall| chosen(&Situation { recall, ..of(1_000_000, 384, cached(1_800)) });
    assert_eq!([asked(0.98), asked(0.99), asked(0.999)], ["HNSW32,SQ8", "HNSW32", "HNSW32"]);
    let choice = Situation { recall: 0.99, ..of(1_000_000, 384, cached(500)) }.choose();
    assert!(choice.reason.contains("and effective_cache_size is 500 MB"), "{}", choice.reason);
}

#[test]
fn the_cache_is_shared_by_all_segments_of_an_index() {
    let part = Situation { index_rows: 1_000_000, ..of(100_000, 384, cached(1_000)) };
    assert_eq!(chosen(&part), "IVF1024,SQ8");
    assert_eq!(chosen(&Situation { index_rows: 100_000, ..part }), "HNSW32");
}

#[test]
fn taxicab_distance_is_of_full_vectors_only() {
    let situation = |megabytes| Situation { metric: Metric::L1, ..of(1_000_000, 384, cached(megabytes)) };
    assert_eq!(chosen(&situation(4_000)), "HNSW32");
    assert_eq!(chosen(&situation(3_000)), "IVF4096,Flat");
}

#[test]
fn nothing_is_chosen_whose_build_is_refused_if_something_else_can_be_built() {
    for rows in [2_500, 10_000, 100_000, 1_000_000] {
        for dims in [1, 3, 101, 384, 1_536, 4_098, 16_000] {
            for metric in Metric::ALL {
                for work in [32, 64, 256] {
                    for cache in [16, 4_096] {
                        let memory = Memory { work_bytes: Some(work * MB), ..cached(cache) };
                        let situation = Situation { metric, ..of(rows, dims, memory) };
                        let choice = situation.choose();
                        let refused = |factory: &str| {
                            situation.building_shortage(&FactoryOption::new(factory, dims).unwrap()).is_some()
                        };
                        let others = situation.candidates();
                        assert!(
                            !refused(&choice.factory) || others.iter().all(|other| refused(&other.factory)),
                            "{rows} rows of {dims} dimensions with {work} MB: {choice:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_chosen_can_be_made() {
    for dims in [1, 2, 3, 7, 101, 384, 385, 1_536, 4_096, 4_098, 16_000] {
        for metric in Metric::ALL {
            for candidate in (Situation { metric, ..of(20_000_000, dims, STOCK) }).candidates() {
                let made = crate::Builder::new(&candidate.factory, dims, metric);
                assert!(made.is_ok(), "{}: {made:?}", candidate.factory);
            }
        }
    }
}

#[test]
fn lists_grow_with_the_root_of_the_rows_until_a_graph_finds_them() {
    let lists = |rows| chosen(&of(rows, 384, Memory { available_bytes: None, ..cached(10) }));
    assert_eq!(lists(115_659), "IVF1024,PQ96x4fs");
    assert_eq!(lists(1_000_000), "IVF4096,PQ96x4fs");
    assert_eq!(lists(4_000_000), "IVF8192_HNSW32,PQ96x4fs");
    assert_eq!(lists(1_000_000_000), "IVF16384_HNSW32,PQ96x4fs");
}

#[test]
fn lists_are_no_more_than_their_rows_can_train() {
    let lists = |rows| chosen(&of(rows, 32, Memory { cache_bytes: 0, ..STOCK }));
    assert_eq!([lists(12_000), lists(20_000)], ["IVF256,PQ8x4fs", "IVF512,PQ8x4fs"]);
}

#[test]
fn lists_are_fewer_where_training_more_does_not_fit() {
    let memory = Memory { work_bytes: Some(64 * MB), ..cached(40) };
    assert_eq!(chosen(&of(115_659, 384, memory)), "IVF512,PQ96x4fs");
}

#[test]
fn the_parts_of_a_product_code_divide_the_dimensions() {
    let code = |dims| of(1_000_000, dims, STOCK).product_code();
    assert_eq!(
        [code(384), code(385), code(14), code(101), code(4_096)].map(|code| code),
        ["PQ96x4fs", "PQ77x4fs", "PQ2x4fs", "PQ101x4fs", "PQ1024x4fs"]
    );
    assert_eq!(code(16_000), "RaBitQ", "too many parts for sums of 16 bits");
}

// ---------------------------------------------------------------- growth

fn again(situation: &Situation, before: &str) -> String {
    situation.choose_again(before, before, false).factory
}

#[test]
fn what_was_scanned_becomes_a_graph_as_soon_as_there_are_enough_rows() {
    assert_eq!(again(&of(9_999, 384, STOCK), "Flat"), "Flat");
    assert_eq!(again(&of(10_000, 384, STOCK), "Flat"), "HNSW32");
}

#[test]
fn a_graph_outlives_some_deletions_but_not_most() {
    assert_eq!(again(&of(8_000, 384, STOCK), "HNSW32"), "HNSW32");
    assert_eq!(again(&of(6_000, 384, STOCK), "HNSW32"), "Flat");
    // New rows beside it are not merged with it yet.
    let new = Situation { index_rows: 100_000, ..of(8_000, 384, STOCK) };
    assert_eq!(new.choose_again("Flat", "HNSW32", false).factory, "Flat");
}

#[test]
fn a_kind_stays_until_the_rows_are_clearly_too_many_for_it() {
    // Full vectors of 1,183,000 rows take half of this.
    let rows = |rows| again(&of(rows, 384, cached(4_096)), "HNSW32");
    assert_eq!([rows(1_100_000), rows(1_300_000), rows(1_700_000)], ["HNSW32", "HNSW32", "HNSW32"]);
    assert_eq!(rows(1_800_000), "HNSW32,SQbf16");
    let kept = of(1_300_000, 384, cached(4_096)).choose_again("HNSW32", "HNSW32", false);
    assert!(kept.reason.starts_with("still a graph of full vectors"), "{}", kept.reason);
}

#[test]
fn codes_do_not_become_vectors_again() {
    let fewer = of(100_000, 384, STOCK);
    assert_eq!(chosen(&fewer), "HNSW32");
    assert_eq!(again(&fewer, "HNSW32,SQ8"), "HNSW32,SQ8");
    assert_eq!(again(&of(1_000, 384, STOCK), "IVF4096,SQ8"), "IVF4096,SQ8");
    assert_eq!(again(&Situation { recall: 1.0, ..fewer }, "HNSW32,SQ8"), "Flat", "it was asked for");
}

#[test]
fn lists_stay_as_many_until_they_are_trained_anew() {
    let grown = of(1_000_000, 384, cached(500));
    let lists = |trains_anew| grown.choose_again("IVF1024,PQ96x4fs", "IVF1024,PQ96x4fs", trains_anew).factory;
    assert_eq!([lists(false), lists(true)], ["IVF1024,PQ96x4fs", "IVF4096,PQ96x4fs"]);
    // Rows that came later share them.
    let new = Situation { rows: 50_000, ..grown };
    assert_eq!(new.choose_again("Flat", "IVF1024,PQ96x4fs", false).factory, "IVF1024,PQ96x4fs");
}

#[test]
fn sizes_and_numbers_read_as_in_postgresql() {
    assert_eq!([pretty(0), pretty(10_239), pretty(10_240)], ["0 bytes", "10239 bytes", "10 kB"]);
    assert_eq!([pretty(200 * MB), pretty(10_240 * MB)], ["200 MB", "10 GB"]);
    assert_eq!(
        [grouped(0), grouped(999), grouped(1_000), grouped(1_234_567)],
        ["0", "999", "1,000", "1,234,567"]
    );
}
