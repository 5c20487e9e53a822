//! Search parameters as text, in FAISS's syntax (`nprobe=32,efSearch=64`), and the parameters that an index has.

use super::SearchParams;
use crate::Metric;
use crate::factory::{self, AUTO, Codec, Recipe, Structure};
use std::fmt;

/// A search parameter, under FAISS's name (faiss/AutoTune.cpp).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamName {
    Nprobe,
    EfSearch,
    KFactor,
    QuantizerEfSearch,
    MaxCodes,
    HammingThreshold,
    QueryBits,
}

use ParamName::{EfSearch, HammingThreshold, KFactor, MaxCodes, Nprobe, QuantizerEfSearch, QueryBits};

/// The most characters of a user's text that an error repeats.
const MAX_QUOTED_CHARS: usize = 60;

impl ParamName {
    const ALL: [Self; 7] =
        [Nprobe, EfSearch, KFactor, QuantizerEfSearch, MaxCodes, HammingThreshold, QueryBits];

    fn text(self) -> &'static str {
        match self {
            Nprobe => "nprobe",
            EfSearch => "efSearch",
            KFactor => "k_factor",
            QuantizerEfSearch => "quantizer_efSearch",
            MaxCodes => "max_codes",
            HammingThreshold => "ht",
            QueryBits => "qb",
        }
    }

    /// Case does not matter, as for SQL's names.
    fn from_text(text: &str) -> Option<Self> {
        match text {
            // FAISS's name for it with refinement.
            _ if text.eq_ignore_ascii_case("k_factor_rf") => Some(KFactor),
            _ => Self::ALL.into_iter().find(|name| name.text().eq_ignore_ascii_case(text)),
        }
    }

    /// The valid values, as a clause.
    fn expected(self) -> &'static str {
        match self {
            Nprobe | EfSearch | QuantizerEfSearch | HammingThreshold => "an integer from 1 to 2147483647",
            MaxCodes => "an integer from 0 (no limit) to 2147483647",
            KFactor => "a number from 1 on",
            QueryBits => "an integer from 0 to 8",
        }
    }
}

/// The search parameters that an index has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownParams {
    names: Vec<ParamName>,
    /// The factory string of the index; None: any index.
    factory: Option<String>,
}

impl KnownParams {
    /// The parameters of any index.
    pub fn any() -> Self {
        Self { names: ParamName::ALL.to_vec(), factory: None }
    }

    /// The parameters of an index of this factory string; for [`AUTO`] those of all indexes that it may choose, for a
    /// string that is not built those of any index. `metric`: None where it is not known yet.
    pub fn of(factory: &str, metric: Option<Metric>) -> Self {
        let names = if factory == AUTO {
            vec![Nprobe, EfSearch, KFactor, QuantizerEfSearch, MaxCodes]
        } else {
            let recipe = factory::parse_without_dims(factory);
            recipe.map_or(ParamName::ALL.to_vec(), |recipe| names_of(&recipe, metric))
        };
        Self { names, factory: Some(factory.into()) }
    }

    fn takes(&self, name: ParamName) -> bool {
        self.names.contains(&name)
    }

    /// The parameter that `name` means to this index: FAISS reads `efSearch` as that of the graph over centroids where
    /// there is no other graph.
    fn meaning(&self, name: ParamName) -> Option<ParamName> {
        match name {
            EfSearch if !self.takes(EfSearch) => self.takes(QuantizerEfSearch).then_some(QuantizerEfSearch),
            _ => self.takes(name).then_some(name),
        }
    }
}

/// A sentence that lists the parameters.
impl fmt::Display for KnownParams {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names.iter().map(|name| name.text()).collect::<Vec<_>>().join(", ");
        match (&self.factory, names.as_str()) {
            (None, _) => write!(formatter, "Search parameters are {names}."),
            (Some(factory), "") => write!(formatter, "An index of \"{factory}\" has no search parameters."),
            (Some(factory), _) => {
                write!(formatter, "Search parameters of an index of \"{factory}\" are {names}.")
            }
        }
    }
}

fn names_of(recipe: &Recipe, metric: Option<Metric>) -> Vec<ParamName> {
    let (has_lists, has_coarse_graph, has_graph) = match recipe.structure {
        Structure::Scan => (false, false, false),
        Structure::Graph { .. } => (false, false, true),
        Structure::Lists { coarse_links, .. } => (true, coarse_links.is_some(), false),
    };
    let is_lossy = recipe.codec != Codec::Flat || recipe.refine.is_some() || !recipe.transforms.is_empty();
    // A graph does not compare codes by bits. Lists do, but FAISS 1.12 cannot be told so for one search.
    let compares_bits = recipe.structure == Structure::Scan
        && matches!(recipe.codec, Codec::Product { bits: 8, polysemous: true, .. })
        && metric.is_none_or(|metric| metric == Metric::L2);
    let fitting = [
        (Nprobe, has_lists),
        (EfSearch, has_graph),
        (KFactor, is_lossy),
        (QuantizerEfSearch, has_coarse_graph),
        (MaxCodes, has_lists && !recipe.codec.is_packed()),
        (HammingThreshold, compares_bits),
        (QueryBits, recipe.codec == Codec::RaBitQ),
    ];
    fitting.into_iter().filter_map(|(name, fits)| fits.then_some(name)).collect()
}

/// Errors in a text of search parameters.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    #[error("search parameter \"{part}\" is not of the form name=value")]
    Malformed { part: String, known: KnownParams },
    #[error("unrecognized search parameter \"{name}\"")]
    Unknown { name: String, known: KnownParams },
    #[error("search parameter \"{name}\" does not fit the index")]
    Unfitting { name: String, known: KnownParams },
    #[error("search parameter \"{name}\" is given more than once")]
    Repeated { name: String },
    #[error("invalid value for search parameter \"{name}\": \"{value}\"")]
    Value { name: String, value: String, expected: &'static str },
}

impl ParamsError {
    /// A sentence about valid input.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Malformed { known, .. } | Self::Unknown { known, .. } | Self::Unfitting { known, .. } => {
                Some(known.to_string())
            }
            Self::Repeated { .. } => None,
            Self::Value { expected, .. } => Some(format!("It must be {expected}.")),
        }
    }
}

impl SearchParams {
    /// Parses `name=value` pairs between commas or blanks. Each name must be in `known`.
    pub fn parse(text: &str, known: &KnownParams) -> Result<Self, ParamsError> {
        let mut params = SearchParams::default();
        let mut seen = Vec::new();
        for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                return Err(ParamsError::Malformed { part: quoted(part), known: known.clone() });
            };
            let given = ParamName::from_text(name)
                .ok_or_else(|| ParamsError::Unknown { name: quoted(name), known: known.clone() })?;
            let meant = known
                .meaning(given)
                .ok_or_else(|| ParamsError::Unfitting { name: quoted(name), known: known.clone() })?;
            if seen.contains(&meant) {
                return Err(ParamsError::Repeated { name: quoted(name) });
            }
            seen.push(meant);
            params.set(meant, value).ok_or_else(|| ParamsError::Value {
                name: quoted(name),
                value: quoted(value),
                expected: meant.expected(),
            })?;
        }
        Ok(params)
    }

    /// None if the value is not valid for this parameter.
    fn set(&mut self, name: ParamName, value: &str) -> Option<()> {
        let integer =
            |least: i32| value.parse::<i32>().ok().filter(|&number| number >= least).map(i32::unsigned_abs);
        let size = |least| integer(least).map(|number| number as usize);
        match name {
            Nprobe => self.nprobe = Some(size(1)?),
            EfSearch => self.ef_search = Some(size(1)?),
            QuantizerEfSearch => self.quantizer_ef_search = Some(size(1)?),
            MaxCodes => self.max_codes = Some(size(0)?),
            HammingThreshold => self.hamming_threshold = Some(integer(1)?),
            QueryBits => self.query_bits = Some(u8::try_from(integer(0)?).ok().filter(|&bits| bits <= 8)?),
            KFactor => {
                let factor = value.parse::<f32>().ok();
                self.k_factor = Some(factor.filter(|factor| factor.is_finite() && *factor >= 1.0)?);
            }
        }
        Some(())
    }
}

/// The text that [`SearchParams::parse`] reads.
impl fmt::Display for SearchParams {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |name: ParamName| match name {
            Nprobe => self.nprobe.map(|value| value.to_string()),
            EfSearch => self.ef_search.map(|value| value.to_string()),
            KFactor => self.k_factor.map(|value| value.to_string()),
            QuantizerEfSearch => self.quantizer_ef_search.map(|value| value.to_string()),
            MaxCodes => self.max_codes.map(|value| value.to_string()),
            HammingThreshold => self.hamming_threshold.map(|value| value.to_string()),
            QueryBits => self.query_bits.map(|value| value.to_string()),
        };
        let pairs =
            ParamName::ALL.into_iter().filter_map(|name| Some(format!("{}={}", name.text(), value(name)?)));
        formatter.write_str(&pairs.collect::<Vec<_>>().join(","))
    }
}

/// A user's text, truncated if it is long; not within a run of characters beyond ASCII, as several of them may encode
/// one character of the user's.
fn quoted(text: &str) -> String {
    let Some((most, _)) = text.char_indices().nth(MAX_QUOTED_CHARS) else {
        return text.to_string();
    };
    let before = text[..most].trim_end_matches(|c: char| !c.is_ascii());
    match before.len() {
        0 => text.to_string(),
        end => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn names(factory: &str) -> String {
        let known = KnownParams::of(factory, Some(Metric::L2));
        known.names.iter().map(|name| name.text()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_family_has_parameters_of_its_own() {
        for (factory, expected) in [
            ("Flat", ""),
            ("HNSW32", "efSearch"),
            ("HNSW32,Flat", "efSearch"),
            ("HNSW32_Flat", "efSearch"),
            ("HNSW32_SQ8", "efSearch k_factor"),
            ("HNSW32,PQ16", "efSearch k_factor"),
            ("SQ8", "k_factor"),
            ("PQ48", "k_factor ht"),
            ("PQ48x8", "k_factor ht"),
            ("PQ48x10", "k_factor"),
            ("PQ48np", "k_factor"),
            ("LSH", "k_factor"),
            ("PCA64,Flat", "k_factor"),
            ("RaBitQ", "k_factor qb"),
            ("IVF512,Flat", "nprobe max_codes"),
            ("IVF512,PQ96", "nprobe k_factor max_codes"),
            ("IVF512,PQ96x4fs,RFlat", "nprobe k_factor"),
            ("OPQ16_64,IVF4k_HNSW32,PQ16x4fs", "nprobe k_factor quantizer_efSearch"),
            ("IVF512,RaBitQ,RFlat", "nprobe k_factor max_codes qb"),
        ] {
            assert_eq!(names(factory), expected, "{factory}");
        }
    }

    #[test]
    fn polysemous_codes_are_compared_by_bits_under_euclidean_distance() {
        assert!(!KnownParams::of("PQ48", Some(Metric::InnerProduct)).takes(HammingThreshold));
        assert!(KnownParams::of("PQ48", None).takes(HammingThreshold));
    }

    #[test]
    fn text_is_read_as_faiss_reads_it() {
        let known = KnownParams::of("IVF512_HNSW,PQ48,RFlat", None);
        let params = SearchParams::parse("nprobe=32,k_factor_rf=2.5 quantizer_efSearch=64,", &known).unwrap();
        let expected = SearchParams {
            nprobe: Some(32),
            k_factor: Some(2.5),
            quantizer_ef_search: Some(64),
            ..SearchParams::default()
        };
        assert_eq!(params, expected);
        assert_eq!(params.to_string(), "nprobe=32,k_factor=2.5,quantizer_efSearch=64");
        assert_eq!(
            SearchParams::parse("NPROBE=3,K_Factor_RF=2", &known).unwrap().to_string(),
            "nprobe=3,k_factor=2"
        );
        assert_eq!(SearchParams::parse("efsearch=7", &known).unwrap().quantizer_ef_search, Some(7));
        assert_eq!(SearchParams::parse("", &known).unwrap(), SearchParams::default());
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let text = "nprobe=1,efSearch=2,k_factor=3.5,quantizer_efSearch=4,max_codes=0,ht=6,qb=7";
        assert_eq!(SearchParams::parse(text, &KnownParams::any()).unwrap().to_string(), text);
    }

    #[test]
    fn an_error_lists_what_the_index_takes() {
        let known = KnownParams::of("IVF512,Flat", None);
        let error = |text| SearchParams::parse(text, &known).unwrap_err();
        let detail = "Search parameters of an index of \"IVF512,Flat\" are nprobe, max_codes.";
        for text in ["efSearch=5", "nlist=5", "nprobe", "EFSEARCH=3"] {
            assert_eq!(error(text).detail().unwrap(), detail, "{text}");
        }
        assert!(error("efSearch=5").to_string().contains("does not fit"));
        assert!(error("nlist=5").to_string().contains("unrecognized"));
        assert!(error("nprobe=1,nprobe=2").to_string().contains("more than once"));
        let none = SearchParams::parse("nprobe=1", &KnownParams::of("Flat", None)).unwrap_err();
        assert_eq!(none.detail().unwrap(), "An index of \"Flat\" has no search parameters.");
        assert!(error(&format!("{}=1", "x".repeat(10_000))).to_string().len() < 120);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let known = KnownParams::any();
        for text in [
            "nprobe=0",
            "nprobe=-1",
            "nprobe=1.5",
            "nprobe=",
            "nprobe=99999999999",
            "efSearch=x",
            "k_factor=0.5",
            "k_factor=nan",
            "k_factor=inf",
            "qb=9",
            "ht=0",
            "max_codes=-1",
        ] {
            let error = SearchParams::parse(text, &known).unwrap_err();
            assert!(matches!(error, ParamsError::Value { .. }), "{text}: {error}");
        }
        assert_eq!(SearchParams::parse("nprobe=2147483647", &known).unwrap().nprobe, Some(2147483647));
    }
}
