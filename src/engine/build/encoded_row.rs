//! The code of a single row, and the row that it decodes to.

use super::Builder;
use crate::EngineError;
use crate::factory::{self, Codec, Recipe};
use crate::shim::ffi;

/// One row, encoded by an index.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedRow {
    /// The stored bytes, without the number of the inverted list; where the index refines, first the code that is
    /// searched and then the finer one.
    pub code: Vec<u8>,
    /// The row that the code decodes to.
    pub row: Vec<f32>,
}

/// Err if an index of this factory string stores only signs, which do not decode to a row.
pub fn check_decodable(factory: &str, dims: usize) -> Result<(), EngineError> {
    keeps_values(&factory::parse(factory, dims)?)
}

fn keeps_values(recipe: &Recipe) -> Result<(), EngineError> {
    if matches!(recipe.codec, Codec::Signs { .. }) && recipe.refine.is_none() {
        return Err(EngineError::refused("LSH keeps only signs, from which no vector can be decoded"));
    }
    Ok(())
}

impl Builder {
    /// Encodes a prepared row, which the index accepts, with this trained index without rows. `Refused` where codes
    /// cannot be decoded (see [`crate::OpenIndex::can_decode`]).
    pub fn encode(mut self, row: &[f32]) -> Result<EncodedRow, EngineError> {
        keeps_values(&self.recipe)?;
        if row.len() != self.dims() || self.rows() != 0 {
            return Err(EngineError::bad_parameter("one row goes into an index without rows"));
        }
        let mut can = 0;
        // SAFETY: the handle is a live index, and the result is a local.
        let code = unsafe { ffi::vekter_index_can_decode(self.index.as_ptr(), &mut can) };
        if code != ffi::OK || can == 0 {
            return Err(EngineError::refused(
                "a transform before the index cannot be undone, so its rows cannot be read back",
            ));
        }
        self.add(row)?;
        let (mut cursor, mut position, mut found) = (ffi::RowCursor::default(), 0i64, 0usize);
        let mut values = vec![0f32; row.len()];
        // SAFETY: the handle is a live index, and there is room for one position and one row.
        let code = unsafe {
            ffi::vekter_index_next_rows(
                self.index.as_ptr(),
                &mut cursor,
                1,
                &mut position,
                values.as_mut_ptr(),
                &mut found,
            )
        };
        EngineError::from_code(code, |reason| EngineError::Failed { reason })?;
        if found != 1 {
            return Err(EngineError::Failed { reason: "the row was not stored".into() });
        }
        Ok(EncodedRow { code: self.only_code()?, row: values })
    }

    fn only_code(&self) -> Result<Vec<u8>, EngineError> {
        // No code is longer than two plain rows.
        let mut bytes = vec![0u8; 2 * size_of::<f32>() * self.dims() + 64];
        let mut length = 0;
        // SAFETY: the handle is a live index with one row, and the array has as many bytes as it says.
        let code = unsafe {
            ffi::vekter_index_only_code(self.index.as_ptr(), bytes.as_mut_ptr(), bytes.len(), &mut length)
        };
        EngineError::from_code(code, |reason| EngineError::Failed { reason })?;
        if length > bytes.len() {
            return Err(EngineError::Failed { reason: format!("a code of {length} bytes") });
        }
        bytes.truncate(length);
        Ok(bytes)
    }
}
