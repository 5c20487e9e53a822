//! Writes an index under construction as FAISS's serialised bytes.

use super::Builder;
use crate::search::SearchParams;
use crate::shim::ffi;
use crate::{EngineError, Metric};
use std::any::Any;
use std::ffi::{c_int, c_void};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Size and preferred alignment of FAISS's serialised bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialLayout {
    /// Length of what [`Builder::write`] writes.
    pub bytes: u64,
    /// Offset of the largest array, which is best placed at a multiple of 64 bytes in a map.
    pub aligned_at: u64,
}

impl Builder {
    /// The layout of what [`Builder::write`] will write: a dry run, which copies nothing.
    pub fn layout(&self) -> Result<SerialLayout, EngineError> {
        let mut largest = 0;
        let mut layout = SerialLayout { bytes: 0, aligned_at: 0 };
        self.stream(&mut |piece| {
            if piece.len() > largest {
                largest = piece.len();
                layout.aligned_at = layout.bytes;
            }
            layout.bytes += piece.len() as u64;
            Ok(())
        })?;
        Ok(layout)
    }

    /// Writes FAISS's own serialised bytes, exactly as `faiss.read_index` reads them, array by array without a copy. A
    /// panic of the sink unwinds from here.
    pub fn write(&self, sink: &mut dyn io::Write) -> Result<(), EngineError> {
        self.stream(&mut |piece| sink.write_all(piece))
    }

    /// As [`Builder::write`], but for searches outside vekter: the labels are `labels` (one for each row, by position),
    /// the default search parameters are `params` (or vekter's defaults), and under cosine the index normalises queries
    /// itself. The labels are in memory twice meanwhile.
    pub fn write_labelled(
        &mut self,
        labels: &[i64],
        params: &SearchParams,
        sink: &mut dyn io::Write,
    ) -> Result<(), EngineError> {
        if labels.len() as u64 != self.rows() {
            return Err(EngineError::bad_parameter(format!(
                "{} labels for {} rows",
                labels.len(),
                self.rows()
            )));
        }
        let params = self.written_params(params);
        // SAFETY: the handle is a live index that nothing else uses, by `&mut self`; the parameters are a local.
        unsafe { ffi::vekter_index_set_search(self.index.as_mut(), &params) };
        let normalises = c_int::from(self.metric == Metric::Cosine);
        let index = self.index.as_ptr();
        stream(&mut |piece| sink.write_all(piece), |callback, context| {
            // SAFETY: the handle is a live index with as many rows as labels; the callback gets back the context that
            // it expects, which outlives the call.
            unsafe { ffi::vekter_index_write_labelled(index, labels.as_ptr(), normalises, callback, context) }
        })
    }

    fn written_params(&self, params: &SearchParams) -> ffi::WrittenParams {
        let lists = usize::try_from(self.index.describe().lists).unwrap_or(0);
        let nprobe = params.nprobe.unwrap_or_else(|| SearchParams::default_nprobe(lists));
        let queue = |rows: usize| i32::try_from(rows).unwrap_or(i32::MAX / 2);
        ffi::WrittenParams {
            nprobe: i64::try_from(nprobe).unwrap_or(i64::MAX),
            ef_search: queue(params.ef_search.unwrap_or(SearchParams::DEFAULT_EF_SEARCH)),
            quantizer_ef_search: queue(
                params
                    .quantizer_ef_search
                    .unwrap_or_else(|| SearchParams::default_coarse_queue(nprobe.min(lists))),
            ),
            k_factor: params.k_factor.unwrap_or(SearchParams::DEFAULT_K_FACTOR),
            query_bits: params.query_bits.unwrap_or(SearchParams::DEFAULT_QUERY_BITS),
        }
    }

    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), EngineError> {
        let index = self.index.as_ptr();
        stream(sink, |callback, context| {
            // SAFETY: the handle is a live index; the callback gets back the context that it expects, which outlives
            // the call.
            unsafe { ffi::vekter_index_write(index, callback, context) }
        })
    }
}

/// Has `write` hand an index to `sink` piece by piece.
fn stream(
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    write: impl FnOnce(extern "C" fn(*mut c_void, *const u8, usize) -> c_int, *mut c_void) -> c_int,
) -> Result<(), EngineError> {
    let mut state = Sink { sink, error: None, panic: None };
    let code = write(sink_callback, (&raw mut state).cast::<c_void>());
    if let Some(panic) = state.panic {
        resume_unwind(panic);
    }
    match (code, state.error) {
        (ffi::SINK_STOPPED, Some(error)) => Err(EngineError::Io(error)),
        _ => EngineError::from_code(code, |reason| EngineError::Failed { reason }),
    }
}

struct Sink<'a> {
    sink: &'a mut dyn FnMut(&[u8]) -> io::Result<()>,
    error: Option<io::Error>,
    panic: Option<Box<dyn Any + Send>>,
}

/// Hands a piece to the sink; neither its error nor its panic may pass through FAISS's frames.
extern "C" fn sink_callback(context: *mut c_void, bytes: *const u8, length: usize) -> c_int {
    // SAFETY: the context is the `Sink` that `stream` passed to the shim, which calls back on this thread
    // while `stream` waits.
    let state = unsafe { &mut *context.cast::<Sink<'_>>() };
    // SAFETY: the shim passes an array of the index, of `length` (> 0) bytes, that lives while it is being written.
    let piece = unsafe { std::slice::from_raw_parts(bytes, length) };
    match catch_unwind(AssertUnwindSafe(|| (state.sink)(piece))) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            state.error = Some(error);
            1
        }
        Err(panic) => {
            state.panic = Some(panic);
            1
        }
    }
}
