//! The bytes before the rows of a Flat index, for callers that have the rows in another place.

use super::Builder;
use crate::{EngineError, Metric};

/// Offset of `ntotal` behind the type and the dimension (`write_index_header`, faiss/impl/index_write.cpp).
const ROWS_AT: usize = 8;
/// The length of the array of rows, in floats, precedes it (`WRITEXBVECTOR`, faiss/impl/io_macros.h).
const LENGTH_BYTES: usize = 8;

/// The bytes that [`Builder::write`] writes before the rows of a Flat index with `rows` rows. The rows follow as
/// little-endian floats, and nothing follows them.
pub fn flat_head(dims: usize, metric: Metric, rows: u64) -> Result<Vec<u8>, EngineError> {
    let mut head = Vec::new();
    Builder::new("Flat", dims, metric)?.write(&mut head)?;
    let length_at = head.len().saturating_sub(LENGTH_BYTES);
    for (at, number) in [(ROWS_AT, rows), (length_at, rows * dims as u64)] {
        let place = head.get_mut(at..at + size_of::<u64>());
        let place = place.ok_or_else(|| EngineError::Failed { reason: "a Flat index has no head".into() })?;
        place.copy_from_slice(&number.to_le_bytes());
    }
    Ok(head)
}
