//! Recall, speed and size on real embeddings, where the defaults of `SearchParams` come from:
//! `VEKTER_DATA=... cargo test --release -p vekter-engine --test engine measure -- --ignored --nocapture`

use super::data::*;
use std::path::{Path, PathBuf};
use std::time::Instant;
use vekter_engine::{Hit, Metric, SearchParams, on_worker};

const DIMS: usize = 384;

/// The values of a little-endian, two-dimensional .npy file (numpy's format 1.0), as f32.
fn npy(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..6], b"\x93NUMPY");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[10..start]).into_owned();
    let body = &bytes[start..];
    if header.contains("'<f2'") {
        body.chunks_exact(2).map(|pair| half(u16::from_le_bytes([pair[0], pair[1]]))).collect()
    } else if header.contains("'<f4'") {
        body.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
    } else {
        assert!(header.contains("'<i4'"), "{header}");
        body.chunks_exact(4).map(|word| i32::from_le_bytes(word.try_into().unwrap()) as f32).collect()
    }
}

fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let value = if exponent == 0 {
        fraction * 2f32.powi(-24)
    } else {
        (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15)
    };
    if sign == 1 { -value } else { value }
}

/// The folder of shared embeddings, if it is there.
pub fn data_folder() -> Option<PathBuf> {
    let folder =
        std::env::var_os("VEKTER_DATA").map_or_else(|| PathBuf::from("../shared/data"), PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// The shared embeddings, of unit length.
pub fn shared_rows(folder: &Path) -> Vec<f32> {
    prepared(Metric::Cosine, npy(&folder.join("wordnet_minilm_base.f16.npy")), DIMS)
}

/// Queries, of unit length, and the positions of the 100 rows nearest to each.
pub fn shared_queries(folder: &Path) -> (Vec<f32>, Vec<f32>) {
    let queries = prepared(Metric::Cosine, npy(&folder.join("wordnet_minilm_queries.f32.npy")), DIMS);
    (queries, npy(&folder.join("wordnet_minilm_neighbors.i32.npy")))
}

/// Ranks candidates again by their rows, as the index access method does with lossy codes.
pub fn rank_by_rows(hits: &mut [Hit], query: &[f32], rows: &[f32]) {
    let mut distance = Vec::with_capacity(1);
    for hit in hits.iter_mut() {
        distance.clear();
        let row = &rows[hit.position as usize * DIMS..][..DIMS];
        Metric::L2.distances(query, row, &mut distance);
        hit.distance = distance[0];
    }
    hits.sort_by(by_distance);
}

#[test]
#[ignore = "a measurement, of minutes"]
fn measure() {
    let Some(folder) = data_folder() else {
        println!("no data: nothing is measured");
        return;
    };
    let rows = shared_rows(&folder);
    let (queries, truth) = shared_queries(&folder);
    let none = SearchParams::default();
    let ef = |ef| SearchParams { ef_search: Some(ef), ..none };
    let lists = |nprobe, k_factor| SearchParams { nprobe: Some(nprobe), k_factor: Some(k_factor), ..none };
    let only = std::env::var("VEKTER_ONLY").ok();
    for (factory, searches) in [
        ("Flat", vec![none]),
        ("HNSW32", [40, 64, 80, 100, 128, 160, 200].map(ef).to_vec()),
        ("IVF512,Flat", [8, 16, 24, 32, 46, 64, 96].map(|nprobe| lists(nprobe, 1.0)).to_vec()),
        (
            "IVF512,PQ96x4fs,RFlat",
            [16, 24, 32, 46, 64, 96]
                .iter()
                .flat_map(|&n| [2.0, 4.0, 6.0, 10.0, 20.0].map(|k| lists(n, k)))
                .collect(),
        ),
        ("IVF512,PQ96", [32, 46, 64].map(|nprobe| lists(nprobe, 1.0)).to_vec()),
        ("IVF512,RaBitQ,RFlat", [32, 46].map(|nprobe| lists(nprobe, 10.0)).to_vec()),
        ("IVF512,SQ8", [32, 46, 64].map(|nprobe| lists(nprobe, 1.0)).to_vec()),
    ] {
        if only.as_ref().is_some_and(|only| only != factory) {
            continue;
        }
        let start = Instant::now();
        let builder = on_worker(2, &mut || (), || build(factory, Metric::L2, &rows, DIMS)).unwrap();
        println!("{factory}: built in {:.1} s on 2 threads", start.elapsed().as_secs_f64());
        let serial = serialised(&builder);
        drop(builder);
        let start = Instant::now();
        let opened = open(&serial, Metric::L2).unwrap();
        println!(
            "  {} MiB; copied and opened in {:.1} ms",
            serial.len() >> 20,
            start.elapsed().as_secs_f64() * 1e3
        );
        for params in searches {
            let start = Instant::now();
            let mut found = 0;
            for (query, near) in std::iter::zip(queries.chunks(DIMS), truth.chunks(100)) {
                let hits = opened.search(query, 10, &params, None).unwrap();
                found += hits.iter().filter(|hit| near[..10].contains(&(hit.position as f32))).count();
            }
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "  nprobe {:?} ef {:?} k_factor {:?}: recall@10 {:.4}, {:.0} queries/s",
                params.nprobe,
                params.ef_search,
                params.k_factor,
                found as f64 / 10_000.0,
                1_000.0 / seconds
            );
        }
    }
}
