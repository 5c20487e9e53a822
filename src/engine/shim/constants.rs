//! Constants that Rust and C++ share. build.rs includes this file too, and writes them as a C++ header.

/// Defines the constants, and a list of them as C++ definitions.
macro_rules! shared {
    ($($(#[$doc:meta])* $name:ident: $type:ident = $value:expr;)*) => {
        $($(#[$doc])* pub const $name: $type = $value;)*
        /// Type, name and value of each constant.
        #[allow(dead_code, reason = "only build.rs uses it")]
        pub const DEFINITIONS: &[(&str, &str, &str)] =
            &[$((stringify!($type), stringify!($name), stringify!($value)),)*];
    };
}

shared! {
    /// The largest value whose squares can be summed as floats.
    MAX_VALUE: f32 = 1e16;
    /// The longest row of an index with 16-bit floats, which end at 65,504, as lists store residuals.
    MAX_HALF_NORM: f32 = 3e4;
    /// The longest row of an additive quantiser that learns norms: their squares are clustered, by sums of squares of
    /// those.
    MAX_LEARNT_NORM: f32 = 1e7;
    /// Bits of a part of a product code; FAISS allows more, with hours of training.
    MAX_PRODUCT_BITS: usize = 12;
    /// Bits of a codebook of an additive quantiser.
    MAX_ADDITIVE_BITS: usize = 12;
    /// Sides of a block of distances between rows and centroids.
    DISTANCE_BLOCK_ROWS: usize = 1024;
    /// Rows whose tables of distances to a product quantiser's centroids exist at once.
    TABLE_ROWS: usize = 256;
    /// Bytes for the beams of the rows that RQ encodes at once, as FAISS counts them, whose own limit is 5 GiB.
    BEAM_BYTES: usize = 4 << 20;
    /// Rows that it encodes at once however much their beams take: FAISS encodes fewer on one thread.
    BEAM_ROWS: usize = 128;
    /// Rows whose codes and norms a product of additive quantisers computes at once after training.
    NORM_ROWS: usize = 1024;
    /// Bytes of the products between codebooks up to which RQ encodes by them, five times as fast. They are computed
    /// after training or reading, and never written.
    PRODUCT_BYTES: usize = 32 << 20;
    /// Rows for each centroid that k-means uses (FAISS's `max_points_per_centroid`, faiss/Clustering.h); in RQ a row
    /// counts once for each of its beams.
    ROWS_PER_CENTROID: usize = 256;
    /// Rows that LSQ encodes between two polls of the interrupt flag.
    ENCODED_ROWS: usize = 256;
}
