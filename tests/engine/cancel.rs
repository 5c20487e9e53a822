//! Long work: off the caller's thread, deaf to signals, and over soon after it is no longer wanted.

use super::data::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use vekter_engine::{Builder, EngineError, Metric, SearchParams, initialise, on_worker, on_worker_while};

/// Longer than any cancel may take, with room for a busy machine.
const SOON: Duration = Duration::from_secs(15);

/// Runs `work`, which would take minutes, and unwinds from a tick after 50 ms; what comes out is the tick's panic.
fn is_cancelled(work: impl FnOnce() -> Result<(), EngineError> + Send) {
    let outcome = AtomicBool::new(false);
    let start = Instant::now();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        on_worker(
            2,
            &mut || {
                if start.elapsed() > Duration::from_millis(50) {
                    panic!("cancelled by the user");
                }
            },
            || outcome.store(matches!(work(), Err(EngineError::Interrupted)), Ordering::Relaxed),
        )
    }))
    .unwrap_err();
    assert_eq!(*panic.downcast::<&str>().unwrap(), "cancelled by the user");
    assert!(outcome.load(Ordering::Relaxed), "the work did not end by an interrupt");
    if std::env::var_os("VEKTER_SHOW").is_some() {
        println!("cancelled after {:?}", start.elapsed());
    }
    assert!(start.elapsed() < SOON, "the work went on for {:?}", start.elapsed());
}

#[test]
fn training_ends_soon_after_a_cancel() {
    let _alone = CANCELLING.write();
    initialise(|| false);
    let rows = clustered(60_000, 256, 1);
    for factory in [
        "IVF16384,Flat",
        "PQ128x10",
        "OPQ64,PQ64",
        "IVF8192_HNSW32,PQ64x4fs",
        "RQ32x8",
        "LSQ4x8",
        "PLSQ4x4x8",
    ] {
        let mut builder = Builder::new(factory, 256, Metric::L2).unwrap();
        is_cancelled(|| builder.train(&rows));
    }
}

#[test]
fn encoding_by_additive_quantisers_ends_soon_after_a_cancel() {
    let _alone = CANCELLING.write();
    initialise(|| false);
    let rows = clustered(200_000, 64, 1);
    // The first encodes by products between its codebooks, the second has too many centroids for that.
    for factory in ["RQ12x8_Nfloat", "RQ2x12", "LSQ4x8_Nrq2x4"] {
        let mut builder = Builder::new(factory, 64, Metric::L2).unwrap();
        builder.train(&rows[..builder.training_rows().min * 64]).unwrap();
        is_cancelled(|| builder.add(&rows));
    }
}

#[test]
fn adding_to_a_graph_ends_soon_after_a_cancel() {
    let _alone = CANCELLING.write();
    initialise(|| false);
    let rows = clustered(100_000, 256, 1);
    let mut builder = Builder::new("HNSW64", 256, Metric::L2).unwrap();
    is_cancelled(move || builder.add(&rows));
}

#[test]
fn work_ends_soon_after_others_need_its_thread_and_the_caller_is_told() {
    let _alone = CANCELLING.write();
    initialise(|| false);
    let rows = clustered(100_000, 256, 1);
    let mut builder = Builder::new("HNSW64", 256, Metric::L2).unwrap();
    let start = Instant::now();
    let mut goes_on = || start.elapsed() < Duration::from_millis(50);
    let (outcome, went_on) = on_worker_while(2, &mut goes_on, || builder.add(&rows));
    assert!(matches!(outcome, Err(EngineError::Interrupted)) && !went_on);
    assert!(start.elapsed() < SOON, "the work went on for {:?}", start.elapsed());
    // The next one is not stopped by what stopped the last.
    let (outcome, went_on) = on_worker_while(2, &mut || true, || builder.add(&rows[..256]));
    assert!(outcome.is_ok() && went_on);
}

#[test]
fn adding_to_a_resumed_graph_ends_soon_after_a_cancel() {
    let _alone = CANCELLING.write();
    initialise(|| false);
    let rows = clustered(100_000, 256, 1);
    let mut builder = Builder::new("HNSW64", 256, Metric::L2).unwrap();
    builder.add(&rows[..1_000 * 256]).unwrap();
    let mut resumed = Builder::resume("HNSW64", 256, Metric::L2, &serialised(&builder), true).unwrap();
    is_cancelled(move || resumed.add(&rows));
}

#[test]
fn reading_all_rows_and_resuming_end_when_they_are_unwanted() {
    static WANTED: AtomicBool = AtomicBool::new(false);
    let _alone = CANCELLING.write();
    initialise(|| WANTED.load(Ordering::Relaxed));
    let serial = serialised(&build("IVF16,PQ8", Metric::L2, &clustered(1_000, 64, 1), 64).unwrap());
    initialise(|| WANTED.load(Ordering::Relaxed));
    let opened = open(&serial, Metric::L2).unwrap();
    let mut batches = 0;
    let rows = opened.all_rows(10, &mut |_, _| {
        batches += 1;
        WANTED.store(true, Ordering::Relaxed);
        true
    });
    let at = opened.rows_at(&[1], &mut Vec::new());
    let resumed = Builder::resume("IVF16,PQ8", 64, Metric::L2, &serial, true);
    initialise(|| false);
    assert!(matches!(rows, Err(EngineError::Interrupted)) && batches == 1);
    assert!(matches!(at, Err(EngineError::Interrupted)));
    assert!(matches!(resumed, Err(EngineError::Interrupted)));
}

#[test]
fn adding_equal_rows_to_a_graph_ends_soon_after_a_cancel() {
    let _alone = CANCELLING.write();
    initialise(|| false);
    let rows = clustered(1, 128, 1).repeat(60_000);
    let mut builder = Builder::new("HNSW32", 128, Metric::L2).unwrap();
    is_cancelled(move || builder.add(&rows));
}

#[test]
fn the_callback_of_the_process_interrupts_as_well() {
    static WANTED: AtomicBool = AtomicBool::new(false);
    let _alone = CANCELLING.write();
    initialise(|| WANTED.load(Ordering::Relaxed));
    let rows = clustered(1_000, 64, 1);
    let mut builder = Builder::new("HNSW16", 64, Metric::L2).unwrap();
    builder.add(&rows).unwrap();
    let flat = {
        let mut flat = Builder::new("Flat", 64, Metric::L2).unwrap();
        flat.add(&rows).unwrap();
        open(&serialised(&flat), Metric::L2).unwrap()
    };
    WANTED.store(true, Ordering::Relaxed);
    let add = builder.add(&rows);
    let search = flat.search(&rows[..64], 5, &narrow(), None);
    let worker = on_worker(1, &mut || (), || flat.search(&rows[..64], 5, &narrow(), None));
    WANTED.store(false, Ordering::Relaxed);
    assert!(matches!(add, Err(EngineError::Interrupted)));
    assert!(matches!(search, Err(EngineError::Interrupted)));
    assert!(matches!(worker, Err(EngineError::Interrupted)));
    assert_eq!(flat.search(&rows[..64], 5, &narrow(), None).unwrap().len(), 5);
    initialise(|| false);
}

/// Factory, dimensions and rows of an index, what a search of it asks for, and how often at least it looks within
/// whether it is wanted.
fn long_searches() -> [(&'static str, usize, usize, SearchParams, usize, usize); 12] {
    let none = SearchParams::default();
    let all_lists = SearchParams { nprobe: Some(64), ..none };
    let refined = SearchParams { k_factor: Some(1_000.0), ..none };
    let queue = SearchParams { ef_search: Some(8_000), ..none };
    let coarse_queue = SearchParams { nprobe: Some(1), quantizer_ef_search: Some(2_048), ..none };
    [
        ("Flat", 128, 20_000, none, 10, 9),
        ("HNSW16", 8, 10_000, queue, 10, 8_000 / 64),
        ("HNSW16,SQ8", 8, 10_000, none, 8_000, 8_000 / 64),
        ("IVF64,Flat", 8, 5_000, all_lists, 10, 64),
        // One list of 10 MB.
        ("IVF1,Flat", 128, 20_000, none, 10, 3),
        ("IVF2048_HNSW8,SQ8", 8, 10_000, coarse_queue, 1, 2_048 / 64),
        ("IVF64,RQ2x4_Nqint8", 8, 5_000, all_lists, 10, 64),
        ("IVF4,PQ4x4fs", 8, 400_000, all_lists, 10, 2),
        ("PQ4x4", 8, 20_000, none, 10, 20),
        ("SQ8", 8, 20_000, none, 10, 20),
        ("RaBitQ", 8, 20_000, none, 10, 20),
        ("SQ4,RFlat", 8, 20_000, refined, 10, 20 + 10),
    ]
}

#[test]
fn one_search_of_any_kind_looks_now_and_then_whether_it_is_wanted() {
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    static LAST: AtomicUsize = AtomicUsize::new(0);
    let _alone = CANCELLING.write();
    for (factory, dims, rows, params, k, looks) in long_searches() {
        let rows = clustered(rows, dims, 1);
        let index = open(&serialised(&build(factory, Metric::L2, &rows, dims).unwrap()), Metric::L2).unwrap();
        initialise(|| LOOKS.fetch_add(1, Ordering::Relaxed) + 1 == LAST.load(Ordering::Relaxed));
        let search = |last: usize| {
            LOOKS.store(0, Ordering::Relaxed);
            LAST.store(last, Ordering::Relaxed);
            let outcome = index.search(&rows[..dims], k, &params, None);
            (outcome, LOOKS.load(Ordering::Relaxed))
        };
        let (outcome, looked) = search(0);
        assert_eq!(outcome.unwrap().len(), k, "{factory}");
        assert!(looked > looks, "{factory}: {looked} looks");
        // Wherever it is found out.
        for last in [2, looked / 2 + 1, looked] {
            let (outcome, looked) = search(last);
            assert!(matches!(outcome, Err(EngineError::Interrupted)), "{factory}: look {last}");
            assert_eq!(looked, last, "{factory} went on");
        }
    }
    initialise(|| false);
}

#[test]
fn a_worker_returns_what_its_work_returns_and_ticks_meanwhile() {
    let _alone = CANCELLING.write();
    let mut ticks = 0;
    let answer = on_worker(1, &mut || ticks += 1, || {
        std::thread::sleep(Duration::from_millis(300));
        42
    });
    assert_eq!(answer, 42);
    assert!(ticks >= 2, "{ticks} ticks in 300 ms");
    // A cancelled worker leaves no cancel behind.
    assert_eq!(
        on_worker(1, &mut || (), || build("HNSW16", Metric::L2, &clustered(500, 8, 1), 8).unwrap().rows()),
        500
    );
}

#[test]
fn a_panic_of_the_work_unwinds_in_the_caller() {
    let _alone = CANCELLING.write();
    let panic = catch_unwind(|| on_worker(1, &mut || (), || panic!("from the work"))).unwrap_err();
    assert_eq!(*panic.downcast::<&str>().unwrap(), "from the work");
}

/// Ids of this process's threads and the signals that each blocks.
fn blocked_signals() -> Vec<(u64, u64)> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = entry.unwrap().path();
        let Ok(status) = std::fs::read_to_string(path.join("status")) else {
            continue;
        };
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim();
        let id = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        threads.push((id, u64::from_str_radix(mask, 16).unwrap()));
    }
    threads
}

#[test]
fn every_thread_that_a_worker_starts_blocks_all_signals() {
    // All but SIGKILL and SIGSTOP, which cannot be, and the two that glibc keeps to itself.
    const ALL: u64 = !(1 << 8 | 1 << 18 | 1 << 31 | 1 << 32);
    let _alone = CANCELLING.write();
    initialise(|| false);
    let before = blocked_signals();
    let rows = clustered(20_000, 64, 1);
    let mut started = Vec::new();
    on_worker(
        3,
        &mut || {
            let new = blocked_signals().into_iter().filter(|(id, _)| before.iter().all(|(old, _)| old != id));
            started.extend(new);
        },
        || {
            let mut builder = Builder::new("HNSW32", 64, Metric::L2).unwrap();
            builder.add(&rows).unwrap();
        },
    );
    let mut ids: Vec<u64> = started.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    // The test harness may start threads of other tests meanwhile, which wait for the lock and block nothing.
    let deaf: Vec<_> = started.iter().filter(|(_, mask)| mask & ALL == ALL).map(|(id, _)| *id).collect();
    assert!(deaf.len() >= 3, "the worker and two of OpenMP's threads block all signals: {started:x?}");
    let own = blocked_signals().into_iter().find(|(id, _)| *id == thread_id());
    assert_eq!(own.unwrap().1 & ALL, 0, "the caller's own mask is as before");
}

fn thread_id() -> u64 {
    let link = std::fs::read_link("/proc/thread-self").unwrap();
    link.file_name().unwrap().to_str().unwrap().parse().unwrap()
}
