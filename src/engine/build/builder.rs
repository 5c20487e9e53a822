//! An index under construction, in private memory.

use crate::factory::{self, BuildBytes, BuildSize, Recipe, TrainingRows};
use crate::search::{self, Hit, SearchParams};
use crate::shim::ffi::{self, Handle};
use crate::{EngineError, Metric, is_interrupted};
use std::ffi::{CString, c_int};

/// HNSW's positions are 32-bit signed (faiss/impl/HNSW.h).
const MAX_ROWS: u64 = i32::MAX as u64;

/// An index under construction: takes rows in order. After an error other than `BadParameter` and `Io` it must be
/// dropped: an interrupted graph has rows without links.
#[derive(Debug)]
pub struct Builder {
    pub(crate) index: Handle,
    pub(crate) recipe: Recipe,
    pub(super) metric: Metric,
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
