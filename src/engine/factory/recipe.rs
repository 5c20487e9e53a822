//! The parsed form of a factory string, with the training rows and the memory that each part needs.

use super::additive_codec::Additive;
use super::grammar;
use crate::shim::constants::{MAX_HALF_NORM, MAX_LEARNT_NORM, ROWS_PER_CENTROID, TABLE_ROWS};

/// The largest training sample: more rows improve no quantiser noticeably, and a million rows of 16,000 dimensions are
/// 64 GB.
const MAX_SAMPLE_ROWS: usize = 1 << 20;
/// Width of a subspace from which on FAISS encodes through such tables (faiss/impl/ProductQuantizer.cpp).
const TABLE_MIN_WIDTH: usize = 16;
/// Columns in a block of LAPACK's.
const WORKSPACE_COLUMNS: usize = 64;
/// The most rows in one call of FAISS's `add`.
pub(super) const BATCH_ROWS: usize = 16_384;
/// FAISS's minimum and maximum of training rows per centroid (faiss/Clustering.h). An index of any kind trains badly on
/// a smaller share of the rows that it wants.
const ENOUGH: (usize, usize) = (39, ROWS_PER_CENTROID);

/// Numbers of training rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrainingRows {
    /// With fewer rows FAISS fails, or learns nonsense.
    pub min: usize,
    /// More rows do not improve the index.
    pub wanted: usize,
}

impl TrainingRows {
    fn at_least(self, other: Self) -> Self {
        Self { min: self.min.max(other.min), wanted: self.wanted.max(other.wanted) }
    }

    /// From this number on an index is as good as its kind.
    pub fn enough(self) -> usize {
        (self.wanted / ENOUGH.1 * ENOUGH.0).max(self.min)
    }

    /// The minimum for a table of `table_rows` rows. If that has fewer than [`TrainingRows::enough`], half of its rows
    /// train hardly worse than all.
    pub fn least(self, table_rows: usize) -> usize {
        self.enough().min(table_rows / 2).max(self.min)
    }
}

/// How a vector is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Flat,
    /// `SQ`: each value in `bits`, over a range that is learnt (`learns`) or fixed.
    Scalar {
        bits: usize,
        learns: bool,
    },
    /// `SQfp16`: IEEE's 16-bit floats.
    Half,
    /// `PQ`: the nearest of 2^bits centroids in each of `parts` subspaces; `polysemous` unless the string ends in `np`.
    Product {
        parts: usize,
        bits: usize,
        polysemous: bool,
    },
    /// `PQ..x4fs`: the same with 4 bits, laid out for SIMD.
    FastScan {
        parts: usize,
    },
    /// `LSH`: signs of values.
    Signs {
        bits: usize,
        rotated: bool,
        thresholds: bool,
    },
    RaBitQ,
    /// `RQ`, `LSQ`, `PRQ`, `PLSQ`.
    Additive(Additive),
}

impl Codec {
    /// Whether codes are laid out in blocks, for SIMD.
    pub(crate) fn is_packed(self) -> bool {
        match self {
            Self::FastScan { .. } => true,
            Self::Additive(additive) => additive.is_packed,
            _ => false,
        }
    }

    pub(crate) fn bytes(self, dims: usize) -> u64 {
        let bytes = match self {
            Self::Flat => 4 * dims,
            Self::Scalar { bits, .. } => (bits * dims).div_ceil(8),
            Self::Half => 2 * dims,
            Self::Product { parts, bits, .. } => (parts * bits).div_ceil(8),
            Self::FastScan { parts } => parts.div_ceil(2),
            Self::Signs { bits, .. } => bits.div_ceil(8),
            // Signs and two correction factors (faiss/impl/RaBitQuantizer.cpp).
            Self::RaBitQ => dims.div_ceil(8) + 8,
            Self::Additive(additive) => return additive.code_bytes(),
        };
        bytes as u64
    }

    pub(super) fn model_bytes(self, dims: usize) -> u64 {
        let bytes = match self {
            // Centroids, their transposition, and those of one k-means at work.
            Self::Product { bits, .. } => (3 * 4 * dims) << bits,
            Self::FastScan { .. } => (3 * 4 * dims) << 4,
            Self::Signs { bits, rotated: true, .. } => 3 * 4 * dims * bits,
            Self::Additive(additive) => return additive.model_bytes(dims),
            _ => 16 * dims,
        };
        bytes as u64
    }

    /// Tables through which FAISS encodes: for each row and part, the distances to all centroids.
    pub(super) fn table_bytes(self, dims: usize) -> u64 {
        match self {
            Self::Additive(additive) => additive.encoding_bytes(dims, additive.batch_rows().min(BATCH_ROWS)),
            Self::Product { parts, bits, .. } if dims / parts >= TABLE_MIN_WIDTH => {
                ((TABLE_ROWS * 4 * parts) as u64) << bits
            }
            Self::FastScan { parts } if dims / parts >= TABLE_MIN_WIDTH => {
                ((TABLE_ROWS * 4 * parts) as u64) << 4
            }
            _ => 0,
        }
    }

    /// Bytes of copies of the training rows: a sample of them, residuals, and one subspace.
    pub(crate) fn training_bytes(self, dims: usize, rows: usize) -> u64 {
        let (most, part) = match self {
            Self::Flat => return 0,
            Self::Signs { bits, .. } => return (8 * bits * rows) as u64,
            Self::Product { parts, bits, .. } => (ROWS_PER_CENTROID << bits, dims / parts),
            Self::FastScan { parts } => (ROWS_PER_CENTROID << 4, dims / parts),
            // faiss/IndexScalarQuantizer.cpp
            Self::Scalar { .. } | Self::Half => (100_000, 0),
            Self::RaBitQ => (usize::MAX, 0),
            Self::Additive(additive) => return additive.training_bytes(dims, rows),
        };
        let copies = if rows > most { 2 } else { 1 };
        (rows.min(most) * 4 * (copies * dims + part)) as u64 + self.table_bytes(dims)
    }

    fn training_rows(self) -> TrainingRows {
        match self {
            Self::Flat
            | Self::Half
            | Self::Scalar { learns: false, .. }
            | Self::Signs { thresholds: false, .. } => TrainingRows::default(),
            // Values outside the learnt range are clipped, so a large sample is needed.
            Self::Scalar { .. } => TrainingRows { min: 1, wanted: 1 << 16 },
            Self::Product { bits, .. } => TrainingRows { min: 1 << bits, wanted: ROWS_PER_CENTROID << bits },
            Self::FastScan { .. } => TrainingRows { min: 16, wanted: ROWS_PER_CENTROID << 4 },
            Self::Signs { .. } | Self::RaBitQ => TrainingRows { min: 1, wanted: 1 << 14 },
            Self::Additive(additive) => additive.training_rows(),
        }
    }
}

/// How the codes are searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Structure {
    /// Every code is compared.
    Scan,
    /// `HNSW`: a graph with `links` links for each row and level (twice as many on the lowest level).
    Graph { links: usize },
    /// `IVF`: the codes in the nearest inverted lists, which a graph over the centroids finds if `coarse_links` is set.
    Lists { lists: usize, coarse_links: Option<usize> },
}

/// The rows that a search compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Every row.
    All,
    /// Rows along the links of a graph.
    Graph,
    /// The nearest inverted lists; `by_graph`: a graph over their centroids finds these.
    Lists { lists: usize, by_graph: bool },
}

impl Reach {
    /// For an index of this factory string; None if it cannot be built.
    pub fn of(factory: &str, dims: usize) -> Option<Self> {
        grammar::parse(factory, dims).ok().map(|recipe| recipe.reach())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransformKind {
    Pca,
    Itq,
    Opq { parts: usize },
    RandomRotation,
    Normalise,
    Pad,
}

/// A transform of the rows before the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transform {
    pub kind: TransformKind,
    pub d_in: usize,
    pub d_out: usize,
}

impl Transform {
    pub(super) fn is_matrix(self) -> bool {
        !matches!(self.kind, TransformKind::Normalise | TransformKind::Pad)
    }

    fn training_rows(self) -> TrainingRows {
        match self.kind {
            TransformKind::Pca => TrainingRows { min: self.d_in, wanted: 100 * self.d_in },
            TransformKind::Itq => TrainingRows { min: self.d_in, wanted: 10 * self.d_in.max(1 << 10) },
            // OPQMatrix::train runs a product quantiser of 8 bits in each round (faiss/VectorTransform.cpp).
            TransformKind::Opq { .. } => {
                TrainingRows { min: self.d_in.max(256), wanted: ROWS_PER_CENTROID << 8 }
            }
            _ => TrainingRows::default(),
        }
    }

    /// Bytes for training, without the matrix: LAPACK's copies of the covariance and its decomposition in double
    /// precision, and copies of the rows (centred, projected, decoded, multiplied; faiss/VectorTransform.cpp).
    pub(crate) fn training_bytes(self, rows: usize) -> u64 {
        let (d_in, d_out) = (self.d_in, self.d_out);
        let bytes = match self.kind {
            TransformKind::Pca => 8 * d_in * (d_in + WORKSPACE_COLUMNS),
            TransformKind::Itq => {
                12 * d_in * d_in + 48 * d_out * d_out + rows * (4 * d_in + (4 + 16) * d_out)
            }
            TransformKind::Opq { parts } => {
                let codec = Codec::Product { parts, bits: 8, polysemous: true };
                let centroids = codec.model_bytes(d_out) + codec.table_bytes(d_out);
                let rows = rows.min(ROWS_PER_CENTROID << 8);
                return (32 * d_in * d_in.max(d_out) + rows * 4 * (3 * d_in + 2 * d_out)) as u64 + centroids;
            }
            TransformKind::RandomRotation => 8 * d_in * d_in.max(d_out),
            TransformKind::Normalise | TransformKind::Pad => 0,
        };
        bytes as u64
    }

    /// Bytes of the matrix; PCA also stores all axes.
    pub(super) fn model_bytes(self) -> u64 {
        let matrix = 4 * (self.d_in * self.d_out) as u64;
        match self.kind {
            TransformKind::Pca => matrix + 4 * (self.d_in * self.d_in) as u64,
            TransformKind::Itq => 3 * matrix,
            _ if self.is_matrix() => matrix,
            _ => 0,
        }
    }
}

/// A parsed factory string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub dims: usize,
    pub transforms: Vec<Transform>,
    pub structure: Structure,
    pub codec: Codec,
    pub refine: Option<Codec>,
}

impl Recipe {
    fn reach(&self) -> Reach {
        match self.structure {
            Structure::Scan => Reach::All,
            Structure::Graph { .. } => Reach::Graph,
            Structure::Lists { lists, coarse_links } => {
                Reach::Lists { lists, by_graph: coarse_links.is_some() }
            }
        }
    }

    /// Dimensions after the transforms.
    pub(super) fn inner_dims(&self) -> usize {
        self.transforms.last().map_or(self.dims, |last| last.d_out)
    }

    /// Whether FAISS builds this for Euclidean distance only (`IndexHNSWPQ` has no metric to choose, `IndexLSH`
    /// refuses another; faiss/index_factory.cpp).
    pub(crate) fn l2_only(&self) -> bool {
        match (self.structure, self.codec) {
            (_, Codec::Signs { .. }) | (Structure::Graph { .. }, Codec::Product { .. }) => true,
            (_, Codec::Additive(additive)) => additive.l2_only(),
            _ => false,
        }
    }

    /// Whether the lengths of rows are lost.
    pub(crate) fn normalises(&self) -> bool {
        self.transforms.iter().any(|transform| transform.kind == TransformKind::Normalise)
    }

    /// Whether FAISS builds this for inner products only.
    pub(crate) fn inner_product_only(&self) -> bool {
        matches!(self.codec, Codec::Additive(additive) if additive.inner_product_only())
    }

    /// Whether FAISS has taxicab distance for this index: only over floats, and not with a graph over the centroids,
    /// which compares by Euclidean distance (`Level1Quantizer::train_q1`, faiss/IndexIVF.cpp).
    pub(crate) fn has_taxicab_distance(&self) -> bool {
        let is_flat = self.codec == Codec::Flat && matches!(self.refine, None | Some(Codec::Flat));
        is_flat && !matches!(self.structure, Structure::Lists { coarse_links: Some(_), .. })
    }

    /// Training rows that the codec uses; lists and transforms may use more.
    pub(crate) fn codec_training_rows(&self) -> usize {
        self.codec.training_rows().wanted
    }

    /// The longest row, by Euclidean norm, that can be indexed.
    ///
    /// Where distances overflow, k-means assigns rows to centroid -1 and writes there (faiss/Clustering.cpp), and a
    /// graph's queue never empties (faiss/impl/HNSW.cpp); only a scan of plain floats is safe. Whitening stretches by
    /// up to 1e6 (`tune_for_building` in building.cc), and sums over a sample add as much.
    pub(crate) fn max_norm(&self) -> f64 {
        if [Some(self.codec), self.refine].contains(&Some(Codec::Half)) {
            // 16-bit floats end at 65,504, and lists store residuals.
            return MAX_HALF_NORM.into();
        }
        if let Codec::Additive(additive) = self.codec
            && additive.learns_norms()
        {
            return MAX_LEARNT_NORM.into();
        }
        let plain = self.structure == Structure::Scan && self.codec == Codec::Flat;
        if plain && self.transforms.is_empty() && self.refine.is_none() { f64::INFINITY } else { 1e12 }
    }

    pub(crate) fn training_rows(&self) -> TrainingRows {
        let mut rows = self.codec.training_rows();
        if let Structure::Lists { lists, .. } = self.structure {
            rows =
                rows.at_least(TrainingRows { min: lists, wanted: lists.saturating_mul(ROWS_PER_CENTROID) });
        }
        for transform in &self.transforms {
            rows = rows.at_least(transform.training_rows());
        }
        if let Some(codec) = self.refine {
            rows = rows.at_least(codec.training_rows());
        }
        rows.wanted = rows.wanted.max(rows.min).min(MAX_SAMPLE_ROWS.max(rows.min));
        rows
    }
}
