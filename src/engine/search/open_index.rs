//! An immutable index over bytes in memory, usually a mapped file.

use super::SearchParams;
use crate::build::norm;
use crate::shim::ffi::{self, Description, Handle};
use crate::{EngineError, Metric};
use std::ops::Range;
use std::sync::Arc;

/// The longest query, by norm, for any index but a scan of plain floats: see `Recipe::max_norm`.
const MAX_QUERY_NORM: f64 = 1e12;

/// Bytes that neither move nor change while this lives.
pub trait MappedBytes: Send + Sync {
    /// The same slice at every call.
    fn bytes(&self) -> &[u8];
}

impl MappedBytes for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A row that a search found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Position of the row, in the order of adding.
    pub position: u64,
    /// The operator's distance where [`OpenIndex::ranks_exactly`], else the codec's estimate of it; for `LSH` a number
    /// that grows with the differing bits. Smaller is always nearer.
    pub distance: f32,
}

/// An index that can be searched but not changed. Private memory holds its models (centroids, matrices, tables up to 2
/// MiB), 16 to 32 bytes for each inverted list and 12 for each row of a graph; fast-scan and RaBitQ codes without lists
/// are copied too, since FAISS needs them aligned or owned. Everything else is read where it lies.
pub struct OpenIndex {
    // Before `bytes`, since fields are dropped in order and the index points into them.
    index: Handle,
    metric: Metric,
    about: Description,
    /// Whether every added value was an IEEE half.
    of_halves: bool,
    _bytes: Arc<dyn MappedBytes>,
}

impl std::fmt::Debug for OpenIndex {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("OpenIndex").field("metric", &self.metric).field("about", &self.about).finish()
    }
}

impl OpenIndex {
    /// Opens what [`crate::Builder::write`] wrote, at `range` of `bytes`, without copying its large arrays. The
    /// caller has verified the bytes' checksum; `Corrupt` means that they are not an index of this metric, or that its
    /// parts do not fit together.
    pub fn open(
        bytes: Arc<dyn MappedBytes>,
        range: Range<usize>,
        metric: Metric,
    ) -> Result<Self, EngineError> {
        let corrupt = |reason: String| EngineError::Corrupt { reason };
        let Some(serial) = bytes.bytes().get(range) else {
            return Err(corrupt("the index reaches beyond the end of its bytes".into()));
        };
        // SAFETY: the slice is readable and stays in place as long as the Arc, which outlives the index (field order
        // of OpenIndex); FAISS only reads from it, since an opened index is never mutated.
        let made = Handle::from_shim(|index| unsafe {
            ffi::vekter_index_open(serial.as_ptr(), serial.len(), index)
        });
        let index = match made {
            Ok(index) => index,
            Err(code) => {
                EngineError::from_code(code, corrupt)?;
                return Err(corrupt("no index was read".into()));
            }
        };
        let about = index.describe();
        if !metric.accepts(about.metric) {
            return Err(corrupt(format!("the index was not built for the metric {}", metric.name())));
        }
        Ok(Self { index, metric, about, of_halves: false, _bytes: bytes })
    }

    /// The same index, of which the caller knows that every value that was added to it was an IEEE half if `halves`:
    /// codes of halves are then the rows themselves.
    #[must_use]
    pub fn of_halves(self, halves: bool) -> Self {
        Self { of_halves: halves, ..self }
    }

    pub(super) fn is_of_halves(&self) -> bool {
        self.of_halves
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.index
    }

    pub(crate) fn about(&self) -> &Description {
        &self.about
    }

    pub fn rows(&self) -> u64 {
        u64::try_from(self.about.rows).unwrap_or(0)
    }

    pub fn dims(&self) -> usize {
        usize::try_from(self.about.dims).unwrap_or(0)
    }

    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Inverted lists; 0 where the index has none.
    pub fn lists(&self) -> usize {
        usize::try_from(self.about.lists).unwrap_or(0)
    }

    /// Whether a search returns the operator's distances, up to rounding: the added rows are stored without loss and
    /// without a transform. Otherwise the caller ranks the hits again by the rows themselves.
    pub fn ranks_exactly(&self) -> bool {
        self.stores_rows()
    }

    /// Whether a search with k = rows finds every row, whatever the parameters: each query is compared with all rows.
    pub fn is_exhaustive(&self) -> bool {
        self.about.scans_all != 0
    }

    /// The widest useful parameters: wider ones find nothing more.
    pub fn max_useful(&self) -> SearchParams {
        let rows = self.rows().max(1);
        SearchParams {
            nprobe: Some(self.lists().max(1)),
            ef_search: Some(usize::try_from(rows).unwrap_or(usize::MAX)),
            k_factor: Some(rows as f32),
            ..SearchParams::default()
        }
    }

    /// The next wider parameters for this index: see [`SearchParams::widened`].
    #[must_use]
    pub fn widen(&self, params: &SearchParams) -> SearchParams {
        params.widened(self.lists(), usize::try_from(self.rows()).unwrap_or(usize::MAX))
    }

    /// The nearest rows of a prepared query (d values), at most k, nearest first, each once, on this thread. `dead` is
    /// a bitmap by position, least significant bit first, 1 = dead (rows beyond its end are alive); dead rows are never
    /// found.
    pub fn search(
        &self,
        query: &[f32],
        k: usize,
        params: &SearchParams,
        dead: Option<&[u8]>,
    ) -> Result<Vec<Hit>, EngineError> {
        search(&self.index, self.metric, query, k, params, dead)
    }
}

pub(crate) fn search(
    index: &Handle,
    metric: Metric,
    query: &[f32],
    k: usize,
    params: &SearchParams,
    dead: Option<&[u8]>,
) -> Result<Vec<Hit>, EngineError> {
    search_with(index, query, k, params, dead, false, &|stored, distance| {
        metric.operator_distance(stored, distance)
    })
}

/// The nearest rows by their codes, without refinement; distances are FAISS's.
pub(crate) fn search_raw(
    index: &Handle,
    query: &[f32],
    k: usize,
    params: &SearchParams,
    dead: Option<&[u8]>,
) -> Result<Vec<Hit>, EngineError> {
    search_with(index, query, k, params, dead, true, &|_, distance| distance)
}

/// `distance_of` turns FAISS's metric and distance value into a hit's distance.
fn search_with(
    index: &Handle,
    query: &[f32],
    k: usize,
    params: &SearchParams,
    dead: Option<&[u8]>,
    is_raw: bool,
    distance_of: &dyn Fn(i32, f32) -> f32,
) -> Result<Vec<Hit>, EngineError> {
    let about = index.describe();
    check_query(&about, query)?;
    let rows = usize::try_from(about.rows).unwrap_or(0);
    let k = k.min(rows);
    if k == 0 {
        return Ok(Vec::new());
    }
    let native = ffi_params(params, &about, dead.unwrap_or_default(), rows)?;
    let k_factor = if is_raw { 1.0 } else { native.k_factor };
    let params = ffi::RawSearchParams { unrefined: i32::from(is_raw), k_factor, ..native };
    // May be as large as the index.
    let (mut distances, mut positions, mut found) = (zeros::<f32>(k)?, zeros::<i64>(k)?, 0i64);
    // SAFETY: the handle is a live index, the query has its dimension, both arrays have k elements, and `dead`
    // outlives the call.
    let code = unsafe {
        ffi::vekter_index_search(
            index.as_ptr(),
            query.as_ptr(),
            k as i64,
            &params,
            distances.as_mut_ptr(),
            positions.as_mut_ptr(),
            &mut found,
        )
    };
    EngineError::from_code(code, |reason| EngineError::Failed { reason })?;
    checked_hits(&about, &positions, &distances, found, distance_of)
}

/// Err if the query does not fit the index, or would overflow in it.
pub(super) fn check_query(about: &Description, query: &[f32]) -> Result<(), EngineError> {
    if usize::try_from(about.dims).ok() != Some(query.len()) {
        return Err(EngineError::bad_parameter(format!(
            "the query has {} dimensions, and the index {}",
            query.len(),
            about.dims
        )));
    }
    if !query.iter().all(|value| value.is_finite()) {
        return Err(EngineError::bad_parameter("the query holds values that are not finite"));
    }
    let scans_floats = about.scans_all != 0 && about.stores_rows != 0 && about.refines == 0;
    if !scans_floats && norm(query) > MAX_QUERY_NORM {
        return Err(EngineError::bad_parameter(format!(
            "the query is longer than {MAX_QUERY_NORM:e}, which overflows in this index type"
        )));
    }
    Ok(())
}

/// The first `found` of FAISS's answers. `distance_of` turns FAISS's metric and distance value into a hit's distance.
pub(super) fn checked_hits(
    about: &Description,
    positions: &[i64],
    distances: &[f32],
    found: i64,
    distance_of: &dyn Fn(i32, f32) -> f32,
) -> Result<Vec<Hit>, EngineError> {
    let found = usize::try_from(found).unwrap_or(0).min(positions.len());
    let mut hits: Vec<Hit> = with_room(found)?;
    hits.extend(std::iter::zip(&positions[..found], distances).filter_map(|(&position, &distance)| {
        let position = u64::try_from(position).ok().filter(|&position| (position as i64) < about.rows)?;
        Some(Hit { position, distance: distance_of(about.metric, distance) })
    }));
    drop_repeated(&mut hits)?;
    Ok(hits)
}

pub(crate) fn zeros<T: Clone + Default>(count: usize) -> Result<Vec<T>, EngineError> {
    let mut values = with_room(count)?;
    values.resize(count, T::default());
    Ok(values)
}

/// An empty vector with room for `count` elements, or an error where `Vec::with_capacity` would end the process.
pub(super) fn with_room<T>(count: usize) -> Result<Vec<T>, EngineError> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| EngineError::OutOfMemory)?;
    Ok(values)
}

pub(super) fn ffi_params(
    params: &SearchParams,
    about: &Description,
    dead: &[u8],
    rows: usize,
) -> Result<ffi::RawSearchParams, EngineError> {
    let lists = usize::try_from(about.lists).unwrap_or(0);
    let nprobe = params.nprobe.unwrap_or_else(|| SearchParams::default_nprobe(lists));
    let ef_search = params.ef_search.unwrap_or(SearchParams::DEFAULT_EF_SEARCH);
    let k_factor = params.k_factor.unwrap_or(SearchParams::DEFAULT_K_FACTOR);
    if params.query_bits.is_some_and(|bits| bits > 8) {
        return Err(EngineError::bad_parameter("qb must be at most 8"));
    }
    if nprobe == 0 || ef_search == 0 || !(k_factor.is_finite() && k_factor >= 1.0) {
        return Err(EngineError::bad_parameter("nprobe, ef_search and k_factor must be at least 1"));
    }
    // Bits beyond the last row are ignored.
    let dead = &dead[..dead.len().min(rows.div_ceil(8))];
    let dead_rows: u32 = dead.iter().map(|byte| byte.count_ones()).sum();
    Ok(ffi::RawSearchParams {
        nprobe: i64::try_from(nprobe).unwrap_or(i64::MAX),
        ef_search: i64::try_from(ef_search.min(rows)).unwrap_or(i64::MAX),
        k_factor,
        quantizer_ef_search: ffi_size(params.quantizer_ef_search),
        max_codes: ffi_size(params.max_codes),
        hamming_threshold: params.hamming_threshold.map_or(0, |bits| i32::try_from(bits).unwrap_or(i32::MAX)),
        query_bits: i32::from(params.query_bits.unwrap_or(SearchParams::DEFAULT_QUERY_BITS)),
        unrefined: 0,
        dead: dead.as_ptr(),
        dead_bytes: dead.len(),
        dead_rows: i64::from(dead_rows),
    })
}

fn ffi_size(value: Option<usize>) -> i64 {
    value.map_or(0, |value| i64::try_from(value).unwrap_or(i64::MAX))
}

/// Keeps the nearest hit of each position. No FAISS index repeats a position, but damaged bytes could.
fn drop_repeated(hits: &mut Vec<Hit>) -> Result<(), EngineError> {
    let mut positions: Vec<u64> = with_room(hits.len())?;
    positions.extend(hits.iter().map(|hit| hit.position));
    positions.sort_unstable();
    if positions.windows(2).all(|pair| pair[0] != pair[1]) {
        return Ok(());
    }
    let mut seen = std::collections::HashSet::new();
    seen.try_reserve(hits.len()).map_err(|_| EngineError::OutOfMemory)?;
    hits.retain(|hit| seen.insert(hit.position));
    Ok(())
}
