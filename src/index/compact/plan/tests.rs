#![allow(clippy::unwrap_used)]
use super::*;
use crate::index::format::BlobRef;

fn segment(factory: &str, rows: u64, dead_rows: u64) -> SegmentRef {
    SegmentRef {
        payload: BlobRef { id: u128::from(rows), bytes: 0, crc32c: 0, extents: Vec::new() },
        run: None,
        rows,
        dead_rows,
        tombstones: None,
        factory: factory.into(),
        trained_rows: 0,
        trained_imbalance_percent: 0,
        points: Vec::new(),
        reason: String::new(),
    }
}

fn few_dims() -> Tiers {
    Tiers::of_dims(8)
}

fn trained(rows: u64, imbalance_percent: u32) -> SegmentRef {
    SegmentRef {
        trained_rows: rows,
        trained_imbalance_percent: imbalance_percent,
        ..segment("IVF64,Flat", rows, 0)
    }
}

fn tiers(segments: &[SegmentRef], factory: &str) -> Option<MergePlan> {
    next(
        segments,
        &vec![0; segments.len()],
        few_dims(),
        &RequestedFactory::Factory(factory),
        Goal::Tiers,
        Limits::NONE,
    )
}

#[test]
fn three_segments_of_a_tier_stay_and_four_become_one() {
    let small = || segment("Flat", 2000, 0);
    assert_eq!(tiers(&[small(), small(), small()], "HNSW32"), None);
    let plan = tiers(&[small(), small(), small(), small()], "HNSW32").unwrap();
    assert_eq!(plan.sources, [0, 1, 2, 3]);
    assert_eq!((plan.factory.as_str(), plan.base, plan.rows), ("HNSW32", None, 8000));
}

#[test]
fn a_small_result_is_flat() {
    let tiny = || segment("Flat", 100, 0);
    assert_eq!(tiers(&[tiny(), tiny(), tiny(), tiny()], "HNSW32").unwrap().factory, "Flat");
}

#[test]
fn smaller_segments_go_along_with_a_full_tier() {
    let segments = [
        segment("HNSW32", 5000, 0),
        segment("HNSW32", 200_000, 0),
        segment("HNSW32", 6000, 0),
        segment("HNSW32", 7000, 0),
        segment("Flat", 10, 0),
        segment("HNSW32", 5000, 0),
    ];
    let plan = tiers(&segments, "HNSW32").unwrap();
    assert_eq!(plan.sources, [0, 2, 3, 4, 5]);
    assert_eq!(plan.base, Some(3), "the largest is added to");
}

/// Simulates `seals` seals with the merges that become due: rows written by merges, and the largest number of segments.
fn after_seals(seals: u64, rows_per_seal: u64, dims: usize) -> (u64, usize) {
    let mut segments: Vec<SegmentRef> = Vec::new();
    let (mut written_rows, mut most_segments) = (0, 0);
    let graph = RequestedFactory::Factory("HNSW32");
    for _ in 0..seals {
        segments.push(segment("Flat", rows_per_seal, 0));
        let unknown = |segments: &[SegmentRef]| vec![0; segments.len()];
        let tiers = Tiers::of_dims(dims);
        while let Some(plan) = next(&segments, &unknown(&segments), tiers, &graph, Goal::Tiers, Limits::NONE)
        {
            written_rows += plan.rows;
            let mut at = 0;
            segments.retain(|_| {
                at += 1;
                !plan.sources.contains(&(at - 1))
            });
            segments.push(segment(&plan.factory, plan.rows, 0));
        }
        most_segments = most_segments.max(segments.len());
    }
    (written_rows, most_segments)
}

#[test]
fn the_number_of_segments_grows_with_the_logarithm_of_the_rows() {
    let (seals, rows_per_seal) = (2000, 2500);
    let (written_rows, most_segments) = after_seals(seals, rows_per_seal, 384);
    let rows = seals * rows_per_seal;
    let tiers = Tiers::of_dims(384).tier(rows) + 1;
    assert!(most_segments <= 3 * tiers as usize, "{most_segments} segments");
    assert!(written_rows <= rows * u64::from(tiers), "a row was written {} times", written_rows / rows);
}

#[test]
fn long_rows_are_written_again_no_more_often_than_short_ones() {
    // The rows in 4 MB of delta pages: if a row is a little longer than one page, its two pages waste nearly half.
    for (dims, rows_per_seal) in [(384, 2560), (1025, 512), (1536, 512), (4096, 170), (16_000, 64)] {
        let rows = 4096 * 4;
        let (written_rows, most_segments) = after_seals(rows / rows_per_seal, rows_per_seal, dims);
        let tiers = Tiers::of_dims(dims).tier(rows) + 1;
        assert!(written_rows <= rows * u64::from(tiers), "{dims}: {} times", written_rows / rows);
        assert!(written_rows < 5 * rows, "{dims}: {} times", written_rows / rows);
        assert!(most_segments <= 3 * tiers as usize, "{dims}: {most_segments} segments");
    }
}

#[test]
fn a_small_segment_of_long_rows_is_flat_whatever_its_tier() {
    let large = || segment("Flat", 1000, 0);
    let segments = [large(), large(), large(), large()];
    let merge = |dims| {
        next(
            &segments,
            &[0; 4],
            Tiers::of_dims(dims),
            &RequestedFactory::Factory("HNSW32"),
            Goal::Tiers,
            Limits::NONE,
        )
    };
    assert!(Tiers::of_dims(16_000).tier(1000) > 0);
    assert_eq!(merge(16_000).unwrap().factory, "Flat");
    assert_eq!(merge(8).unwrap().factory, "Flat");
}

#[test]
fn a_segment_with_many_dead_rows_is_written_anew_without_them() {
    let segments = [segment("HNSW32", 10_000, 2500), segment("HNSW32", 100_000, 25_001)];
    let plan = tiers(&segments, "HNSW32").unwrap();
    assert_eq!((plan.sources, plan.base, plan.rows), (vec![1], None, 74_999));
    assert_eq!(tiers(&segments[..1], "HNSW32"), None);
}

#[test]
fn a_base_with_many_dead_rows_is_not_added_to() {
    let segments = [
        segment("HNSW32", 10_000, 1001),
        segment("HNSW32", 5000, 0),
        segment("HNSW32", 5000, 0),
        segment("HNSW32", 5000, 0),
    ];
    assert_eq!(tiers(&segments, "HNSW32").unwrap().base, None);
}

#[test]
fn the_quantiser_is_trained_again_after_tenfold_growth() {
    let old = trained(10_000, 120);
    let more = |rows| [old.clone(), segment("IVF64,Flat", rows, 0)];
    assert_eq!(tiers(&more(89_999), "IVF64,Flat"), None);
    let plan = tiers(&more(90_000), "IVF64,Flat").unwrap();
    assert_eq!((plan.retrain, plan.sources, plan.base), (true, vec![0, 1], None));
    // The segment that was trained on more rows counts.
    let [old, new] = more(90_000);
    let newer = SegmentRef { trained_rows: 50_000, ..new };
    assert_eq!(tiers(&[old, newer], "IVF64,Flat"), None);
}

#[test]
fn badly_unbalanced_lists_are_trained_again() {
    let segments = [trained(10_000, 150)];
    let lists = RequestedFactory::Factory("IVF64,Flat");
    let plan = |imbalance| next(&segments, &[imbalance], few_dims(), &lists, Goal::Tiers, Limits::NONE);
    assert_eq!(plan(400), None);
    assert!(plan(401).unwrap().retrain);
    // The largest segment with the newest quantiser counts; a small one is uneven by chance.
    let small = SegmentRef { rows: 5000, ..trained(10_000, 150) };
    assert_eq!(
        next(&[segments[0].clone(), small], &[150, 900], few_dims(), &lists, Goal::Tiers, Limits::NONE),
        None
    );
    // Data that is unbalanced by nature is not retrained forever.
    assert_eq!(next(&[trained(10_000, 300)], &[500], few_dims(), &lists, Goal::Tiers, Limits::NONE), None);
}

#[test]
fn everything_becomes_one_segment_without_dead_rows() {
    let everything = |segments: &[SegmentRef]| {
        let graph = RequestedFactory::Factory("HNSW32");
        next(segments, &vec![0; segments.len()], few_dims(), &graph, Goal::Everything, Limits::NONE)
    };
    assert_eq!(everything(&[]), None);
    assert_eq!(everything(&[segment("HNSW32", 10_000, 0)]), None);
    assert!(everything(&[segment("HNSW32", 10_000, 1)]).is_some());
    assert!(everything(&[segment("Flat", 10_000, 0)]).is_some(), "the factory that was asked for");
    let plan = everything(&[segment("HNSW32", 10_000, 1), segment("Flat", 10, 0)]).unwrap();
    assert_eq!((plan.base, plan.rows), (None, 10_009));
    let plan = everything(&[segment("HNSW32", 10_000, 0), segment("Flat", 10, 0)]).unwrap();
    assert_eq!(plan.base, Some(0));
}

#[test]
fn a_merge_that_came_to_nothing_does_not_keep_smaller_ones_from_being_done() {
    let large = || segment("SQ8", 20_000, 0);
    let small = || segment("Flat", 1000, 0);
    let segments = [large(), large(), large(), large(), small(), small(), small(), small()];
    let plan =
        |limits| next(&segments, &[0; 8], few_dims(), &RequestedFactory::Factory("SQ8"), Goal::Tiers, limits);
    let largest = plan(Limits::NONE).unwrap();
    assert_eq!(largest.sources.len(), 8);
    let limits = Limits::NONE.without(&largest, &segments, few_dims());
    let smaller = plan(limits).unwrap();
    assert_eq!(smaller.sources, [4, 5, 6, 7]);
    assert_eq!(plan(limits.without(&smaller, &segments, few_dims())), None);
}
