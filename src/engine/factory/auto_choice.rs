//! The choice behind `factory = 'auto'`: a family and its parameters by the number of rows, their dimensions, the
//! target recall and the available memory. Each rule cites the figures of docs/factories.md that it rests on.

use super::build_memory::BuildSize;
use super::grammar::parse;
use super::recipe::{Codec, Recipe, Structure};
use crate::Metric;

/// The factory string that lets the engine choose.
pub const AUTO: &str = "auto";

/// An exact scan.
const SCAN: &str = "Flat";
/// Fewer rows than this are scanned, unless they are long.
const MAX_SCANNED_ROWS: u64 = 10_000;
/// The most bytes of floats to scan, about a millisecond's work (10,000 rows of 384 dimensions: 1.4 ms); holds from
/// [`MIN_GRAPH_ROWS`] rows on.
const MAX_SCANNED_BYTES: u64 = 16 << 20;
/// Fewer rows than this are scanned at any length: a graph is hardly faster (2,500 rows: 0.13 and 0.07 ms), and not
/// exact.
const MIN_GRAPH_ROWS: u64 = 2_500;
/// Bytes of a row's TID in a stored segment.
const STORED_POINTER_BYTES: u64 = 6;
/// One over the share of the cache that an index may fill; the rest is for its table and for others.
const CACHE_DIVISOR: u64 = 2;
/// From this target recall on a graph may fill the whole cache: lists reach such recall only if a fifth of them or more
/// is scanned (`IVF1024,SQ8` with 192 lists: under 0.99), at a third of a graph's speed at 0.95.
const HIGH_RECALL: f64 = 0.99;
/// Lists, as a multiple of the square root of the rows.
const LISTS_PER_ROOT: f64 = 4.0;
/// FAISS's minimum, below which k-means warns (`min_points_per_centroid`, faiss/Clustering.h).
const TRAINING_ROWS_PER_LIST: u64 = 39;
/// The most lists: more cannot get FAISS's minimum of training rows from the largest sample that is ever drawn.
const MAX_LISTS: u64 = 16_384;
/// From this number of lists on a graph finds the nearest faster than a scan of the centroids.
const MIN_COARSE_GRAPH_LISTS: u64 = 8_192;
/// How often the number of lists is halved until they can be trained in the available memory.
const MAX_HALVINGS: u32 = 3;
/// Dimensions in one part of a product code; 4 lose little (`IVF512,PQ96x4fs` of 384 dimensions: 0.964 of 0.966).
const PART_DIMS: [usize; 8] = [4, 5, 6, 7, 8, 3, 2, 1];
/// FAISS sums the parts of a row in 16 bits; with more parts than this, each has too few of them.
const MAX_PARTS: usize = 1_024;
/// Factors by which the number of rows may be off before an existing choice changes.
const TOLERANCE: [(u64, u64); 3] = [(1, 1), (2, 3), (3, 2)];

/// Memory that is available to an index.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Cache for tables and indexes (`effective_cache_size`).
    pub cache_bytes: u64,
    /// Limit for a build, without the index itself (`maintenance_work_mem`); None: no limit.
    pub work_bytes: Option<u64>,
    /// Limit for one process; None: unknown.
    pub available_bytes: Option<u64>,
    /// Bytes of the rows in one batch of the caller.
    pub batch_bytes: usize,
}

/// The input of a choice.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// Rows of the new segment.
    pub rows: u64,
    /// Rows of the whole index, whose segments share the cache.
    pub index_rows: u64,
    pub dims: usize,
    pub metric: Metric,
    /// The target recall, at most 1.
    pub recall: f64,
    /// Whether every value is one of IEEE's 16-bit floats.
    pub are_halves: bool,
    pub memory: Memory,
}

/// A factory string with the reason for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub factory: String,
    /// For users; follows a text that states the number of rows.
    pub reason: String,
}

/// Fewer rows than this are scanned.
pub fn scanned_rows(dims: usize) -> u64 {
    (MAX_SCANNED_BYTES / (4 * dims.max(1) as u64)).clamp(MIN_GRAPH_ROWS, MAX_SCANNED_ROWS)
}

/// The reason for scanning fewer rows than that.
pub fn scan_reason(dims: usize) -> String {
    format!("fewer than {} are scanned, which is exact", grouped(scanned_rows(dims)))
}

impl Situation {
    /// The choice for a new index.
    pub fn choose(&self) -> Choice {
        if self.recall >= 1.0 {
            return Choice::scan("recall = 1 asks for an exact index");
        }
        if self.rows < scanned_rows(self.dims) {
            return Choice::scan(&scan_reason(self.dims));
        }
        match self.best() {
            Some(best) => {
                Choice { reason: self.explain(&best.candidate, &best), factory: best.candidate.factory }
            }
            None => Choice::scan("no other kind of index supports these rows"),
        }
    }

    /// The choice where segments exist already: `merged` is the factory string of the largest segment in the merge,
    /// `present` that of the largest in the index. The kind of index stays, with its parameters unless it is trained
    /// anew, until another is clearly better; and codes never become vectors again, because only the table has these.
    pub fn choose_again(&self, merged: &str, present: &str, trains_anew: bool) -> Choice {
        let choice = self.choose();
        // Sealed inserts are always scans, whatever was chosen.
        let before = if merged == SCAN { present } else { merged };
        let scans_little = choice.factory == SCAN && merged == SCAN;
        if before == SCAN || scans_little || self.recall >= 1.0 {
            return choice;
        }
        let (Some(before), Some(best)) =
            (FactoryOption::new(before, self.dims), FactoryOption::new(&choice.factory, self.dims))
        else {
            return choice;
        };
        let keep = |why: &str| Choice {
            reason: format!("still {}, as {why}", before.name()),
            factory: before.factory.clone(),
        };
        if before.is_like(&best) {
            let reason = self.best().filter(|_| !trains_anew).map(|best| self.explain(&before, &best));
            return reason.map_or(choice, |reason| Choice { reason, factory: before.factory.clone() });
        }
        let is_like_before = |choice: Choice| {
            FactoryOption::new(&choice.factory, self.dims).is_some_and(|other| other.is_like(&before))
        };
        if TOLERANCE.iter().any(|&part| is_like_before(self.scaled(part).choose())) {
            return keep("the number of rows is still within its range");
        }
        // Codes of halves are the rows, unless they were divided by their lengths.
        let is_lossless = |option: &FactoryOption| {
            let keeps_halves = self.are_halves && self.metric != Metric::Cosine;
            !option.is_coded() || (keeps_halves && option.recipe.codec == Codec::Half)
        };
        match !is_lossless(&before) && is_lossless(&best) {
            true => keep("a merge cannot restore vectors from codes, but REINDEX can"),
            false => choice,
        }
    }

    fn scaled(&self, (times, of): (u64, u64)) -> Self {
        Self { rows: self.rows * times / of, index_rows: self.index_rows * times / of, ..*self }
    }

    /// From the fastest to the smallest.
    fn candidates(&self) -> Vec<FactoryOption> {
        let (graphs, codes): (&[&str], Vec<String>) = match (self.metric, self.are_halves) {
            (Metric::L1, _) => (&["HNSW32"], vec!["Flat".into()]),
            // As floats, halves would take twice the memory and be no other values.
            (_, true) => (&["HNSW32,SQfp16", "HNSW32,SQ8"], vec!["SQ8".into(), self.product_code()]),
            _ => (&["HNSW32", "HNSW32,SQbf16", "HNSW32,SQ8"], vec!["SQ8".into(), self.product_code()]),
        };
        let graphs = graphs.iter().filter_map(|graph| FactoryOption::new(graph, self.dims));
        graphs.chain(codes.iter().filter_map(|code| self.lists_of(code))).collect()
    }

    /// `PQmx4fs`, or `RaBitQ` for very long rows.
    fn product_code(&self) -> String {
        let width = PART_DIMS.iter().find(|&&width| self.dims.is_multiple_of(width)).unwrap_or(&1);
        match self.dims / width {
            parts @ ..=MAX_PARTS => format!("PQ{parts}x4fs"),
            _ => "RaBitQ".into(),
        }
    }

    /// Lists of rows with this code: the best number for these rows, or fewer where they could not be trained.
    fn lists_of(&self, code: &str) -> Option<FactoryOption> {
        let wanted = LISTS_PER_ROOT * (self.rows as f64).sqrt();
        // Round to a power of two.
        let mut wanted = (1 << wanted.log2().round().max(0.0) as u32).min(MAX_LISTS);
        while wanted > 1 && wanted * TRAINING_ROWS_PER_LIST > self.rows {
            wanted /= 2;
        }
        let coarse =
            if wanted >= MIN_COARSE_GRAPH_LISTS && self.metric != Metric::L1 { "_HNSW32" } else { "" };
        let candidate = |halvings: u32| {
            let lists = (wanted >> halvings).max(1);
            FactoryOption::new(&format!("IVF{lists}{coarse},{code}"), self.dims)
        };
        let mut most = None;
        for halvings in 0..=MAX_HALVINGS {
            let fewer = candidate(halvings)?;
            if self.building_shortage(&fewer).is_none() {
                return Some(fewer);
            }
            most = most.or(Some(fewer));
        }
        most
    }

    /// The first candidate that can be built and cached; else the smallest that can be built; else (the build is going
    /// to be refused for want of memory) the first that can be cached.
    fn best(&self) -> Option<Best> {
        let mut first_shortage = None;
        let (mut buildable, mut cacheable, mut any) = (None, None, None);
        for candidate in self.candidates() {
            let (building, caching) = (self.building_shortage(&candidate), self.cache_shortage(&candidate));
            let (is_buildable, is_cacheable) = (building.is_none(), caching.is_none());
            let Some(shortage) = building.or(caching) else {
                return Some(Best { candidate, first_shortage, fits: true });
            };
            first_shortage.get_or_insert_with(|| shortage.of(&candidate));
            if is_buildable {
                // Candidates are ordered from the largest to the smallest.
                buildable = Some(candidate);
            } else if is_cacheable {
                cacheable.get_or_insert(candidate);
            } else {
                any = Some(candidate);
            }
        }
        Some(Best { candidate: buildable.or(cacheable).or(any)?, first_shortage, fits: false })
    }

    /// Bytes of the whole index as this candidate.
    fn index_bytes(&self, candidate: &FactoryOption) -> u64 {
        self.index_rows.saturating_mul(candidate.recipe.serial_bytes_per_row() + STORED_POINTER_BYTES)
    }

    fn cache_shortage(&self, candidate: &FactoryOption) -> Option<Shortage> {
        let share = self.cache_share(candidate);
        let (needed_bytes, limit_bytes) = (self.index_bytes(candidate), self.memory.cache_bytes / share);
        (needed_bytes > limit_bytes).then_some(Shortage {
            kind: LimitKind::Cache { share },
            needed_bytes,
            limit_bytes,
        })
    }

    /// The candidate's share of the cache is one over this.
    fn cache_share(&self, candidate: &FactoryOption) -> u64 {
        match candidate.recipe.structure {
            Structure::Graph { .. } if self.recall >= HIGH_RECALL => 1,
            _ => CACHE_DIVISOR,
        }
    }

    /// The shortage of memory that would make a build fail.
    fn building_shortage(&self, candidate: &FactoryOption) -> Option<Shortage> {
        let (recipe, memory) = (&candidate.recipe, &self.memory);
        let seen_rows = usize::try_from(self.rows).unwrap_or(usize::MAX);
        let training = recipe.training_rows();
        let trainable_rows = memory.work_bytes.map_or(training.wanted, |bytes| recipe.trainable_rows(bytes));
        let needed = recipe.build_bytes(BuildSize {
            rows: self.rows,
            sample_rows: training.wanted.min(trainable_rows).min(seen_rows),
            // Other kinds are better than one that is trained on few rows.
            least_rows: training.enough().min(seen_rows),
            batch_bytes: memory.batch_bytes as u64,
        });
        let lacks = |kind, needed_bytes, limit: Option<u64>| {
            let limit_bytes = limit.filter(|&limit| needed_bytes > limit)?;
            Some(Shortage { kind, needed_bytes, limit_bytes })
        };
        lacks(LimitKind::Setting, needed.work, memory.work_bytes)
            .or_else(|| lacks(LimitKind::Memory, needed.total, memory.available_bytes))
    }

    fn explain(&self, chosen: &FactoryOption, best: &Best) -> String {
        let size = pretty(self.index_bytes(chosen));
        let verb = if matches!(chosen.recipe.structure, Structure::Lists { .. }) { "take" } else { "takes" };
        let takes = format!("{} {verb} {size}", chosen.name());
        match &best.first_shortage {
            Some(shortage) if best.fits => format!("{shortage}; {takes}"),
            Some(shortage) => format!("{shortage}; {takes}, the least of all"),
            None => {
                let (cache, limit) = (pretty(self.memory.cache_bytes), cache_part(self.cache_share(chosen)));
                format!("{takes}, less than {limit} ({cache})")
            }
        }
    }
}

/// The result of [`Situation::best`].
struct Best {
    candidate: FactoryOption,
    /// The reason why it is not the first candidate.
    first_shortage: Option<String>,
    fits: bool,
}

/// The limit that a candidate exceeds.
#[derive(Clone, Copy)]
enum LimitKind {
    Cache { share: u64 },
    Setting,
    Memory,
}

struct Shortage {
    kind: LimitKind,
    needed_bytes: u64,
    limit_bytes: u64,
}

impl Shortage {
    fn of(&self, candidate: &FactoryOption) -> String {
        let (name, needed, limit) = (candidate.name(), pretty(self.needed_bytes), pretty(self.limit_bytes));
        match self.kind {
            LimitKind::Cache { share } => {
                format!("{name} would take {needed}, and {} is {limit}", cache_part(share))
            }
            LimitKind::Setting => {
                format!(
                    "building {name} takes {needed} beside the index, and maintenance_work_mem is {limit}"
                )
            }
            LimitKind::Memory => {
                format!("building {name} takes {needed}, and {limit} of memory are available")
            }
        }
    }
}

fn cache_part(share: u64) -> &'static str {
    if share == CACHE_DIVISOR { "half of effective_cache_size" } else { "effective_cache_size" }
}

/// A factory string with its recipe.
#[derive(Clone)]
struct FactoryOption {
    factory: String,
    recipe: Recipe,
}

impl FactoryOption {
    /// None where the string does not fit the dimensions.
    fn new(factory: &str, dims: usize) -> Option<Self> {
        Some(Self { factory: factory.to_owned(), recipe: parse(factory, dims).ok()? })
    }

    fn is_coded(&self) -> bool {
        self.recipe.codec != Codec::Flat
    }

    /// Whether both have the same structure and codes, apart from parameters.
    fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(&self.recipe.structure) == std::mem::discriminant(&other.recipe.structure)
            && self.recipe.codec == other.recipe.codec
    }

    fn name(&self) -> String {
        let rows = match self.recipe.codec {
            Codec::Flat => "full vectors",
            Codec::Half => "16-bit floats",
            Codec::Scalar { bits: 16, .. } => "16-bit codes",
            Codec::Scalar { .. } => "8-bit codes",
            _ => "short codes",
        };
        match self.recipe.structure {
            Structure::Scan => format!("a scan of {rows}"),
            Structure::Graph { .. } => format!("a graph of {rows}"),
            Structure::Lists { lists, .. } => format!("{} lists of {rows}", grouped(lists as u64)),
        }
    }
}

/// As PostgreSQL writes sizes (`pg_size_pretty`).
fn pretty(bytes: u64) -> String {
    let (mut size, mut units) = (bytes, ["bytes", "kB", "MB", "GB", "TB"].iter());
    let mut unit = units.next();
    while size >= 10 * 1024
        && let Some(larger) = units.next()
    {
        (size, unit) = ((size + 512) / 1024, Some(larger));
    }
    format!("{size} {}", unit.unwrap_or(&"bytes"))
}

/// A number with commas between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Choice {
    fn scan(reason: &str) -> Self {
        Self { factory: SCAN.to_owned(), reason: reason.to_owned() }
    }
}

#[cfg(test)]
#[path = "auto_choice_tests.rs"]
mod tests;
