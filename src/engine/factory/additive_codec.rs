//! Additive quantisers: the factory strings that reach FAISS, and the memory that they take.
//!
//! ```text
//! additive = RQ(mxb{_mxb})[norm] | LSQmxb[norm] | (PRQ | PLSQ)pxmxb[norm] | packed
//! packed   = ((RQ | LSQ)m | (PRQ | PLSQ)pxm)x4fs[r][_32][norm]
//! norm     = _N(none | float | qint8 | qint4 | lsq2x4 | rq2x4)
//! ```
//!
//! `m` codebooks of 2^b centroids each (for each of `p` equal parts of the dimensions). The norm of the decoded row is
//! stored with the code: without it FAISS decodes each row that a search under Euclidean distance compares.

use super::grammar::Unread;
use super::recipe::TrainingRows;
use crate::EngineError;
use crate::shim::constants::{
    BEAM_BYTES, BEAM_ROWS, ENCODED_ROWS, MAX_ADDITIVE_BITS, NORM_ROWS, PRODUCT_BYTES,
};

/// Most centroids in the codebooks of one residual quantiser. Each process that searches holds a copy: 12 MiB at 384
/// dimensions.
const MAX_RESIDUAL_CENTROIDS: usize = 1 << 13;
/// The same for local search, whose training inverts a matrix of this many rows and columns 25 times; an inversion
/// cannot be interrupted.
const MAX_SEARCHED_CENTROIDS: usize = 1 << 11;
const MAX_CODEBOOKS: usize = 256;
const MAX_ALL_CODEBOOKS: usize = 2_048;
/// FAISS's `ResidualQuantizer::max_beam_size`.
const BEAM: usize = 5;
/// Rows in one call of FAISS's `add` to a residual quantiser, which does not poll the interrupt flag.
const RESIDUAL_BATCH_ROWS: usize = 512;

/// How the norm of the decoded row is stored with the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Norm {
    /// Nothing.
    Absent,
    Bits(usize),
    /// The sum of one of 16 and one of 16 values, which fast scan looks up like centroids.
    Pair,
}

/// The parameters of an additive quantiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Additive {
    /// `LSQ`, else `RQ`.
    searches_locally: bool,
    /// Equal parts of the dimensions, each with a quantiser of its own.
    parts: usize,
    /// Of each part.
    codebooks: usize,
    /// Bits of a row's code of each part.
    bits: usize,
    /// Of the largest codebook.
    most_bits: usize,
    /// In all codebooks of a part.
    centroids: usize,
    /// Pairs of centroids of different codebooks of a part.
    pairs: usize,
    norm: Norm,
    pub(super) is_packed: bool,
}

impl Additive {
    pub(super) fn learns_norms(self) -> bool {
        self.norm == Norm::Pair
    }

    /// Parses the code of a factory string; None if it is no additive one.
    pub(crate) fn parse(
        text: &str,
        dims: Option<usize>,
        in_lists: bool,
    ) -> Result<Option<Self>, EngineError> {
        let mut scan = Unread(text);
        let is_product = scan.eat("P");
        let searches_locally = scan.eat("L");
        let begins = if searches_locally { scan.eat("SQ") } else { scan.eat("RQ") };
        if !begins {
            return Ok(None);
        }
        let unknown = || {
            refused(
                text,
                "its numbers cannot be read; RQ8x8 is 8 codebooks of 8 bits, PRQ4x8x8 as many for each of 4 parts",
            )
        };
        let parts = if is_product { scan.number().filter(|_| scan.eat("x")) } else { Some(1) };
        let (Some(parts), Some(codebooks), true) = (parts, scan.number(), scan.eat("x")) else {
            return unknown();
        };
        let Some(bits) = scan.number() else { return unknown() };
        let is_packed = bits == 4 && scan.eat("fs");
        let mut groups = vec![(codebooks, bits)];
        if is_packed {
            let _ = in_lists && scan.eat("r");
            let _ = scan.eat("_32");
        } else if !is_product && !searches_locally {
            while scan.0.starts_with("_") && !scan.0.starts_with("_N") && scan.eat("_") {
                let (Some(more), true, Some(bits)) = (scan.number(), scan.eat("x"), scan.number()) else {
                    return unknown();
                };
                groups.push((more, bits));
            }
        }
        if scan.0.starts_with("_Ncqint") {
            return refused(text, "FAISS cannot learn norms this way where norms are equal; use _Nqint8");
        }
        let Some(norm) = parse_norm(scan.0) else { return unknown() };
        check_numbers(text, dims, parts, &groups)?;
        let centroids: usize = groups.iter().map(|(count, bits)| count << bits).sum();
        let pairs_within: usize = groups.iter().map(|(count, bits)| count << (2 * bits)).sum();
        let additive = Self {
            searches_locally,
            parts,
            codebooks: groups.iter().map(|(count, _)| count).sum(),
            bits: groups.iter().map(|(count, bits)| count * bits).sum(),
            most_bits: groups.iter().map(|&(_, bits)| bits).max().unwrap_or(0),
            centroids,
            pairs: (centroids * centroids - pairs_within) / 2,
            norm,
            is_packed,
        };
        additive.check_limits(text, dims)?;
        Ok(Some(additive))
    }

    fn check_limits(self, text: &str, dims: Option<usize>) -> Result<(), EngineError> {
        let refuse = |why: String| refused(text, why).map(|_| ());
        let (most, why) = if self.searches_locally {
            (
                MAX_SEARCHED_CENTROIDS,
                "its training inverts matrices of that size, which cannot be interrupted",
            )
        } else {
            (MAX_RESIDUAL_CENTROIDS, "each process that searches holds a copy of them")
        };
        if self.centroids > most {
            let kind = if self.searches_locally { "PLSQ" } else { "PRQ" };
            return refuse(format!(
                "it has {} centroids, and the limit is {most}, since {why}; use {kind}, which divides the dimensions",
                self.centroids
            ));
        }
        if self.codebooks > MAX_CODEBOOKS || self.codebooks * self.parts > MAX_ALL_CODEBOOKS {
            return refuse(format!(
                "it has {} x {} codebooks; the limit is {MAX_CODEBOOKS} for each part and {MAX_ALL_CODEBOOKS} in all",
                self.parts, self.codebooks
            ));
        }
        if dims.is_some_and(|dims| self.parts * self.bits > 32 * dims) {
            return refuse("its codes are longer than the rows themselves; use Flat".into());
        }
        if self.is_packed && !matches!(self.norm, Norm::Absent | Norm::Pair) {
            return refuse(
                "fast scan takes norms as _Nlsq2x4 or _Nrq2x4 (or _Nnone, for inner product)".into(),
            );
        }
        Ok(())
    }

    /// Fast scan supports norms stored in two halves (for Euclidean distance), and no norms (for inner product).
    pub(crate) fn l2_only(self) -> bool {
        self.is_packed && self.norm == Norm::Pair
    }

    pub(crate) fn inner_product_only(self) -> bool {
        self.is_packed && self.norm == Norm::Absent
    }

    pub(crate) fn code_bytes(self) -> u64 {
        let norm = match self.norm {
            Norm::Absent => 0,
            Norm::Bits(bits) => bits,
            Norm::Pair => 8,
        };
        (self.parts * self.bits + norm).div_ceil(8) as u64
    }

    /// Bytes of the codebooks and of k-means at work.
    pub(super) fn model_bytes(self, dims: usize) -> u64 {
        // Codebooks of parts are stored a second time, joined.
        let copies = if self.parts > 1 { 2 } else { 1 };
        let codebooks = (4 * copies * self.centroids * dims) as u64;
        let kmeans = ((3 * 4 * dims / self.parts) << self.most_bits) as u64;
        codebooks + kmeans
    }

    /// Whether a residual quantiser encodes by products between centroids; as in additive_quantizer.cc.
    fn has_products(self) -> bool {
        !self.searches_locally && self.parts * 2 * self.centroids * self.centroids <= PRODUCT_BYTES
    }

    /// Bytes of the inner products between centroids.
    fn product_bytes(self) -> usize {
        match (self.searches_locally, self.has_products()) {
            // For one part at a time.
            (true, _) => 4 * self.centroids * self.centroids,
            (false, true) => self.parts * 4 * (self.pairs + self.centroids),
            (false, false) => 0,
        }
    }

    /// Bytes while one call encodes `rows` rows, without the residuals to the centroids of lists.
    pub(super) fn encoding_bytes(self, dims: usize, rows: usize) -> u64 {
        // Decoded values, unpacked codes, and one part of the rows; fast scan also copies centroids of lists.
        let images = if self.is_packed { 2 } else { 1 };
        let around = rows * (4 * images * dims + 4 * dims / self.parts + 8 * self.codebooks * self.parts);
        (self.product_bytes() + around + self.bytes_within(dims, rows)) as u64
    }

    /// Rows that a residual quantiser encodes at a time.
    fn beam_rows(self, dims: usize, rows: usize) -> usize {
        let width = dims / self.parts;
        (BEAM_BYTES / (8 * BEAM * width + 12 * BEAM * BEAM)).max(BEAM_ROWS).min(rows)
    }

    /// Buffers of the encoder, which works on a few rows at a time.
    fn bytes_within(self, dims: usize, rows: usize) -> usize {
        let width = dims / self.parts;
        if self.searches_locally {
            return ENCODED_ROWS * (8 * self.centroids + 8 * width);
        }
        let codes = 4 * BEAM * (3 * self.codebooks + 5);
        let distances = if self.has_products() {
            4 * self.centroids
        } else {
            4 * BEAM * (3 * width + (1 << self.most_bits))
        };
        self.beam_rows(dims, rows) * (codes + distances)
    }

    /// Bytes while it trains on `rows` rows, without the caller's copy of them and the models.
    pub(crate) fn training_bytes(self, dims: usize, rows: usize) -> u64 {
        let sample = rows.min(self.training_rows().wanted);
        let learning = self.learning_bytes(dims / self.parts, sample);
        if self.parts > 1 && !self.is_packed {
            // One part after the other, then the norms of all.
            let copied = if rows > sample { 4 * dims * sample } else { 0 };
            let encoding = if self.searches_locally {
                self.bytes_within(dims, sample) + self.product_bytes()
            } else {
                0
            };
            let part = 4 * sample * dims / self.parts + learning + encoding;
            let batch = sample.min(NORM_ROWS);
            let norms = (4 * dims * batch) as u64 + self.encoding_bytes(dims, batch);
            return copied as u64 + norms.max(part as u64);
        }
        // Residuals, the copy of the sample before them or decoded values after them, unpacked codes.
        let around = sample * (3 * 4 * dims + 8 * self.codebooks * self.parts);
        let tables = if self.is_packed { sample * 2 * 64 * (self.codebooks * self.parts + 2) } else { 0 };
        let within = self.bytes_within(dims, sample) + self.product_bytes();
        (around + learning.max(tables) + within) as u64
    }

    /// Bytes while one part of `width` dimensions learns from `sample` rows.
    fn learning_bytes(self, width: usize, sample: usize) -> usize {
        if self.searches_locally {
            // The matrix, LAPACK's copy of it, and sums for the codebooks, in double precision.
            return 2 * 8 * self.centroids * (self.centroids + width) + 4 * self.codebooks * sample;
        }
        // Beams, the next codebook's beams or the input of k-means, their codes, and distances to the nearest
        // centroids.
        let beams = BEAM * sample;
        let found = 12 * BEAM * BEAM * self.beam_rows(width * self.parts, sample);
        4 * width * 2 * beams + 8 * beams * (self.codebooks + 2) + found
    }

    pub(crate) fn training_rows(self) -> TrainingRows {
        TrainingRows {
            min: 1 << self.most_bits.max(4),
            wanted: (64 << self.most_bits).clamp(1 << 13, 1 << 15),
        }
    }

    /// Rows in one call of FAISS's `add`, at most.
    pub(crate) fn batch_rows(self) -> usize {
        if self.searches_locally { usize::MAX } else { RESIDUAL_BATCH_ROWS }
    }
}

fn parse_norm(text: &str) -> Option<Norm> {
    Some(match text {
        "" | "_Nnone" => Norm::Absent,
        "_Nfloat" => Norm::Bits(32),
        "_Nqint8" => Norm::Bits(8),
        "_Nqint4" => Norm::Bits(4),
        "_Nlsq2x4" | "_Nrq2x4" => Norm::Pair,
        _ => return None,
    })
}

fn check_numbers(
    text: &str,
    dims: Option<usize>,
    parts: usize,
    groups: &[(usize, usize)],
) -> Result<(), EngineError> {
    // Rows of unknown dimensions can be divided by any number but 0.
    let dims = dims.unwrap_or(parts);
    if parts == 0 || !dims.is_multiple_of(parts) {
        let why = format!("{dims} dimensions cannot be divided into {parts} equal parts");
        return refused(text, why).map(|_| ());
    }
    if groups.iter().any(|&(count, bits)| {
        !(1..=MAX_CODEBOOKS).contains(&count) || !(1..=MAX_ADDITIVE_BITS).contains(&bits)
    }) {
        let why = format!("codebooks are 1 to {MAX_CODEBOOKS}, of 1 to {MAX_ADDITIVE_BITS} bits each");
        return refused(text, why).map(|_| ());
    }
    Ok(())
}

fn refused(text: &str, why: impl std::fmt::Display) -> Result<Option<Additive>, EngineError> {
    Err(EngineError::refused(format!("could not use \"{text}\" as an additive quantiser: {why}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_string_is_understood_with_its_parts_groups_and_norm() {
        let parse = |text| Additive::parse(text, Some(384), true).unwrap().unwrap();
        let residual = parse("RQ4x8_2x6_Nfloat");
        assert_eq!((residual.codebooks, residual.bits, residual.centroids), (6, 44, 4 * 256 + 2 * 64));
        assert_eq!(residual.code_bytes(), (44 + 32u64).div_ceil(8));
        let product = parse("PLSQ4x2x8_Nqint8");
        assert_eq!((product.parts, product.codebooks, product.centroids), (4, 2, 512));
        assert_eq!(product.code_bytes(), 9);
        let packed = parse("RQ31x4fsr_32_Nrq2x4");
        assert!(packed.is_packed && packed.l2_only() && !packed.inner_product_only());
        assert_eq!(packed.code_bytes(), (31 + 2u64).div_ceil(2));
        assert!(parse("PRQ4x4x4fs").inner_product_only());
        for other in ["PQ16", "LSH", "RaBitQ", "Flat", "SQ8", "RCQ2x8", "LSCQ2x8", ""] {
            assert_eq!(Additive::parse(other, Some(384), false).unwrap(), None, "{other}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_way_out() {
        let reason = |text| Additive::parse(text, Some(384), false).unwrap_err().to_string();
        assert!(reason("RQ64x8").contains("use PRQ"));
        assert!(reason("LSQ16x8").contains("use PLSQ"));
        assert!(reason("PRQ5x2x8").contains("5 equal parts"));
        assert!(reason("RQ8x13").contains("12 bits"));
        assert!(reason("RQ0x8").contains("1 to 256"));
        assert!(reason("RQ8x4fs_Nfloat").contains("_Nrq2x4"));
        assert!(reason("RQ8x8_Ncqint8").contains("_Nqint8"));
        assert!(reason("PRQ384x256x4fs_Nrq2x4").contains("2048 in all"));
        for odd in
            ["RQ", "RQ8", "RQ8x", "RQ8x8x8", "PRQ8x8", "LSQ4x8_4x8", "RQ8x8fs", "RQ8x4fsr", "RQ8x4_Nfoo"]
        {
            assert!(reason(odd).contains("cannot be read"), "{odd}: {}", reason(odd));
        }
    }
}
