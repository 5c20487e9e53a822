//! The families side by side on real embeddings, for docs/factories.md, where this rewrites rows between marks, each as
//! soon as it is measured:
//! `VEKTER_DATA=... cargo test --release -p vekter-engine --test engine table -- --ignored --nocapture`
//!
//! `VEKTER_ONLY="IVF512,SQ8 LSH"` measures those alone, in that order. Times are of the processor.

use super::data::*;
use super::measure::{data_folder, rank_by_rows, shared_queries, shared_rows};
use super::memory::{Map, private_kib};
use super::process;
use super::processor_time;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use vekter_engine::{MappedBytes, Metric, OpenIndex, on_worker};

const DIMS: usize = 384;
const K: usize = 10;
/// Candidates that are ranked again by their rows where codes are lossy, for each result: as a search of the index
/// does.
const K_FACTOR: usize = 10;
const TEST: &str = "table::measure_every_family";
const MARKS: [&str; 2] = ["<!-- measured -->", "<!-- /measured -->"];

/// (factory string, what it is)
const FAMILIES: &[(&str, &str)] = &[
    ("Flat", "exact scan"),
    ("HNSW32", "graph"),
    ("HNSW32,SQ8", "graph over codes of 8 bits"),
    ("PCA192,HNSW32", "graph over half of the dimensions"),
    ("IVF512,Flat", "lists"),
    ("IVF512_HNSW32,Flat", "lists that a graph finds"),
    ("IVF512,SQ8", "lists of codes of 8 bits"),
    ("IVF512,SQ4", "lists of codes of 4 bits"),
    ("IVF512,PQ96", "lists of product codes"),
    ("OPQ96,IVF512,PQ96", "the same after a learnt rotation"),
    ("IVF512,PQ96x4fs", "lists of product codes, fast scan"),
    ("IVF512,PQ96x4fsr", "the same of residuals"),
    ("IVF512,PQ96x4fs,RFlat", "fast scan, refined by stored rows"),
    ("IVF512,PQ96x4fs,Refine(SQ8)", "fast scan, refined by codes of 8 bits"),
    ("IVF512,RaBitQ", "lists of one bit for each dimension"),
    ("IVF512,RQ8x8_Nqint8", "lists of residual codes"),
    ("IVF512,PRQ8x4x8_Nqint8", "lists of product-residual codes"),
    ("IVF512,RQ64x4fsr_Nrq2x4", "lists of residual codes, fast scan"),
    ("SQfp16", "scan of 16-bit floats"),
    ("SQ8", "scan of codes of 8 bits"),
    ("SQ4", "scan of codes of 4 bits"),
    ("PQ96", "scan of product codes"),
    ("PQ96x4fs", "fast scan of product codes"),
    ("RaBitQ", "scan of one bit for each dimension"),
    ("LSH", "scan of signs"),
    ("ITQ192,LSH", "scan of learnt signs"),
    ("RQ8x8_Nqint8", "scan of residual codes"),
    ("PRQ8x4x8_Nqint8", "scan of product-residual codes"),
    ("RQ64x4fs_Nrq2x4", "fast scan of residual codes"),
    ("LSQ4x8_Nqint8", "scan of local-search codes"),
    ("PLSQ8x2x8_Nqint8", "scan of product local-search codes"),
];

#[test]
#[ignore = "a measurement, of an hour"]
fn measure_every_family() {
    let Some(folder) = data_folder() else {
        println!("no data: nothing is measured");
        return;
    };
    let file = std::env::temp_dir().join("vekter_measured.faiss");
    if process::is_alone() {
        process::alone_with(TEST, "", 0, |_| search(&folder, &file));
        return;
    }
    let rows = shared_rows(&folder);
    let order: Vec<&str> = FAMILIES.iter().map(|(factory, _)| *factory).collect();
    for factory in wanted(&order) {
        let what = FAMILIES.iter().find(|(known, _)| *known == factory).unwrap().1;
        let start = processor_time::of_process();
        let builder = on_worker(2, &mut || (), || build(factory, Metric::L2, &rows, DIMS)).unwrap();
        let build_s = (processor_time::of_process() - start).as_secs_f64();
        builder.write(&mut File::create(&file).unwrap()).unwrap();
        drop(builder);
        let bytes = std::fs::metadata(&file).unwrap().len() as f64 / (rows.len() / DIMS) as f64;
        let outcome = process::alone_with(TEST, factory, 16_000, |_| ());
        outcome.assert_success();
        let said = outcome.said();
        let measured = said.lines().find_map(|line| line.split_once("MEASURED ")).unwrap().1.to_owned();
        let line = format!("| `{factory}` | {what} | {build_s:.0} | {bytes:.0} | {measured} |");
        println!("{line}");
        replace_row(MARKS, &order, &line);
    }
    // Nothing was written if VEKTER_ONLY names families of the other table.
    let _ = std::fs::remove_file(&file);
}

/// In a process of its own: what opening takes, and how well and fast one thread finds.
fn search(folder: &Path, file: &Path) {
    vekter_engine::initialise(|| false);
    let (queries, truth) = shared_queries(folder);
    let before = private_kib();
    let map: Arc<dyn MappedBytes> = Arc::new(Map::new(&File::open(file).unwrap()));
    let length = map.bytes().len();
    let start = processor_time::of_thread();
    let opened = OpenIndex::open(map, 0..length, Metric::L2).unwrap();
    let open_ms = (processor_time::of_thread() - start).as_secs_f64() * 1e3;
    let wanted = if opened.ranks_exactly() { K } else { K * K_FACTOR };
    for query in queries.chunks(DIMS).take(20) {
        opened.search(query, wanted, &narrow(), None).unwrap();
    }
    let private_mib = (private_kib() - before) as f64 / 1024.0;
    let rows = shared_rows(folder);
    let start = processor_time::of_thread();
    let (mut found, mut asked) = (0, 0);
    for (query, near) in std::iter::zip(queries.chunks(DIMS), truth.chunks(100)) {
        let mut hits = opened.search(query, wanted, &narrow(), None).unwrap();
        if !opened.ranks_exactly() {
            rank_by_rows(&mut hits, query, &rows);
        }
        found += hits.iter().take(K).filter(|hit| near[..K].contains(&(hit.position as f32))).count();
        asked += 1;
        if (processor_time::of_thread() - start).as_secs() >= 20 {
            break;
        }
    }
    let speed = f64::from(asked) / (processor_time::of_thread() - start).as_secs_f64();
    let recall = found as f64 / (K as f64 * f64::from(asked));
    println!("MEASURED {private_mib:.1} | {open_ms:.1} | {speed:.0} | {recall:.3}");
}

/// Of these factories those that VEKTER_ONLY names, in its order; without it all.
pub fn wanted<'a>(factories: &[&'a str]) -> Vec<&'a str> {
    let Ok(only) = std::env::var("VEKTER_ONLY") else { return factories.to_vec() };
    only.split_whitespace()
        .filter_map(|name| factories.iter().find(|factory| **factory == name).copied())
        .collect()
}

/// Puts a row into the table between the marks in docs/factories.md, in place of the one that begins like it; rows are
/// in the order of `factories`.
pub fn replace_row(marks: [&str; 2], factories: &[&str], row: &str) {
    let path = Path::new("docs/factories.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (head, rest) = text.split_once(marks[0]).unwrap();
    let (table, tail) = rest.split_once(marks[1]).unwrap();
    let (titles, mut rows): (Vec<&str>, Vec<&str>) =
        table.trim().lines().partition(|line| !line.starts_with("| `"));
    rows.retain(|old| factory_of(old) != factory_of(row));
    rows.push(row);
    rows.sort_by_key(|row| factories.iter().position(|factory| *factory == factory_of(row)));
    let table = [titles, rows].concat().join("\n");
    std::fs::write(path, format!("{head}{}\n\n{table}\n\n{}{tail}", marks[0], marks[1])).unwrap();
}

/// What a row stands for: it begins with it, in backquotes.
fn factory_of(row: &str) -> &str {
    row.split('`').nth(1).unwrap_or_default()
}
