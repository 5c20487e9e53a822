//! The families that `factory = 'auto'` chooses from, at the same recall, for docs/factories.md, where this rewrites
//! rows between marks:
//! `VEKTER_DATA=... cargo test --release -p vekter-engine --test engine recall_table -- --ignored --nocapture
//! --test-threads 1`
//!
//! `VEKTER_ONLY="HNSW32 IVF512,Flat"` measures those alone, in that order. Times are of the processor: of the whole
//! process for a build, so nothing else may run in it.

use super::data::*;
use super::measure::{data_folder, rank_by_rows, shared_queries, shared_rows};
use super::processor_time;
use super::table::{replace_row, wanted};
use vekter_engine::{Metric, OpenIndex, SearchParams, on_worker};

const DIMS: usize = 384;
const K: usize = 10;
const RECALLS: [f64; 4] = [0.90, 0.95, 0.98, 0.99];
const MARKS: [&str; 2] = ["<!-- measured at recall -->", "<!-- /measured at recall -->"];
const QUEUES: [usize; 11] = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384];
const PROBES: [usize; 12] = [4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192];
const FAMILIES: [&str; 10] = [
    "Flat",
    "HNSW32",
    "HNSW32,SQbf16",
    "HNSW32,SQ8",
    "IVF512,Flat",
    "IVF1024,Flat",
    "IVF2048,Flat",
    "IVF1024,SQ8",
    "IVF1024,PQ96x4fs",
    "IVF1024,PQ96x4fs,RFlat",
];

/// Sets of search parameters, and how many candidates for each result are ranked again by their rows.
fn searches(factory: &str) -> Vec<(SearchParams, usize)> {
    let factors: &[usize] = match factory {
        _ if factory.contains("PQ") => &[2, 4, 8, 16, 32],
        _ if factory.contains("SQ") => &[1, 2, 4],
        _ => &[1],
    };
    let none = SearchParams::default();
    let params: Vec<SearchParams> = match factory {
        "Flat" => vec![none],
        _ if factory.starts_with("HNSW") => {
            QUEUES.iter().map(|&queue| SearchParams { ef_search: Some(queue), ..none }).collect()
        }
        _ => PROBES.iter().map(|&lists| SearchParams { nprobe: Some(lists), ..none }).collect(),
    };
    let with = |params: SearchParams| {
        factors.iter().map(move |&factor| (SearchParams { k_factor: Some(factor as f32), ..params }, factor))
    };
    params.into_iter().flat_map(with).collect()
}

/// Recall@10 and queries a second of one thread.
fn measure(
    opened: &OpenIndex,
    rows: &[f32],
    queries: &[f32],
    truth: &[f32],
    (params, factor): (SearchParams, usize),
) -> (f64, f64) {
    let ranks_again = !opened.ranks_exactly();
    let wanted = if ranks_again { K * factor } else { K };
    let (mut found, start) = (0, processor_time::of_thread());
    for (query, near) in std::iter::zip(queries.chunks(DIMS), truth.chunks(100)) {
        let mut hits = opened.search(query, wanted, &params, None).unwrap();
        if ranks_again {
            rank_by_rows(&mut hits, query, rows);
        }
        found += hits.iter().take(K).filter(|hit| near[..K].contains(&(hit.position as f32))).count();
    }
    let asked = (queries.len() / DIMS) as f64;
    (found as f64 / (K as f64 * asked), asked / (processor_time::of_thread() - start).as_secs_f64())
}

#[test]
#[ignore = "a measurement, of a quarter of an hour"]
fn measure_at_the_same_recall() {
    let Some(folder) = data_folder() else {
        println!("no data: nothing is measured");
        return;
    };
    let rows = shared_rows(&folder);
    let (queries, truth) = shared_queries(&folder);
    for factory in wanted(&FAMILIES) {
        let start = processor_time::of_process();
        let builder = on_worker(2, &mut || (), || build(factory, Metric::L2, &rows, DIMS)).unwrap();
        let build_s = (processor_time::of_process() - start).as_secs_f64();
        let serial = serialised(&builder);
        drop(builder);
        let bytes = serial.len() as f64 / (rows.len() / DIMS) as f64;
        let opened = open(&serial, Metric::L2).unwrap();
        let measured: Vec<((f64, f64), (SearchParams, usize))> = searches(factory)
            .into_iter()
            .map(|search| (measure(&opened, &rows, &queries, &truth, search), search))
            .collect();
        let mut line = format!("| `{factory}` | {build_s:.0} | {bytes:.0} |");
        for asked in RECALLS {
            let enough = measured.iter().filter(|((recall, _), _)| *recall >= asked);
            match enough.max_by(|a, b| a.0.1.total_cmp(&b.0.1)) {
                Some(((recall, speed), (params, factor))) => {
                    println!(
                        "{factory} at {asked}: recall {recall:.4}, {speed:.0} queries/s with nprobe {:?} ef {:?} factor {factor}",
                        params.nprobe, params.ef_search
                    );
                    line += &format!(" {speed:.0} |");
                }
                None => line += " |",
            }
        }
        println!("{line}");
        replace_row(MARKS, &FAMILIES, &line);
    }
}

/// From how many rows on a graph beats a scan: both at the defaults, on the first rows.
#[test]
#[ignore = "a measurement, of a minute"]
fn measure_scans_beside_graphs() {
    let Some(folder) = data_folder() else {
        println!("no data: nothing is measured");
        return;
    };
    let all = shared_rows(&folder);
    let (queries, _) = shared_queries(&folder);
    for count in [2_500, 5_000, 10_000, 20_000] {
        let rows = &all[..count * DIMS];
        for (factory, queue) in [("Flat", 0), ("HNSW32", 16), ("HNSW32", 32), ("HNSW32", 64)] {
            let builder = on_worker(2, &mut || (), || build(factory, Metric::L2, rows, DIMS)).unwrap();
            let serial = serialised(&builder);
            let opened = open(&serial, Metric::L2).unwrap();
            let params = SearchParams { ef_search: (queue > 0).then_some(queue), ..SearchParams::default() };
            let mut found = 0;
            let mut best = f64::INFINITY;
            for _ in 0..3 {
                let start = processor_time::of_thread();
                for query in queries.chunks(DIMS).take(300) {
                    opened.search(query, K, &params, None).unwrap();
                }
                best = best.min((processor_time::of_thread() - start).as_secs_f64() / 300.0);
            }
            for query in queries.chunks(DIMS).take(300) {
                let truth = exact(Metric::L2, query, rows, None);
                let hits = opened.search(query, K, &params, None).unwrap();
                found += (recall(&hits, &truth, K) * 10.0).round() as usize;
            }
            println!(
                "{count} rows, {factory} ef {queue}: {:.0} us, recall {:.4}",
                best * 1e6,
                found as f64 / 3_000.0
            );
        }
    }
}
