//! FAISS's serialised bytes that came from elsewhere, and may be anything.
//!
//! FAISS's reader makes room for whatever length it reads, divides by numbers of the file and follows links that it did
//! not check. So it sees such bytes only after this walk, which goes along the format of faiss/impl/index_read.cpp for
//! the types that a factory string of ours makes: each length is that which dimension, row count and the like demand,
//! links lead to rows that are there, lists hold each row once, and floats are finite and small enough to be squared.

use std::ops::Range;

use super::index_reader::{Body, Walk};
use crate::engine::build::Builder;
use crate::engine::shim::ffi;
use crate::engine::{EngineError, Metric};

/// Why bytes are not imported; a clause, as in [`EngineError`].
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// Not what FAISS writes, or what it wrote was damaged.
    #[error("{0}")]
    Damaged(String),
    /// An index that FAISS may well read, of a kind that is not taken.
    #[error("{0}")]
    Unsupported(String),
    /// A family that is built from rows but not taken from elsewhere: what it has that others do not.
    #[error("{0} are not imported")]
    Family(&'static str),
    #[error("computation interrupted")]
    Interrupted,
}

/// An index from elsewhere, found in order.
#[derive(Debug)]
pub struct Foreign {
    bytes: Vec<u8>,
    /// FAISS's bytes without the ids and the normalisation around it.
    body: Range<usize>,
    factory: String,
    dims: usize,
    metric: Metric,
    rows: u64,
    labels: Option<Vec<i64>>,
    stored: Stored,
}

/// Where the rows themselves are in the bytes.
#[derive(Debug)]
pub enum Stored {
    /// Nowhere: codes are lossy, or stand behind a transform.
    No,
    /// By position, from here on.
    At(usize),
    /// Each by itself, by position.
    Each(Vec<usize>),
}

impl Foreign {
    /// Understands `bytes`. `metric`: what the index is to be used for; None: what it was made for, which is cosine
    /// where it does nothing first but normalise.
    pub fn read(mut bytes: Vec<u8>, metric: Option<Metric>) -> Result<Self, ForeignError> {
        let mut walk = Walk::new(&bytes);
        let file = walk.file(metric)?;
        let patches = walk.into_patches();
        for (at, value) in patches {
            bytes[at..at + value.len()].copy_from_slice(&value);
        }
        let Body { header, stored, lists, factory } = file.body;
        let mut foreign = Foreign {
            bytes,
            body: file.range,
            factory,
            dims: header.dims,
            metric: file.metric,
            rows: header.rows as u64,
            labels: file.labels,
            stored: Stored::No,
        };
        let by_position = match lists {
            Some(lists) => Some(foreign.number_rows(&lists)?),
            None => None,
        };
        foreign.stored = match (stored, by_position) {
            (Stored::Each(_), Some(places)) => Stored::Each(places),
            (stored, _) => stored,
        };
        if let Some(labels) = &foreign.labels {
            let mut sorted = labels.clone();
            sorted.sort_unstable();
            if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(ForeignError::Damaged(format!("two of its rows have the id {}", twice[0])));
            }
        }
        Ok(foreign)
    }

    /// Makes positions of what inverted lists call their rows: where those are no positions, they are labels. Returns
    /// the places of the codes by position.
    fn number_rows(&mut self, lists: &[List]) -> Result<Vec<usize>, ForeignError> {
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
            if self.labels.is_some() || self.is_refined() {
                return Err(ForeignError::Damaged("its inverted lists do not hold each row once".into()));
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

    fn is_refined(&self) -> bool {
        self.factory.ends_with(",RFlat") || self.factory.contains(",Refine(")
    }

    /// The factory string that makes such an index.
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

    /// Bytes that are held in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The ids of its rows, by position, all different; None: it has none but the positions.
    pub fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }

    /// Whether it holds the rows themselves, and [`Foreign::exchange_row`] works.
    pub fn stores_rows(&self) -> bool {
        !matches!(self.stored, Stored::No)
    }

    /// Puts the prepared `row` in place of the one that is stored at a position, if that is the same up to rounding;
    /// false: it is another, and stays.
    pub fn exchange_row(&mut self, position: u64, row: &[f32]) -> bool {
        let at = match &self.stored {
            Stored::No => return false,
            Stored::At(start) => start + position as usize * 4 * self.dims,
            Stored::Each(places) => places[position as usize],
        };
        let bytes = &mut self.bytes[at..at + 4 * self.dims];
        let (mut error, mut length) = (0f64, 0f64);
        for (stored, &value) in bytes.chunks_exact(4).zip(row) {
            let stored = f32::from_le_bytes(stored.try_into().unwrap_or_default());
            error += (f64::from(stored) - f64::from(value)).powi(2);
            length += f64::from(value).powi(2);
        }
        // Not a number is no such thing either.
        let is_same = error <= EXACT_ERROR * length;
        if is_same {
            for (stored, value) in bytes.chunks_exact_mut(4).zip(row) {
                stored.copy_from_slice(&value.to_le_bytes());
            }
        }
        is_same
    }

    /// An index to add rows to: trained as this one is, with its rows at their positions, or without any.
    pub fn resume(&self, keep_rows: bool) -> Result<Builder, EngineError> {
        Builder::resume(&self.factory, self.dims, self.metric, &self.bytes[self.body.clone()], keep_rows)
    }

    /// Which of these prepared rows are not those at these positions of `builder`, which is this index with its rows:
    /// what is stored there must be about as near to the row as the row's own code would be. For a worker of FAISS.
    ///
    /// `Refused` where codes cannot be decoded.
    pub fn strangers(
        &self,
        builder: &Builder,
        positions: &[u64],
        rows: &[f32],
    ) -> Result<Vec<u64>, EngineError> {
        let mut again = self.resume(false)?;
        again.add(rows)?;
        let stored = decode(builder, positions)?;
        let encoded = decode(&again, &(0..positions.len() as u64).collect::<Vec<_>>())?;
        let ignores_length = self.factory.contains("L2norm");
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

/// Squared error that two roundings of a row may show, by its squared length.
const EXACT_ERROR: f64 = 1e-10;
/// The same of two encodings.
const ROUNDING_ERROR: f64 = 1e-5;
/// How much farther from a row than its own code the stored one may be: coarse quantisers that are graphs, or another
/// processor's rounding, sometimes lead to the second best.
const CODE_ERROR: f64 = 1.1;

/// An inverted list in the bytes.
#[derive(Debug)]
pub struct List {
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
