//! The parameters of a search.
//!
//! The defaults come from `tests/engine/measure.rs` on 115,659 sentence embeddings of 384 dimensions, where they reach
//! a recall@10 of 0.991 with `HNSW32`, 0.966 with `IVF512,Flat` and 0.964 with `IVF512,PQ96x4fs,RFlat`.

/// Search parameters; `None` stands for the index's default. An index type ignores those that it does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SearchParams {
    /// `IVF`: inverted lists to scan; default [`SearchParams::default_nprobe`].
    pub nprobe: Option<usize>,
    /// `HNSW`: length of the queue of candidates; at least k; default [`SearchParams::DEFAULT_EF_SEARCH`].
    pub ef_search: Option<usize>,
    /// `RFlat`, `Refine` and lossy codes: candidates for each wanted result; at least 1; default
    /// [`SearchParams::DEFAULT_K_FACTOR`].
    pub k_factor: Option<f32>,
    /// `IVF..._HNSW`: length of the queue in the graph over the centroids; default
    /// [`SearchParams::default_coarse_queue`].
    pub quantizer_ef_search: Option<usize>,
    /// `IVF`: rows after which no further list is scanned; 0 and default: no limit.
    pub max_codes: Option<usize>,
    /// `PQ` of 8 bits without lists, under L2: codes that differ from the query's in more bits are skipped; default:
    /// none.
    pub hamming_threshold: Option<u32>,
    /// `RaBitQ`: bits of each query value that are compared with the signs; 0: floats.
    pub query_bits: Option<u8>,
    /// Target recall, above 0 and up to 1. FAISS does not see it: the caller fills the fields above from the index's
    /// operating points ([`crate::choose`]).
    pub recall: Option<f64>,
}

impl SearchParams {
    pub const DEFAULT_EF_SEARCH: usize = 100;
    pub const DEFAULT_K_FACTOR: f32 = 10.0;
    /// The paper's choice (Gao and Long, 2024, section 3.3). FAISS's default, floats, finds the same rows at a
    /// thirtieth of the speed.
    pub const DEFAULT_QUERY_BITS: u8 = 4;

    /// The default nprobe for `lists` lists: all of a few, then in proportion to the square root. With lists =
    /// O(sqrt(rows)) that keeps recall level while the scanned share of the rows falls.
    pub fn default_nprobe(lists: usize) -> usize {
        ((2.0 * (lists as f64).sqrt()).ceil() as usize).clamp(1, lists.max(1))
    }

    /// The default queue for a search of the graph over the centroids that finds `nprobe` lists.
    pub fn default_coarse_queue(nprobe: usize) -> usize {
        nprobe.saturating_mul(2).max(64)
    }

    /// These parameters, with missing ones taken from `farther`.
    #[must_use]
    pub fn or(self, farther: Self) -> Self {
        Self {
            nprobe: self.nprobe.or(farther.nprobe),
            ef_search: self.ef_search.or(farther.ef_search),
            k_factor: self.k_factor.or(farther.k_factor),
            quantizer_ef_search: self.quantizer_ef_search.or(farther.quantizer_ef_search),
            max_codes: self.max_codes.or(farther.max_codes),
            hamming_threshold: self.hamming_threshold.or(farther.hamming_threshold),
            query_bits: self.query_bits.or(farther.query_bits),
            recall: self.recall.or(farther.recall),
        }
    }

    /// As [`SearchParams::or`], but parameters of `farther` do not override a recall that is set here.
    #[must_use]
    pub fn before(self, farther: Self) -> Self {
        if self.recall.is_some() { self } else { self.or(farther) }
    }

    /// The parameters for a scan that needs more rows than its last search returned: twice the effort, at most all of
    /// `lists` inverted lists (0: none) and `rows` rows.
    #[must_use]
    pub fn widened(&self, lists: usize, rows: usize) -> Self {
        let double = |value: usize, limit: usize| value.saturating_mul(2).clamp(1, limit.max(1));
        Self {
            nprobe: Some(double(self.nprobe.unwrap_or_else(|| Self::default_nprobe(lists)), lists)),
            ef_search: Some(double(self.ef_search.unwrap_or(Self::DEFAULT_EF_SEARCH), rows)),
            k_factor: self.k_factor,
            quantizer_ef_search: self.quantizer_ef_search.map(|width| double(width, lists)),
            max_codes: self.max_codes.map(|codes| if codes == 0 { 0 } else { double(codes, rows) }),
            // It skips the same codes at any effort.
            hamming_threshold: None,
            query_bits: self.query_bits,
            recall: self.recall,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn widening_ends_with_everything() {
        let mut params = SearchParams { max_codes: Some(100), ..SearchParams::default() };
        for _ in 0..12 {
            params = params.widened(512, 100_000);
        }
        assert_eq!((params.nprobe, params.ef_search), (Some(512), Some(100_000)));
        assert_eq!(params.max_codes, Some(100_000));
        assert_eq!(params.widened(512, 100_000), params);
    }

    #[test]
    fn a_limit_of_nothing_stays_no_limit() {
        let params = SearchParams { max_codes: Some(0), ..SearchParams::default() };
        assert_eq!(params.widened(512, 100_000).max_codes, Some(0));
    }

    #[test]
    fn the_nearer_parameters_win_one_by_one() {
        let near = SearchParams { nprobe: Some(1), ..SearchParams::default() };
        let far = SearchParams { nprobe: Some(2), max_codes: Some(3), ..SearchParams::default() };
        assert_eq!(near.or(far), SearchParams { nprobe: Some(1), ..far });
    }

    #[test]
    fn a_recall_wins_over_parameters_from_farther_away() {
        let asked = SearchParams { recall: Some(0.9), k_factor: Some(2.0), ..SearchParams::default() };
        let far = SearchParams { nprobe: Some(2), recall: Some(0.5), ..SearchParams::default() };
        assert_eq!(asked.before(far), asked);
        assert_eq!(
            SearchParams { recall: None, ..asked }.before(far),
            SearchParams { k_factor: Some(2.0), ..far }
        );
    }

    #[test]
    fn the_default_number_of_lists_exists() {
        for lists in [0, 1, 2, 3, 4, 100, 1 << 20] {
            let nprobe = SearchParams::default_nprobe(lists);
            assert!((1..=lists.max(1)).contains(&nprobe), "{nprobe} of {lists}");
        }
    }
}
