//! An index under construction, in private memory.

use crate::factory::{self, BuildBytes, BuildSize, Recipe, TrainingRows};
use crate::search::{self, Hit, SearchParams};
use crate::shim::ffi::{self, Handle};
use crate::{EngineError, Metric, is_interrupted};
use std::any::Any;
use std::ffi::{CString, c_int, c_void};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// HNSW's positions are 32-bit signed (faiss/impl/HNSW.h).
const MAX_ROWS: u64 = i32::MAX as u64;

/// Size and preferred alignment of FAISS's serialised bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialLayout {
    /// Length of what [`Builder::write`] writes.
    pub bytes: u64,
    /// Offset of the largest array, which is best placed at a multiple of 64 bytes in a map.
    pub aligned_at: u64,
}

/// An index under construction: takes rows in order. After an error other than `BadParameter` and `Io` it must be
/// dropped: an interrupted graph has rows without links.
#[derive(Debug)]
pub struct Builder {
    pub(crate) index: Handle,
    pub(crate) recipe: Recipe,
    metric: Metric,
}

impl Builder {
    /// An empty index after a FAISS factory string, for prepared rows of `dims` values. Errors are `Refused` (with
    /// the reason) and `OutOfMemory`.
    pub fn new(factory: &str, dims: usize, metric: Metric) -> Result<Self, EngineError> {
        let recipe = factory::parse(factory, dims)?;
        let no_inner_product = recipe.l2_only() && metric == Metric::InnerProduct;
        if no_inner_product {
            return Err(EngineError::refused(format!("\"{factory}\" has no inner product in FAISS")));
        }
        if metric == Metric::L1 && !recipe.has_taxicab_distance() {
            return Err(EngineError::refused(format!(
                "\"{factory}\" has no taxicab distance in FAISS, which has it for floats only: use Flat, HNSWm or IVFn,Flat"
            )));
        }
        if recipe.inner_product_only() && metric == Metric::L2 {
            return Err(EngineError::refused(format!(
                "\"{factory}\" has no Euclidean distance in FAISS without norms: append _Nrq2x4 or _Nlsq2x4"
            )));
        }
        let text =
            CString::new(factory).map_err(|_| EngineError::refused("factory string contains a NUL"))?;
        let width = i32::try_from(dims).map_err(|_| EngineError::refused("too many dimensions"))?;
        let stored_as = metric.stored_as(recipe.l2_only());
        // SAFETY: the text is NUL-terminated and outlives the call; the shim stores an index into the pointer.
        let made = Handle::from_shim(|index| unsafe {
            ffi::vekter_index_new(text.as_ptr(), width, stored_as, index)
        });
        match made {
            Ok(index) => Ok(Self { index, recipe, metric }),
            Err(code) => Err(failure(code, EngineError::refused)),
        }
    }

    /// Reads what [`Builder::write`] wrote, trained as it is. `keep_rows`: its rows stay at positions 0 to rows - 1,
    /// and [`Builder::add`] continues from there; otherwise only the trained parts stay. Everything is copied: `serial`
    /// need not outlive the call. Where rows are kept, [`Builder::reserve`] briefly holds them twice.
    ///
    /// The caller has verified the bytes' checksum; `Corrupt` means that they are not an index of this factory string,
    /// dimension and metric. Other errors are those of [`Builder::new`], and `Interrupted`.
    pub fn resume(
        factory: &str,
        dims: usize,
        metric: Metric,
        serial: &[u8],
        keep_rows: bool,
    ) -> Result<Self, EngineError> {
        let like = Self::new(factory, dims, metric)?;
        // SAFETY: the handle is a live index, the slice is readable during the call, and the shim copies all that the
        // index which it stores into the pointer has of it.
        let made = Handle::from_shim(|index| unsafe {
            ffi::vekter_index_resume(
                like.index.as_ptr(),
                serial.as_ptr(),
                serial.len(),
                c_int::from(keep_rows),
                index,
            )
        });
        match made {
            Ok(index) => Ok(Self { index, ..like }),
            Err(code) => Err(failure(code, |reason| EngineError::Corrupt { reason })),
        }
    }

    pub fn metric(&self) -> Metric {
        self.metric
    }

    pub fn dims(&self) -> usize {
        self.recipe.dims
    }

    /// Whether [`Builder::train`] must come before [`Builder::add`].
    pub fn needs_training(&self) -> bool {
        self.index.describe().is_trained == 0
    }

    /// Numbers of training rows; zeros where no training is needed.
    pub fn training_rows(&self) -> TrainingRows {
        if self.needs_training() { self.recipe.training_rows() } else { TrainingRows::default() }
    }

    /// The number of training rows from which on the index is as good as its kind, trained or not.
    pub fn enough_training_rows(&self) -> usize {
        self.recipe.training_rows().enough()
    }

    /// Bytes of private memory for each added row, provided that [`Builder::reserve`] was called with the number of
    /// rows.
    pub fn bytes_per_row(&self) -> u64 {
        self.recipe.bytes_per_row()
    }

    /// The part of these bytes that [`Builder::write`] writes.
    pub fn serial_bytes_per_row(&self) -> u64 {
        self.recipe.serial_bytes_per_row()
    }

    /// Bytes of private memory, without those of each row, while `rows` rows are added: models, tables, buffers of a
    /// batch.
    pub fn fixed_bytes(&self, rows: u64) -> u64 {
        self.recipe.fixed_bytes(rows)
    }

    /// Bytes of private memory while it trains on `rows` rows, without the caller's copy of them.
    pub fn training_bytes(&self, rows: usize) -> u64 {
        self.recipe.training_bytes(rows)
    }

    /// The most rows, up to those wanted, on which it can train within `bytes` of memory, the caller's copy of the
    /// rows included.
    pub fn trainable_rows(&self, bytes: u64) -> usize {
        self.recipe.trainable_rows(bytes)
    }

    /// The memory of a build over `rows` rows of a table of `table_rows`, of which `sample_rows` train it.
    pub fn build_bytes(
        &self,
        rows: u64,
        sample_rows: usize,
        table_rows: usize,
        batch_bytes: usize,
    ) -> BuildBytes {
        let least_rows = self.training_rows().least(table_rows);
        let sample_rows = if self.needs_training() { sample_rows } else { 0 };
        self.recipe.build_bytes(BuildSize { rows, sample_rows, least_rows, batch_bytes: batch_bytes as u64 })
    }

    /// Reserves room for `rows` rows in all, so that arrays do not grow by being copied to twice their size.
    pub fn reserve(&mut self, rows: u64) -> Result<(), EngineError> {
        let rows = i64::try_from(rows.min(MAX_ROWS)).unwrap_or(i64::MAX);
        // SAFETY: the handle is a live index that nothing else uses, by `&mut self`.
        let code = unsafe { ffi::vekter_index_reserve(self.index.as_mut(), rows) };
        EngineError::from_code(code, |reason| EngineError::Failed { reason })
    }

    /// Trains on a sample of prepared rows (row-major). `UntrainableSample` when it is too small for FAISS.
    pub fn train(&mut self, rows: &[f32]) -> Result<(), EngineError> {
        let count = self.check_rows(rows)?;
        let min = self.training_rows().min;
        if count < min {
            return Err(EngineError::UntrainableSample {
                reason: format!("training needs at least {min} rows, and there are {count}"),
            });
        }
        if !self.needs_training() {
            return Ok(());
        }
        // SAFETY: the handle is a live index that nothing else uses, and `rows` holds `count` rows of its dimension.
        let code = unsafe {
            ffi::vekter_index_train(
                self.index.as_mut(),
                count as i64,
                rows.as_ptr(),
                self.recipe.codec_training_rows() as i64,
            )
        };
        EngineError::from_code(code, |reason| EngineError::UntrainableSample { reason })
    }

    /// Adds prepared rows (row-major), links included; positions continue from the rows before.
    pub fn add(&mut self, rows: &[f32]) -> Result<(), EngineError> {
        self.add_unlinked(rows)?;
        self.link(u64::MAX)
    }

    /// The rows of a graph that [`Builder::add_unlinked`] has added and [`Builder::link`] has not linked yet; 0 for
    /// other indexes.
    pub fn unlinked_rows(&self) -> u64 {
        // SAFETY: the handle is a live index.
        let rows = unsafe { ffi::vekter_index_unlinked_rows(self.index.as_ptr()) };
        u64::try_from(rows).unwrap_or(0)
    }

    /// Rows to link between two reports of the progress: some seconds' work at most.
    pub const LINK_ROWS: u64 = 10_000;

    /// Links at most `rows` rows of a graph that have no links yet. A graph whose rows are linked together is better
    /// and sooner built than one that grows in batches.
    pub fn link(&mut self, rows: u64) -> Result<(), EngineError> {
        let rows = rows.min(self.unlinked_rows());
        if rows == 0 {
            return Ok(());
        }
        // SAFETY: the handle is a live index that nothing else uses, by `&mut self`.
        let code = unsafe { ffi::vekter_index_link(self.index.as_mut(), rows as i64) };
        EngineError::from_code(code, |reason| EngineError::Failed { reason })
    }

    /// As [`Builder::add`], but rows of a graph get no links: they must be linked before the index is searched or
    /// written. Polls the interrupt flag at least between batches.
    pub fn add_unlinked(&mut self, rows: &[f32]) -> Result<(), EngineError> {
        let count = self.check_rows(rows)?;
        if self.needs_training() {
            return Err(EngineError::bad_parameter("the index must be trained before rows are added"));
        }
        if self.rows() + count as u64 > MAX_ROWS {
            return Err(EngineError::bad_parameter(format!("an index holds at most {MAX_ROWS} rows")));
        }
        let dims = self.recipe.dims;
        let mut rest = rows;
        while !rest.is_empty() {
            if is_interrupted() {
                return Err(EngineError::Interrupted);
            }
            let (rows, later) = rest.split_at(rest.len().min(self.recipe.batch_rows() * dims));
            rest = later;
            let count = (rows.len() / dims) as i64;
            // SAFETY: the handle is a live, trained index that nothing else uses, and `rows` holds `count` rows of
            // its dimension, finite.
            let code = unsafe { ffi::vekter_index_add(self.index.as_mut(), count, rows.as_ptr()) };
            EngineError::from_code(code, |reason| EngineError::Failed { reason })?;
        }
        Ok(())
    }

    /// Whether a search can miss rows, so that there is something to calibrate.
    pub fn is_approximate(&self) -> bool {
        let about = self.index.describe();
        about.scans_all == 0 || about.stores_rows == 0 || about.refines != 0
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.index
    }

    /// Rows added so far.
    pub fn rows(&self) -> u64 {
        u64::try_from(self.index.describe().rows).unwrap_or(0)
    }

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

    /// The nearest rows of a prepared query in the index as it stands, for comparison with what an opened copy says.
    #[doc(hidden)]
    pub fn search_unwritten(
        &self,
        query: &[f32],
        k: usize,
        params: &SearchParams,
        dead: Option<&[u8]>,
    ) -> Result<Vec<Hit>, EngineError> {
        search::search(&self.index, self.metric, query, k, params, dead)
    }

    fn stream(&self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), EngineError> {
        let index = self.index.as_ptr();
        stream(sink, |callback, context| {
            // SAFETY: the handle is a live index; the callback gets back the context that it expects, which outlives
            // the call.
            unsafe { ffi::vekter_index_write(index, callback, context) }
        })
    }

    /// Whether a prepared row can be added: its values are finite, and it is short enough for sums of squares in this
    /// index type.
    pub fn accepts(&self, row: &[f32]) -> bool {
        let norm = norm(row);
        norm.is_finite() && norm <= self.recipe.max_norm()
    }

    fn check_rows(&self, rows: &[f32]) -> Result<usize, EngineError> {
        let dims = self.recipe.dims;
        if !rows.len().is_multiple_of(dims) {
            return Err(EngineError::bad_parameter(format!("{} values are not rows of {dims}", rows.len())));
        }
        match rows.chunks_exact(dims).find(|row| !self.accepts(row)) {
            None => Ok(rows.len() / dims),
            Some(row) if row.iter().all(|value| value.is_finite()) => {
                Err(EngineError::bad_parameter(format!(
                    "a row is longer than {:e}, which overflows in this index type; use Flat",
                    self.recipe.max_norm()
                )))
            }
            Some(_) => Err(EngineError::bad_parameter("rows hold values that are not finite")),
        }
    }
}

/// The Euclidean norm in double precision: not finite only where a value is not.
pub(crate) fn norm(row: &[f32]) -> f64 {
    let square = |value: f32| f64::from(value) * f64::from(value);
    // Eight independent sums.
    let (blocks, rest) = row.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for block in blocks {
        sums.iter_mut().zip(block).for_each(|(sum, &value)| *sum += square(value));
    }
    (sums.iter().sum::<f64>() + rest.iter().copied().map(square).sum::<f64>()).sqrt()
}

fn failure(code: c_int, classify: impl FnOnce(String) -> EngineError) -> EngineError {
    match EngineError::from_code(code, classify) {
        Err(error) => error,
        Ok(()) => EngineError::Failed { reason: "no index was made".into() },
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
