//! Estimates of a build's memory before it begins: FAISS ends the process if memory runs out in one of its threads.

use super::recipe::{BATCH_ROWS, Codec, Recipe, Structure};
use crate::shim::constants::{DISTANCE_BLOCK_ROWS, ROWS_PER_CENTROID};

/// Bytes of the two `std::vector`s and views of an inverted list (faiss/invlists/InvertedLists.h), and of fragments
/// that growing lists leave between each other.
const LIST_OVERHEAD_BYTES: u64 = 192 + 2048;
/// Bytes of threads and libraries at work: stacks, arenas, OpenBLAS's panels.
const LIBRARY_BYTES: u64 = 8 << 20;
/// Values in one call of FAISS's `add`, a quarter of a second's work or so even for slow codecs, some of which do not
/// poll the interrupt flag.
const BATCH_VALUES: usize = 4 << 20;
/// Bytes of a row's TID, which the caller holds beside the index.
const POINTER_BYTES: u64 = 8;

/// The memory of a build, in bytes of private memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildBytes {
    /// Without the index itself, but with a third more for the caller's two batches of rows.
    pub work: u64,
    /// The peak of all memory.
    pub total: u64,
}

/// The numbers that a build's memory depends on.
#[derive(Clone, Copy, Debug)]
pub struct BuildSize {
    pub rows: u64,
    /// Training rows, and the least that would do; 0: no training.
    pub sample_rows: usize,
    pub least_rows: usize,
    /// Bytes of one batch of the caller's rows.
    pub batch_bytes: u64,
}

impl Recipe {
    /// The most rows in one call of FAISS's `add`.
    pub(crate) fn batch_rows(&self) -> usize {
        let most = match self.codec {
            Codec::Additive(additive) => additive.batch_rows().min(BATCH_ROWS),
            _ => BATCH_ROWS,
        };
        (BATCH_VALUES / self.dims).clamp(1, most)
    }

    /// Bytes of each row in the serialised index.
    pub(crate) fn serial_bytes_per_row(&self) -> u64 {
        let code = self.codec.bytes(self.inner_dims());
        let indexed = match self.structure {
            Structure::Scan => code,
            // Links (row r reaches level l with probability links^-l), level, offset.
            Structure::Graph { links } => code + 8 * links as u64 + 5 + 12,
            Structure::Lists { .. } => code + 8,
        };
        indexed + self.refine.map_or(0, |codec| codec.bytes(self.dims))
    }

    /// Bytes that each row occupies while the index is built.
    pub(crate) fn bytes_per_row(&self) -> u64 {
        let code = self.codec.bytes(self.inner_dims());
        let is_packed = self.codec.is_packed();
        let growing = match self.structure {
            // FAISS cannot reserve these arrays: they double.
            Structure::Scan if is_packed => code,
            Structure::Scan => 0,
            // The order in which rows are linked, and a mark in each thread's table of rows that it has met.
            Structure::Graph { .. } => 4 + 8,
            Structure::Lists { .. } if is_packed => code + 8,
            // A sixteenth, of which half is used on average: see `grow_lists` in building.cc.
            Structure::Lists { .. } => (code + 8).div_ceil(32),
        };
        self.serial_bytes_per_row() + growing
    }

    /// Bytes while `rows` rows are added, without the rows and the training sample: models, and buffers of FAISS's
    /// `add`.
    pub(crate) fn fixed_bytes(&self, rows: u64) -> u64 {
        let batch = (self.batch_rows() as u64).min(rows);
        self.model_bytes() + self.encoding_bytes() + batch * self.batch_bytes_per_row()
    }

    /// Bytes of each row of a batch while FAISS adds it.
    fn batch_bytes_per_row(&self) -> u64 {
        let inner = self.inner_dims() as u64;
        let images = if self.transforms.is_empty() { 0 } else { 4 * (self.dims as u64 + inner) };
        // Floats are copied once, but growing lists leave their old arrays behind. Codes of lists are computed from
        // residuals, and then copied into their list.
        let copies = match self.structure {
            Structure::Lists { .. } if self.codec == Codec::Flat => 4 * inner,
            Structure::Lists { .. } => 4 * inner + self.codec.bytes(self.inner_dims()) + 8,
            _ if self.codec.is_packed() => 2 * self.codec.bytes(self.inner_dims()),
            _ => 0,
        };
        copies + images + 32
    }

    /// The memory of a build by these estimates.
    pub(crate) fn build_bytes(&self, size: BuildSize) -> BuildBytes {
        let row_bytes = 4 * self.dims as u64;
        let training = |rows: usize| match size.sample_rows {
            0 => 0,
            _ => self.training_bytes(rows) + row_bytes * rows as u64,
        };
        let index = (self.serial_bytes_per_row() + POINTER_BYTES) * size.rows;
        let growing = (self.bytes_per_row() - self.serial_bytes_per_row()) * size.rows;
        let adding = self.fixed_bytes(size.rows) + growing;
        // The caller's two batches take a quarter of the limit, or all rows.
        let with_batches = (adding / 3 * 4).min(adding + 2 * row_bytes * size.rows);
        let work = training(size.least_rows.max(size.sample_rows)).max(with_batches);
        let batches = 2 * size.batch_bytes.min(row_bytes * size.rows);
        BuildBytes { work, total: training(size.sample_rows).max(adding + index + batches) }
    }

    /// Bytes during training as well as later.
    fn model_bytes(&self) -> u64 {
        let inner = self.inner_dims();
        let mut bytes = LIBRARY_BYTES + self.codec.model_bytes(inner);
        match (self.structure, self.codec) {
            (Structure::Lists { lists, coarse_links }, _) => {
                let links = coarse_links.map_or(0, |links| 8 * links as u64 + 64);
                let block = (DISTANCE_BLOCK_ROWS * DISTANCE_BLOCK_ROWS.min(lists)) as u64;
                bytes += lists as u64 * (4 * inner as u64 + LIST_OVERHEAD_BYTES + links) + 4 * block;
            }
            // Distances between any two centroids.
            (Structure::Graph { .. }, Codec::Product { parts, bits, .. }) => {
                bytes += (4 * parts as u64) << (2 * bits);
            }
            _ => {}
        }
        bytes += self.transforms.iter().map(|transform| transform.model_bytes()).sum::<u64>();
        bytes + self.refine.map_or(0, |codec| codec.model_bytes(self.dims))
    }

    /// Bytes of the tables for encoding.
    fn encoding_bytes(&self) -> u64 {
        let refining = self.refine.map_or(0, |codec| codec.table_bytes(self.dims));
        self.codec.table_bytes(self.inner_dims()).max(refining)
    }

    /// Bytes while it trains on `rows` rows, with the models and without the caller's copy of the rows.
    pub(crate) fn training_bytes(&self, rows: usize) -> u64 {
        // Steps run one after the other, each on the output of the previous one.
        let (mut images, mut most) = (0, 0);
        for transform in &self.transforms {
            let next = (4 * rows * transform.d_out) as u64;
            most = most.max(images + transform.training_bytes(rows)).max(images + next);
            images = next;
        }
        most = most.max(images + self.clustering_bytes(rows));
        most = most.max(images + self.codec.training_bytes(self.inner_dims(), rows));
        most = most.max(self.refine.map_or(0, |codec| codec.training_bytes(self.dims, rows)));
        self.model_bytes() + 32 * rows as u64 + most
    }

    /// Bytes of k-means for the lists: its centroids, the sums of the next round, and a copy of the rows if it samples
    /// them.
    fn clustering_bytes(&self, rows: usize) -> u64 {
        let Structure::Lists { lists, .. } = self.structure else {
            return 0;
        };
        let looked_at = lists.saturating_mul(ROWS_PER_CENTROID);
        let copied = if rows > looked_at { looked_at } else { 0 };
        4 * (self.inner_dims() * (2 * lists + copied)) as u64
    }

    /// The most training rows (at most those wanted) that fit into `bytes`, with the caller's copy of them.
    pub(crate) fn trainable_rows(&self, bytes: u64) -> usize {
        let fits = |rows: usize| self.training_bytes(rows) + (4 * self.dims * rows) as u64 <= bytes;
        let (mut most, mut too_many) = (0, self.training_rows().wanted + 1);
        while most + 1 < too_many {
            let rows = most.midpoint(too_many);
            if fits(rows) {
                most = rows;
            } else {
                too_many = rows;
            }
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use super::super::grammar::parse;
    use super::*;

    /// The default of maintenance_work_mem.
    const SETTING: u64 = 64 << 20;

    #[test]
    fn the_factories_of_the_readme_are_built_within_the_default_setting() {
        for (rows, dims) in [(5_000, 768), (20_000, 384), (100_000, 128)] {
            for factory in [
                "Flat",
                "HNSW32",
                "HNSW32,SQbf16",
                "HNSW32,SQ8",
                "IVF1024,Flat",
                "IVF1024,SQ8",
                "IVF1024,PQ32x4fs",
                "IVF1024,PQ48x4fs,RFlat",
                "PCA128,IVF128,SQ8",
                "IVF1024,PRQ8x4x8_Nqint8",
            ] {
                // 48 parts do not divide 128 dimensions.
                let Ok(recipe) = parse(factory, dims) else { continue };
                let training = recipe.training_rows();
                let size = BuildSize {
                    rows: rows as u64,
                    sample_rows: training.wanted.min(recipe.trainable_rows(SETTING)).min(rows),
                    least_rows: training.least(rows),
                    // As am/build.rs has it.
                    batch_bytes: SETTING / 8,
                };
                let work = recipe.build_bytes(size).work;
                assert!(work <= SETTING, "{factory} of {rows} x {dims}: {} MB", work >> 20);
            }
        }
    }
}
