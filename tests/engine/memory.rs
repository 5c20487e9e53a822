//! What an opened index costs its process: many backends open the same one.

use super::data::*;
use super::process;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::sync::Arc;
use vekter::engine::{Builder, MappedBytes, Metric, OpenIndex, on_worker};

const DIMS: usize = 128;
const ROWS: usize = 100_000;
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
        vekter::engine::initialise(|| false);
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

#[test]
fn a_build_takes_no_more_memory_than_was_estimated() {
    const ROWS: usize = 20_000;
    for factory in [
        "Flat",
        "HNSW16",
        "IVF64,Flat",
        "IVF64,PQ32x4fs,RFlat",
        "IVF64,PQ16",
        "IVF64,RaBitQ",
        "PQ8x8",
        "PQ64x4fs",
        "OPQ16,IVF64,PQ16x4",
        "PCA64,SQ8",
        "RQ4x8_Nfloat",
        "LSQ4x6_Nqint8",
        "PRQ4x2x8",
        "IVF64,PLSQ2x4x4fsr_Nrq2x4",
    ] {
        // Each alone: what one build frees, the next would take without growing the process.
        let test = "memory::a_build_takes_no_more_memory_than_was_estimated";
        let outcome = process::alone_with(test, factory, 8_000, |factory| {
            vekter::engine::initialise(|| false);
            let rows = clustered(ROWS, DIMS, 1);
            // Resets the peak of resident memory to what is resident.
            std::fs::write("/proc/self/clear_refs", "5").unwrap();
            let before = status_kib("VmHWM:");
            let estimate = on_worker(2, &mut || (), || {
                let mut builder = Builder::new(factory, DIMS, Metric::L2).unwrap();
                let sample = builder.training_rows().wanted.min(ROWS);
                let adding = builder.fixed_bytes() + builder.bytes_per_row() * ROWS as u64;
                let training = if sample > 0 { builder.training_bytes(sample) } else { 0 };
                let estimate = adding.max(training);
                builder.reserve(ROWS as u64).unwrap();
                if builder.needs_training() {
                    builder.train(&rows[..sample * DIMS]).unwrap();
                }
                for batch in rows.chunks(1_000 * DIMS) {
                    builder.add(batch).unwrap();
                }
                estimate
            });
            let (taken, estimate) = ((status_kib("VmHWM:") - before) >> 10, estimate >> 20);
            println!("{factory}: {taken} MiB of {estimate} MiB");
            assert!(taken <= estimate, "{factory}: {taken} MiB of {estimate} MiB");
        });
        outcome.assert_success();
        if process::is_alone() {
            break;
        }
    }
}
