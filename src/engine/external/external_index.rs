//! An index in FAISS's format from an untrusted source.
//!
//! FAISS's reader allocates any length that it reads, divides by numbers of the file and follows unchecked links. So
//! bytes are checked first, along the format of faiss/impl/index_read.cpp, for the index types of the engine's factory
//! strings: lengths match dimension and row count, links lead to existing rows, lists hold each row once, and floats
//! are finite and small enough to be squared.

use std::ops::Range;

use super::index_reader::{IndexReader, ParsedIndex};
use crate::build::Builder;
use crate::factory::{self, Recipe};
use crate::shim::ffi;
use crate::{EngineError, Metric};

/// Why bytes are not imported; clauses, as in [`EngineError`].
#[derive(Debug, thiserror::Error)]
pub enum ExternalIndexError {
    /// Not in FAISS's format, or damaged.
    #[error("{0}")]
    Damaged(String),
    /// An index that FAISS can read, of a kind that is not imported.
    #[error("{0}")]
    Unsupported(String),
    /// A family that is built from rows but not imported, described by its codes or transforms.
    #[error("{0} are not imported")]
    Family(&'static str),
    #[error("computation interrupted")]
    Interrupted,
}

/// An index from elsewhere that passed all checks.
#[derive(Debug)]
pub struct ExternalIndex {
    bytes: Vec<u8>,
    /// The range of the index itself, without ids and normalisation around it.
    body: Range<usize>,
    factory: String,
    dims: usize,
    metric: Metric,
    rows: u64,
    labels: Option<Vec<i64>>,
    stored: StoredRows,
    /// Of `replace_row`, relative to a row's squared length.
    tolerance: f64,
}

/// Where the rows are stored as floats in the bytes.
#[derive(Debug)]
pub enum StoredRows {
    /// Nowhere: codes are lossy, or follow a transform.
    No,
    /// From this offset on, by position.
    At(usize),
    /// The offset of each row, by position.
    Each(Vec<usize>),
}

impl ExternalIndex {
    /// Checks `bytes`. `metric`: the metric to use the index for; None: the one that it was made for, which is cosine
    /// where it only normalises first.
    pub fn read(mut bytes: Vec<u8>, metric: Option<Metric>) -> Result<Self, ExternalIndexError> {
        let mut reader = IndexReader::new(&bytes);
        let file = reader.file(metric)?;
        let patches = reader.into_patches();
        for (at, value) in patches {
            bytes[at..at + value.len()].copy_from_slice(&value);
        }
        let ParsedIndex { header, stored, lists, factory } = file.body;
        let mut external = ExternalIndex {
            bytes,
            body: file.range,
            factory,
            dims: header.dims,
            metric: file.metric,
            rows: header.rows as u64,
            labels: file.labels,
            stored: StoredRows::No,
            tolerance: EXACT_ERROR,
        };
        let by_position = match lists {
            Some(lists) => Some(external.number_rows(&lists)?),
            None => None,
        };
        external.stored = match (stored, by_position) {
            (StoredRows::Each(_), Some(places)) => StoredRows::Each(places),
            (stored, _) => stored,
        };
        if let Some(labels) = &external.labels {
            let mut sorted = labels.clone();
            sorted.sort_unstable();
            if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(ExternalIndexError::Damaged(format!("two of its rows have the id {}", twice[0])));
            }
        }
        Ok(external)
    }

    /// Turns the ids in inverted lists into positions; ids that are no positions become labels. Returns the offsets of
    /// the codes by position.
    fn number_rows(&mut self, lists: &[StoredList]) -> Result<Vec<usize>, ExternalIndexError> {
        let rows = self.rows as usize;
        let mut ids = Vec::with_capacity(rows);
        for list in lists {
            let bytes = &self.bytes[list.ids_at..list.ids_at + 8 * list.rows];
            ids.extend(bytes.chunks_exact(8).map(|id| i64::from_le_bytes(id.try_into().unwrap_or_default())));
        }
        let mut seen = vec![false; rows];
        let are_positions = ids.iter().all(|&id| {
            let position = usize::try_from(id).ok().filter(|&position| position < rows);
            position.is_some_and(|position| !std::mem::replace(&mut seen[position], true))
        });
        if !are_positions {
            let is_refined = self.recipe().is_some_and(|recipe| recipe.refine.is_some());
            if self.labels.is_some() || is_refined {
                return Err(ExternalIndexError::Damaged(
                    "its inverted lists do not hold each row once".into(),
                ));
            }
            let places = lists.iter().flat_map(|list| (0..list.rows).map(|row| list.ids_at + 8 * row));
            for (position, at) in places.enumerate() {
                self.bytes[at..at + 8].copy_from_slice(&(position as u64).to_le_bytes());
            }
        }
        let mut places = vec![0; rows];
        let codes =
            lists.iter().flat_map(|list| (0..list.rows).map(|row| list.codes_at + list.code_bytes * row));
        for (order, (at, &id)) in codes.zip(&ids).enumerate() {
            places[if are_positions { id as usize } else { order }] = at;
        }
        if !are_positions {
            self.labels = Some(ids);
        }
        Ok(places)
    }

    /// None if the engine does not build such an index, so that [`ExternalIndex::resume`] is going to fail.
    fn recipe(&self) -> Option<Recipe> {
        factory::parse(&self.factory, self.dims).ok()
    }

    /// The factory string of such an index.
    pub fn factory(&self) -> &str {
        &self.factory
    }

    pub fn dims(&self) -> usize {
        self.dims
    }

    pub fn metric(&self) -> Metric {
        self.metric
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The ids of its rows by position, all different; None if they are the positions.
    pub fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }

    /// Whether it stores the rows as floats, so that [`ExternalIndex::replace_row`] works.
    pub fn stores_rows(&self) -> bool {
        !matches!(self.stored, StoredRows::No)
    }

    /// The rows to compare were rounded to IEEE's halves, and those of the file perhaps not.
    pub fn expect_halves(&mut self) {
        self.tolerance = HALF_ERROR;
    }

    /// Replaces the stored row at a position by the prepared `row` if both are equal up to rounding. Returns whether
    /// they are.
    pub fn replace_row(&mut self, position: u64, row: &[f32]) -> bool {
        let at = match &self.stored {
            StoredRows::No => return false,
            StoredRows::At(start) => start + position as usize * 4 * self.dims,
            StoredRows::Each(places) => places[position as usize],
        };
        let bytes = &mut self.bytes[at..at + 4 * self.dims];
        let (mut error, mut length) = (0f64, 0f64);
        for (stored, &value) in bytes.chunks_exact(4).zip(row) {
            let stored = f32::from_le_bytes(stored.try_into().unwrap_or_default());
            error += (f64::from(stored) - f64::from(value)).powi(2);
            length += f64::from(value).powi(2);
        }
        // False for NaN too.
        let is_same = error <= self.tolerance * length;
        if is_same {
            for (stored, value) in bytes.chunks_exact_mut(4).zip(row) {
                stored.copy_from_slice(&value.to_le_bytes());
            }
        }
        is_same
    }

    /// A builder that continues this index, trained as it is, with its rows at their positions or without rows.
    pub fn resume(&self, keep_rows: bool) -> Result<Builder, EngineError> {
        Builder::resume(&self.factory, self.dims, self.metric, &self.bytes[self.body.clone()], keep_rows)
    }

    /// The positions at which `builder`, which is this index with its rows, stores another row than the one in `rows`
    /// (prepared, one for each position): the decoded row must be about as near to it as the decoding of its own code.
    /// Runs on a worker.
    ///
    /// `Refused` where codes cannot be decoded.
    pub fn differing_rows(
        &self,
        builder: &Builder,
        positions: &[u64],
        rows: &[f32],
    ) -> Result<Vec<u64>, EngineError> {
        let mut again = self.resume(false)?;
        again.add(rows)?;
        let stored = decode(builder, positions)?;
        let encoded = decode(&again, &(0..positions.len() as u64).collect::<Vec<_>>())?;
        let ignores_length = self.recipe().is_some_and(|recipe| recipe.normalises());
        let error = |row: &[f32], decoded: &[f32]| -> (f64, f64) {
            let square = |values: &[f32]| values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
            let scale = match ignores_length {
                true => (square(row) / square(decoded).max(f64::MIN_POSITIVE)).sqrt(),
                false => 1.0,
            };
            let off = row.iter().zip(decoded).map(|(&a, &b)| (f64::from(a) - scale * f64::from(b)).powi(2));
            (off.sum(), square(row))
        };
        let each = rows.chunks_exact(self.dims);
        let each = each.zip(stored.chunks_exact(self.dims)).zip(encoded.chunks_exact(self.dims));
        let strangers = each.zip(positions).filter_map(|(((row, stored), encoded), &position)| {
            let ((found, length), (expected, _)) = (error(row, stored), error(row, encoded));
            let is_same = found <= CODE_ERROR * expected + ROUNDING_ERROR * length;
            (!is_same).then_some(position)
        });
        Ok(strangers.collect())
    }
}

/// Tolerated squared error between two roundings of a row, relative to its squared length.
const EXACT_ERROR: f64 = 1e-10;
/// The same if one of them is of halves: 11 bits, rounded.
const HALF_ERROR: f64 = 1.0 / (1 << 22) as f64;
/// The same between two encodings.
const ROUNDING_ERROR: f64 = 1e-5;
/// Tolerated squared error of the stored code, relative to that of the row's own code: coarse quantisers that are
/// graphs, and other processors' rounding, sometimes choose the second best list.
const CODE_ERROR: f64 = 1.1;

/// Where an inverted list lies in the bytes.
#[derive(Debug)]
pub struct StoredList {
    pub codes_at: usize,
    pub code_bytes: usize,
    pub ids_at: usize,
    pub rows: usize,
}

fn decode(builder: &Builder, positions: &[u64]) -> Result<Vec<f32>, EngineError> {
    let index = builder.handle().as_ptr();
    let mut can = 0;
    // SAFETY: the handle is a live index, and the result is a local.
    let code = unsafe { ffi::vekter_index_can_decode(index, &mut can) };
    if code != ffi::OK || can == 0 {
        return Err(EngineError::refused(
            "a transform before the index cannot be undone, so its rows cannot be compared with the table's",
        ));
    }
    if positions.iter().any(|&position| position >= builder.rows()) {
        return Err(EngineError::bad_parameter("there is no such row"));
    }
    let native: Vec<i64> = positions.iter().map(|&position| position as i64).collect();
    let mut values = vec![0f32; positions.len() * builder.dims()];
    // SAFETY: the handle is a live index, the positions exist in it, and there is room for a row for each.
    let code =
        unsafe { ffi::vekter_index_rows_at(index, native.len(), native.as_ptr(), values.as_mut_ptr()) };
    EngineError::from_code(code, |reason| EngineError::Failed { reason })?;
    Ok(values)
}
