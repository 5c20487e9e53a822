//! Clusters, codes and labelled files: what the engine offers beside indexes.

use super::data::*;
use vekter_engine::{
    Builder, Clustering, ClusteringPlan, EngineError, Metric, SearchParams, check_decodable,
};

const DIMS: usize = 16;

fn nearest(row: &[f32], centroids: &[&[f32]]) -> f64 {
    let distance = |centroid: &&[f32]| {
        std::iter::zip(row, *centroid).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt()
    };
    centroids.iter().map(distance).fold(f64::INFINITY, f64::min)
}

#[test]
fn each_row_goes_to_its_nearest_centroid() {
    let _shared = CANCELLING.read();
    let rows = clustered(3_000, DIMS, 5);
    let plan = ClusteringPlan::new(12, Metric::L2, 20, 3).unwrap();
    let clustering = Clustering::find(&plan, &rows, DIMS).unwrap();
    let centroids: Vec<&[f32]> = clustering.centroids().collect();
    assert_eq!(centroids.len(), 12);
    let assigned = clustering.assign(&rows).unwrap();
    assert_eq!(assigned.len(), 3_000);
    for ((number, distance), row) in assigned.iter().zip(rows.chunks_exact(DIMS)) {
        assert!(*number < 12);
        assert!((distance - nearest(row, &centroids)).abs() < 1e-4);
    }
    assert_eq!(clustering, Clustering::find(&plan, &rows, DIMS).unwrap());
    assert_eq!(clustering.assign(&[]).unwrap(), vec![]);
}

#[test]
fn spherical_centroids_have_length_one() {
    let _shared = CANCELLING.read();
    let rows = prepared(Metric::Cosine, clustered(2_000, DIMS, 6), DIMS);
    let plan = ClusteringPlan::new(7, Metric::Cosine, 20, 0).unwrap();
    let clustering = Clustering::find(&plan, &rows, DIMS).unwrap();
    for centroid in clustering.centroids() {
        let length = centroid.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() < 1e-4, "{length}");
    }
    assert!(clustering.assign(&rows).unwrap().iter().all(|(_, distance)| (0.0..=2.0).contains(distance)));
}

#[test]
fn what_cannot_be_clustered_is_refused() {
    let _shared = CANCELLING.read();
    assert!(ClusteringPlan::new(0, Metric::L2, 20, 0).is_err());
    assert!(ClusteringPlan::new(1 << 21, Metric::L2, 20, 0).is_err());
    assert!(ClusteringPlan::new(5, Metric::L2, 0, 0).is_err());
    assert!(ClusteringPlan::new(5, Metric::InnerProduct, 20, 0).is_err());
    assert!(ClusteringPlan::new(5, Metric::L2, 20, u32::MAX).is_err());
    let plan = ClusteringPlan::new(5, Metric::L2, 20, 0).unwrap();
    let few = Clustering::find(&plan, &clustered(4, DIMS, 1), DIMS);
    assert!(matches!(few, Err(EngineError::UntrainableSample { .. })));
    for odd in [f32::NAN, f32::INFINITY, 1e30] {
        let mut rows = clustered(100, DIMS, 1);
        rows[17] = odd;
        assert!(
            matches!(Clustering::find(&plan, &rows, DIMS), Err(EngineError::BadParameter { .. })),
            "{odd}"
        );
    }
    assert!(Clustering::find(&plan, &[0.0; 17], DIMS).is_err());
}

#[test]
fn a_code_stands_for_the_row_that_the_index_would_give_back() {
    let _shared = CANCELLING.read();
    let rows = clustered(3_000, DIMS, 7);
    for factory in
        ["Flat", "HNSW16", "SQ8", "PQ4", "PQ4x4fs", "IVF16,PQ4x4fs", "IVF16,SQ4", "OPQ4,PQ4", "PQ4,RFlat"]
    {
        let built = build(factory, Metric::L2, &rows, DIMS).unwrap();
        let serial = serialised(&built);
        let index = open(&serial, Metric::L2).unwrap();
        for position in [0usize, 1_234, 2_999] {
            let row = &rows[position * DIMS..][..DIMS];
            let empty = Builder::resume(factory, DIMS, Metric::L2, &serial, false).unwrap();
            let encoded = empty.encode(row).unwrap();
            let mut stored = Vec::new();
            index.rows_at(&[position as u64], &mut stored).unwrap();
            assert!(std::iter::zip(&encoded.row, &stored).all(|(x, y)| (x - y).abs() < 1e-4), "{factory}");
            assert!(!encoded.code.is_empty(), "{factory}");
        }
    }
    assert!(check_decodable("LSH", DIMS).is_err());
    assert!(check_decodable("LSH,RFlat", DIMS).is_ok());
}

#[test]
fn a_labelled_index_is_the_index_with_its_labels_behind_it() {
    let _shared = CANCELLING.read();
    let rows = clustered(500, DIMS, 8);
    for (metric, wrapped) in [(Metric::L2, false), (Metric::Cosine, true)] {
        let rows = prepared(metric, rows.clone(), DIMS);
        let mut built = build("Flat", metric, &rows, DIMS).unwrap();
        let labels: Vec<i64> = (0..500).map(|row| 7 * row - 1_000).collect();
        let mut bytes = Vec::new();
        built.write_labelled(&labels, &SearchParams::default(), &mut bytes).unwrap();
        assert_eq!(&bytes[..4], b"IxM2");
        assert_eq!(bytes.windows(4).any(|letters| letters == b"VNrm"), wrapped);
        let plain = serialised(&built);
        assert!(bytes.windows(plain.len()).any(|part| part == plain));
        let tail: Vec<u8> = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        assert!(bytes.ends_with(&tail));
        let few = built.write_labelled(&labels[1..], &SearchParams::default(), &mut Vec::new());
        assert!(matches!(few, Err(EngineError::BadParameter { .. })));
    }
}
