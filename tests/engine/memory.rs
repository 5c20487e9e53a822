//! What an opened index costs its process: many backends open the same one.

use super::data::*;
use super::process;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::sync::Arc;
use vekter_engine::{Builder, MappedBytes, Metric, OpenIndex, on_worker};

const DIMS: usize = 128;
/// Enough that floats and links are many times what is allowed.
const ROWS: usize = 30_000;
const MOST_KIB: usize = 8 << 10;

/// A whole file, mapped read-only.
pub struct Map {
    start: *mut std::ffi::c_void,
    length: usize,
}

// SAFETY: the map is read-only and stays until it is dropped.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    pub fn new(file: &File) -> Self {
        let length = file.metadata().unwrap().len() as usize;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe { mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, file, 0) };
        Self { start: start.unwrap(), length }
    }
}

impl MappedBytes for Map {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the map has `length` readable bytes, and the test changes the file no more.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.length) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the map is ours, and no slice of it outlives `self`.
        let _ = unsafe { munmap(self.start, self.length) };
    }
}

/// Memory that belongs to this process alone, whether touched by it or copied: pages of files do not count, even
/// those that are not yet on disk, which `Private_Dirty` takes in.
pub fn private_kib() -> usize {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Builds here, opens and searches in a process of its own, which reports its growth.
fn opens_small(test: &str, factory: &str) {
    let path = std::env::temp_dir().join(format!("vekter_{}.faiss", test.replace(':', "_")));
    if !process::is_alone() {
        let _shared = CANCELLING.read();
        let rows = clustered(ROWS, DIMS, 1);
        let builder = on_worker(2, &mut || (), || build(factory, Metric::L2, &rows, DIMS)).unwrap();
        builder.write(&mut File::create(&path).unwrap()).unwrap();
    }
    let outcome = process::alone(test, 4_000, || {
        vekter_engine::initialise(|| false);
        let map: Arc<dyn MappedBytes> = Arc::new(Map::new(&File::open(&path).unwrap()));
        let length = map.bytes().len();
        let query = clustered(1, DIMS, 2);
        let before = private_kib();
        let start = std::time::Instant::now();
        let opened = OpenIndex::open(map, 0..length, Metric::L2).unwrap();
        let open_time = start.elapsed();
        let hits = opened.search(&query, 10, &narrow(), None).unwrap();
        let grown = private_kib() - before;
        println!("{factory}: {length} bytes, opened in {open_time:?}, with {grown} KiB of private memory");
        assert_eq!(hits.len(), 10);
        assert!(grown < MOST_KIB, "{factory} takes {grown} KiB");
    });
    if !process::is_alone() {
        std::fs::remove_file(&path).unwrap();
    }
    outcome.assert_success();
}

#[test]
fn an_opened_graph_takes_less_than_8_mib() {
    opens_small("memory::an_opened_graph_takes_less_than_8_mib", "HNSW32");
}

#[test]
fn opened_lists_take_less_than_8_mib() {
    opens_small("memory::opened_lists_take_less_than_8_mib", "IVF256,Flat");
}

#[test]
fn opened_lists_of_fast_scan_codes_take_less_than_8_mib() {
    opens_small("memory::opened_lists_of_fast_scan_codes_take_less_than_8_mib", "IVF256,PQ32x4fs,RFlat");
}

#[test]
fn opened_lists_of_product_codes_take_less_than_8_mib() {
    opens_small("memory::opened_lists_of_product_codes_take_less_than_8_mib", "IVF256,PQ32");
}

#[test]
fn an_opened_residual_quantiser_takes_less_than_8_mib() {
    opens_small("memory::an_opened_residual_quantiser_takes_less_than_8_mib", "RQ8x8_Nqint8");
}

#[test]
fn opened_fast_scan_codes_without_lists_take_less_than_8_mib() {
    opens_small("memory::opened_fast_scan_codes_without_lists_take_less_than_8_mib", "PQ64x4fs");
}

fn status_kib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Factory, dimensions and rows of a build, and the most that its estimate may exceed what it takes by, but for 16 MiB:
/// a factor.
const BUILDS: [(&str, usize, usize, f64); 20] = [
    ("Flat", 128, 20_000, 3.0),
    ("HNSW16", 128, 10_000, 3.0),
    ("IVF64,Flat", 128, 20_000, 3.0),
    ("IVF64,PQ32x4fs,RFlat", 128, 20_000, 3.0),
    ("IVF64,PQ16", 128, 20_000, 3.0),
    ("IVF64,RaBitQ", 128, 20_000, 3.0),
    ("PQ8x8", 128, 20_000, 3.0),
    ("PQ64x4fs", 128, 20_000, 3.0),
    ("OPQ16,IVF64,PQ16x4", 128, 4_000, 3.0),
    ("PCA64,SQ8", 128, 20_000, 3.0),
    ("RQ4x8_Nfloat", 128, 8_000, 3.0),
    ("LSQ4x6_Nqint8", 128, 6_000, 5.0),
    ("PRQ4x2x8", 128, 8_000, 3.0),
    ("Flat", 768, 5_000, 3.0),
    ("HNSW32", 768, 2_500, 3.0),
    ("IVF1024,Flat", 768, 5_000, 3.0),
    ("IVF1024,SQ8", 768, 5_000, 3.0),
    ("IVF1024,PQ48x4fs,RFlat", 768, 5_000, 3.0),
    ("PCA128,IVF128,SQ8", 768, 2_000, 3.0),
    ("IVF1024,PRQ8x4x8_Nqint8", 768, 2_500, 2.0),
];

#[test]
fn a_build_takes_about_the_memory_that_was_estimated_and_no_more() {
    let test = "memory::a_build_takes_about_the_memory_that_was_estimated_and_no_more";
    for (at, (factory, ..)) in BUILDS.iter().enumerate() {
        // Each alone: what one build frees, the next would take without growing the process.
        let outcome = process::alone_with(test, &at.to_string(), 8_000, |at| {
            measure_build(BUILDS[at.parse::<usize>().unwrap()]);
        });
        println!("{}", outcome.said().lines().find(|line| line.contains("MiB")).unwrap_or(factory));
        outcome.assert_success();
        if process::is_alone() {
            break;
        }
    }
}

fn measure_build((factory, dims, rows, factor): (&str, usize, usize, f64)) {
    vekter_engine::initialise(|| false);
    let values = clustered(rows, dims, 1);
    // Resets the peak of resident memory to what is resident.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status_kib("VmHWM:");
    let (training, adding) = on_worker(2, &mut || (), || {
        let mut builder = Builder::new(factory, dims, Metric::L2).unwrap();
        let sample = builder.training_rows().wanted.min(rows);
        let adding = builder.fixed_bytes(rows as u64) + builder.bytes_per_row() * rows as u64;
        let training = if sample > 0 { builder.training_bytes(sample) } else { 0 };
        builder.reserve(rows as u64).unwrap();
        if builder.needs_training() {
            builder.train(&values[..sample * dims]).unwrap();
        }
        println!("trained with {} KiB", status_kib("VmHWM:") - before);
        for batch in values.chunks(1_000 * dims) {
            builder.add(batch).unwrap();
        }
        (training >> 20, adding >> 20)
    });
    let (taken, estimate) = ((status_kib("VmHWM:") - before) >> 10, training.max(adding));
    println!(
        "{factory} of {rows} x {dims}: {taken} MiB of {estimate} ({training} to train, {adding} to add)"
    );
    assert!(taken <= estimate, "{factory}: {taken} MiB of {estimate} MiB");
    let most = (taken as f64 * factor) as u64 + 16;
    assert!(estimate <= most, "{factory}: {estimate} MiB, and it takes {taken} MiB");
}
