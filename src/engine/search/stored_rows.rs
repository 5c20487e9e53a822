//! Reading the rows of an opened index back, to build another index of them.

use super::open_index::{OpenIndex, with_room, zeros};
use crate::shim::ffi;
use crate::{EngineError, Metric, is_interrupted};

/// The most values in a batch: larger ones only take memory.
const MAX_BATCH_VALUES: usize = 4 << 20;

impl OpenIndex {
    /// Whether [`OpenIndex::all_rows`] and [`OpenIndex::rows_at`] return the added rows bit by bit: they are stored as
    /// floats, if only for refinement, without a transform; or they were halves and are stored as such. Cosine divides
    /// rows by their lengths, which makes other values of them.
    pub fn stores_rows(&self) -> bool {
        let are_halves = self.is_of_halves() && self.metric() != Metric::Cosine;
        self.about().stores_rows != 0 || (are_halves && self.about().stores_halves != 0)
    }

    /// Whether rows can be read back at all. A transform that cannot be undone (whitening, ITQ) prevents it, unless
    /// rows are stored for refinement too. `L2norm` loses the length, `LSH` all but the signs. Takes d^2 steps for each
    /// matrix.
    pub fn can_decode(&self) -> bool {
        let mut can = 0;
        // SAFETY: the handle is a live index, and the result is a local.
        let code = unsafe { ffi::vekter_index_can_decode(self.handle().as_ptr(), &mut can) };
        code == ffi::OK && can != 0
    }

    /// Passes positions and rows (row-major, d values each, in the prepared form that was added) to `visit`, at most
    /// `batch_rows` rows at a time, each row once, in the order in which they are stored: by inverted lists, or by
    /// position. Unless [`OpenIndex::stores_rows`], rows are decoded. `visit` returns whether to continue. Polls the
    /// interrupt flag between batches.
    ///
    /// Errors: `Refused` unless [`OpenIndex::can_decode`], `Corrupt` where positions are missing or repeated,
    /// `OutOfMemory`.
    pub fn all_rows(
        &self,
        batch_rows: usize,
        visit: &mut dyn FnMut(&[u64], &[f32]) -> bool,
    ) -> Result<(), EngineError> {
        self.check_decodes()?;
        let dims = self.dims();
        let limit = batch_rows.min(MAX_BATCH_VALUES / dims).min(self.index_rows()).max(1);
        let (mut positions, mut values) = (zeros::<i64>(limit)?, zeros::<f32>(limit * dims)?);
        let mut seen = Seen::new(self.index_rows())?;
        let mut batch = with_room(limit)?;
        let mut cursor = ffi::RowCursor::default();
        loop {
            if is_interrupted() {
                return Err(EngineError::Interrupted);
            }
            let mut found = 0;
            // SAFETY: the handle is a live index, and the arrays have room for `limit` positions and rows.
            let code = unsafe {
                ffi::vekter_index_next_rows(
                    self.handle().as_ptr(),
                    &mut cursor,
                    limit,
                    positions.as_mut_ptr(),
                    values.as_mut_ptr(),
                    &mut found,
                )
            };
            EngineError::from_code(code, |reason| EngineError::Failed { reason })?;
            if found == 0 {
                return seen.check_complete();
            }
            batch.clear();
            for &position in positions.iter().take(found) {
                batch.push(seen.add(position)?);
            }
            if !visit(&batch, &values[..batch.len() * dims]) {
                return Ok(());
            }
        }
    }

    /// Appends the rows at `positions` to `out`, as [`OpenIndex::all_rows`] returns them. Inverted lists are not
    /// ordered by position, so there (unless refined) each call reads the ids of all rows: ask for many at once.
    ///
    /// Errors: `BadParameter` for a position that does not exist, else as in [`OpenIndex::all_rows`]; `out` is then
    /// unchanged.
    pub fn rows_at(&self, positions: &[u64], out: &mut Vec<f32>) -> Result<(), EngineError> {
        self.check_decodes()?;
        if let Some(position) = positions.iter().find(|&&position| position >= self.rows()) {
            return Err(EngineError::bad_parameter(format!(
                "there is no row at position {position} of {} rows",
                self.rows()
            )));
        }
        // Smaller than the number of rows, which is an i64.
        let native: Vec<i64> = positions.iter().map(|&position| position as i64).collect();
        let start = out.len();
        out.resize(start + positions.len() * self.dims(), 0.0);
        // SAFETY: the handle is a live index, the positions exist in it, and there is room for a row for each.
        let code = unsafe {
            ffi::vekter_index_rows_at(
                self.handle().as_ptr(),
                native.len(),
                native.as_ptr(),
                out[start..].as_mut_ptr(),
            )
        };
        let outcome = EngineError::from_code(code, |reason| EngineError::Failed { reason });
        if outcome.is_err() {
            out.truncate(start);
        }
        outcome
    }

    /// The operator's distances, up to rounding, of a prepared query (d values) to the rows at `positions`, which
    /// ascend. None where the index does not store its rows as floats, not even for refinement. Inverted lists are not
    /// ordered by position, so there each call reads the ids of all rows: ask for many at once. Polls the interrupt
    /// flag.
    ///
    /// Errors: `BadParameter` for positions that do not ascend or exist, or a query of other dimensions, `OutOfMemory`,
    /// `Interrupted`.
    pub fn distances_at(&self, query: &[f32], positions: &[u64]) -> Result<Option<Vec<f32>>, EngineError> {
        let ascend = positions.is_sorted_by(|a, b| a < b);
        if query.len() != self.dims() || !ascend || positions.last().is_some_and(|&last| last >= self.rows())
        {
            return Err(EngineError::bad_parameter(
                "rows do not ascend or do not exist, or the query has other dimensions",
            ));
        }
        let mut distances: Vec<f32> = Vec::new();
        distances.try_reserve_exact(positions.len()).map_err(|_| EngineError::OutOfMemory)?;
        distances.resize(positions.len(), 0.0);
        let mut can = 0;
        // SAFETY: the handle is a live index, the query has its dimension, the positions exist in it (so they are
        // numbers of an i64 too) and ascend, and there is room for a distance for each.
        let code = unsafe {
            ffi::vekter_index_distances_at(
                self.handle().as_ptr(),
                query.as_ptr(),
                positions.len(),
                positions.as_ptr().cast::<i64>(),
                distances.as_mut_ptr(),
                &mut can,
            )
        };
        EngineError::from_code(code, |reason| EngineError::Failed { reason })?;
        if can == 0 {
            return Ok(None);
        }
        let (metric, stored_as) = (self.metric(), self.about().metric);
        for distance in &mut distances {
            *distance = metric.operator_distance(stored_as, *distance);
        }
        Ok(Some(distances))
    }

    /// The imbalance of the inverted lists (FAISS's `imbalance_factor`): the rows that a query with nprobe = 1 scans on
    /// average, if rows and queries are distributed alike, divided by the same for lists of equal length. 1 is perfect.
    /// None where there are no lists, or no rows in them.
    pub fn imbalance(&self) -> Option<f32> {
        let mut factor = 0.0;
        // SAFETY: the handle is a live index, and the result is a local.
        let code = unsafe { ffi::vekter_index_imbalance(self.handle().as_ptr(), &mut factor) };
        (code == ffi::OK && factor > 0.0).then_some(factor as f32)
    }

    fn index_rows(&self) -> usize {
        usize::try_from(self.rows()).unwrap_or(0)
    }

    fn check_decodes(&self) -> Result<(), EngineError> {
        if self.can_decode() {
            return Ok(());
        }
        Err(EngineError::refused(
            "a transform before the index cannot be undone, so its rows cannot be read back",
        ))
    }
}

/// Positions that were returned so far: FAISS's labels are read from bytes and need checking.
struct Seen {
    bitmap: Vec<u64>,
    rows: usize,
    count: usize,
}

impl Seen {
    fn new(rows: usize) -> Result<Self, EngineError> {
        Ok(Self { bitmap: zeros(rows.div_ceil(64))?, rows, count: 0 })
    }

    fn add(&mut self, position: i64) -> Result<u64, EngineError> {
        let corrupt = |what: &str| EngineError::Corrupt { reason: format!("a row {what}") };
        let row = usize::try_from(position).ok().filter(|&row| row < self.rows);
        let row = row.ok_or_else(|| corrupt("has a position that does not exist"))?;
        let (word, bit) = (&mut self.bitmap[row / 64], 1 << (row % 64));
        if *word & bit != 0 {
            return Err(corrupt("is stored twice"));
        }
        *word |= bit;
        self.count += 1;
        Ok(row as u64)
    }

    fn check_complete(&self) -> Result<(), EngineError> {
        if self.count == self.rows {
            return Ok(());
        }
        Err(EngineError::Corrupt {
            reason: format!("{} of {} rows are missing", self.rows - self.count, self.rows),
        })
    }
}
