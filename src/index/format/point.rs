//! Operating points of a segment, as the manifest stores them.

use serde::{Deserialize, Serialize};

use crate::engine::{OperatingPoint, SearchParams};

/// An operating point (`engine::OperatingPoint`) in integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointRef {
    /// 0 in this field and the next two: not set.
    pub nprobe: u32,
    pub ef_search: u32,
    pub k_factor_hundredths: u32,
    pub recall_millionths: u32,
    pub cost_ns: u32,
}

impl From<&OperatingPoint> for PointRef {
    fn from(point: &OperatingPoint) -> Self {
        let whole = |value: Option<usize>| u32::try_from(value.unwrap_or(0)).unwrap_or(u32::MAX);
        PointRef {
            nprobe: whole(point.params.nprobe),
            ef_search: whole(point.params.ef_search),
            k_factor_hundredths: (point.params.k_factor.unwrap_or(0.0) * 100.0).round() as u32,
            recall_millionths: (point.recall.clamp(0.0, 1.0) * 1e6) as u32,
            cost_ns: (point.cost_us * 1e3) as u32,
        }
    }
}

impl From<&PointRef> for OperatingPoint {
    fn from(point: &PointRef) -> Self {
        let given = |value: u32| (value > 0).then_some(value as usize);
        OperatingPoint {
            params: SearchParams {
                nprobe: given(point.nprobe),
                ef_search: given(point.ef_search),
                k_factor: given(point.k_factor_hundredths).map(|hundredths| hundredths as f32 / 100.0),
                ..SearchParams::default()
            },
            recall: f64::from(point.recall_millionths) / 1e6,
            cost_us: f64::from(point.cost_ns) / 1e3,
        }
    }
}
