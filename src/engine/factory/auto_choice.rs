//! What `factory = 'auto'` stands for: a family and its parameters, chosen by the number of rows, their dimensions, the
//! recall that is asked and the memory there is. Each rule cites the figures of docs/factories.md that it rests on.

use super::build_memory::BuildSize;
use super::grammar::parse;
use super::recipe::{Codec, Recipe, Structure};
use crate::engine::Metric;

/// The factory string that lets the engine choose.
pub const AUTO: &str = "auto";

/// An exact scan.
const SCAN: &str = "Flat";
/// Fewer rows than this are scanned, if they are not longer than others.
const MAX_SCANNED_ROWS: u64 = 10_000;
/// Bytes of floats that are scanned at most, if there are not very few rows: about a millisecond's (10,000 rows of 384
/// dimensions: 1.4 ms).
const MAX_SCANNED_BYTES: u64 = 16 << 20;
/// Fewer rows than this are scanned however long they are: a graph is hardly faster (2,500 rows: 0.13 and 0.07 ms), and
/// not exact.
const MIN_GRAPH_ROWS: u64 = 2_500;
/// Bytes of a row's place in the table, in a stored segment.
const STORED_POINTER_BYTES: u64 = 6;
/// The part of the cache that one index may take: its table wants some of it too, and so do others.
const CACHE_SHARE: u64 = 2;
/// From this recall on a graph may take all of it: lists reach that only if a fifth of them or more is read
/// (`IVF1024,SQ8` of 192 lists: under 0.99), a graph at a third of its speed at 0.95.
const HIGH_RECALL: f64 = 0.99;
/// Lists for the square root of the rows.
const LISTS_PER_ROOT: f64 = 4.0;
/// FAISS's least, below which k-means warns (`min_points_per_centroid`, faiss/Clustering.h).
const TRAINING_ROWS_PER_LIST: u64 = 39;
/// More than this cannot be trained on as many rows as FAISS wants at least, of those that are ever sampled.
const MAX_LISTS: u64 = 16_384;
/// From so many lists on a graph finds them faster than a scan of their centroids does.
const MIN_COARSE_GRAPH_LISTS: u64 = 8_192;
/// How often lists are halved so that they can be trained within the memory that there is.
const MAX_HALVINGS: u32 = 3;
/// Dimensions in one part of a product code; 4 lose little (`IVF512,PQ96x4fs` of 384 dimensions: 0.964 of 0.966).
const PART_DIMS: [usize; 8] = [4, 5, 6, 7, 8, 3, 2, 1];
/// FAISS sums a row's parts in 16 bits: of more parts than this, too little is left for each.
const MAX_PARTS: usize = 1_024;
/// What was chosen stays while it would be right for so much less or more of everything.
const TOLERANCE: [(u64, u64); 3] = [(1, 1), (2, 3), (3, 2)];

/// The memory that there is for an index.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// What the system is thought to keep of tables and indexes in memory (`effective_cache_size`).
    pub cache_bytes: u64,
    /// What a build may take beside the index (`maintenance_work_mem`); None: as much as there is.
    pub work_bytes: Option<u64>,
    /// What one process can have; None: unknown.
    pub available_bytes: Option<u64>,
    /// Of rows that are handed over in one go.
    pub batch_bytes: usize,
}

/// What a choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// Of the segment that is going to be made,
    pub rows: u64,
    /// and of the whole index, whose segments share the cache.
    pub index_rows: u64,
    pub dims: usize,
    pub metric: Metric,
    /// The recall that is asked of the index, up to 1.
    pub recall: f64,
    pub memory: Memory,
}

/// A factory string, and why it is that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub factory: String,
    /// For a person; what stands before it names the rows.
    pub reason: String,
}

/// Fewer rows than this are scanned.
pub fn scanned_rows(dims: usize) -> u64 {
    (MAX_SCANNED_BYTES / (4 * dims.max(1) as u64)).clamp(MIN_GRAPH_ROWS, MAX_SCANNED_ROWS)
}

/// Why they are.
pub fn scan_reason(dims: usize) -> String {
    format!("fewer than {} are scanned, which is exact", grouped(scanned_rows(dims)))
}

impl Situation {
    /// What is best now.
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
            None => Choice::scan("there is no other index of such rows"),
        }
    }

    /// What is best where there are segments already: `merged` is the factory string of the largest segment that is
    /// merged, `present` that of the largest in the index. A kind stays, with its parameters unless it is trained anew,
    /// until another is clearly better; and codes do not become vectors again, which only the table has.
    pub fn choose_again(&self, merged: &str, present: &str, trains_anew: bool) -> Choice {
        let choice = self.choose();
        // What inserts are sealed as was not chosen.
        let before = if merged == SCAN { present } else { merged };
        let scans_little = choice.factory == SCAN && merged == SCAN;
        if before == SCAN || scans_little || self.recall >= 1.0 {
            return choice;
        }
        let (Some(before), Some(best)) =
            (Candidate::new(before, self.dims), Candidate::new(&choice.factory, self.dims))
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
            Candidate::new(&choice.factory, self.dims).is_some_and(|other| other.is_like(&before))
        };
        if TOLERANCE.iter().any(|&part| is_like_before(self.scaled(part).choose())) {
            return keep("the rows are not clearly too many or too few for it");
        }
        match before.is_coded() && !best.is_coded() {
            true => keep("only REINDEX makes vectors of codes"),
            false => choice,
        }
    }

    fn scaled(&self, (times, of): (u64, u64)) -> Self {
        Self { rows: self.rows * times / of, index_rows: self.index_rows * times / of, ..*self }
    }

    /// From the fastest to the smallest.
    fn candidates(&self) -> Vec<Candidate> {
        let (graphs, codes): (&[&str], Vec<String>) = match self.metric {
            Metric::L1 => (&["HNSW32"], vec!["Flat".into()]),
            _ => (&["HNSW32", "HNSW32,SQbf16", "HNSW32,SQ8"], vec!["SQ8".into(), self.product_code()]),
        };
        let graphs = graphs.iter().filter_map(|graph| Candidate::new(graph, self.dims));
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

    /// Lists of rows coded so: as many as are good for their number, or fewer where they could not be trained.
    fn lists_of(&self, code: &str) -> Option<Candidate> {
        let wanted = LISTS_PER_ROOT * (self.rows as f64).sqrt();
        // To a power of two.
        let mut wanted = (1 << wanted.log2().round().max(0.0) as u32).min(MAX_LISTS);
        while wanted > 1 && wanted * TRAINING_ROWS_PER_LIST > self.rows {
            wanted /= 2;
        }
        let coarse =
            if wanted >= MIN_COARSE_GRAPH_LISTS && self.metric != Metric::L1 { "_HNSW32" } else { "" };
        let candidate = |halvings: u32| {
            let lists = (wanted >> halvings).max(1);
            Candidate::new(&format!("IVF{lists}{coarse},{code}"), self.dims)
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

    /// The first candidate that can be built and kept; or the smallest that can be built; or, since a build is going to
    /// be refused with what it lacks, the first that can be kept.
    fn best(&self) -> Option<Best> {
        let mut first_shortage = None;
        let (mut buildable, mut keepable, mut any) = (None, None, None);
        for candidate in self.candidates() {
            let (building, keeping) = (self.building_shortage(&candidate), self.keeping_shortage(&candidate));
            let (is_buildable, is_keepable) = (building.is_none(), keeping.is_none());
            let Some(shortage) = building.or(keeping) else {
                return Some(Best { candidate, first_shortage, fits: true });
            };
            first_shortage.get_or_insert_with(|| shortage.of(&candidate));
            if is_buildable {
                // They come from the largest to the smallest.
                buildable = Some(candidate);
            } else if is_keepable {
                keepable.get_or_insert(candidate);
            } else {
                any = Some(candidate);
            }
        }
        Some(Best { candidate: buildable.or(keepable).or(any)?, first_shortage, fits: false })
    }

    /// Bytes of the whole index, if it is such.
    fn kept_bytes(&self, candidate: &Candidate) -> u64 {
        self.index_rows.saturating_mul(candidate.recipe.serial_bytes_per_row() + STORED_POINTER_BYTES)
    }

    fn keeping_shortage(&self, candidate: &Candidate) -> Option<Shortage> {
        let share = self.cache_share(candidate);
        let (needed_bytes, limit_bytes) = (self.kept_bytes(candidate), self.memory.cache_bytes / share);
        (needed_bytes > limit_bytes).then_some(Shortage {
            of: Lack::Cache { share },
            needed_bytes,
            limit_bytes,
        })
    }

    /// The part of the cache that it may take: one over this.
    fn cache_share(&self, candidate: &Candidate) -> u64 {
        match candidate.recipe.structure {
            Structure::Graph { .. } if self.recall >= HIGH_RECALL => 1,
            _ => CACHE_SHARE,
        }
    }

    /// As a build would be refused for.
    fn building_shortage(&self, candidate: &Candidate) -> Option<Shortage> {
        let (recipe, memory) = (&candidate.recipe, &self.memory);
        let seen_rows = usize::try_from(self.rows).unwrap_or(usize::MAX);
        let training = recipe.training_rows();
        let trainable_rows = memory.work_bytes.map_or(training.wanted, |bytes| recipe.trainable_rows(bytes));
        let needed = recipe.build_bytes(BuildSize {
            rows: self.rows,
            sample_rows: training.wanted.min(trainable_rows).min(seen_rows),
            // It has other kinds to choose from than one that learns from little.
            least_rows: training.enough().min(seen_rows),
            batch_bytes: memory.batch_bytes as u64,
        });
        let lacks = |of, needed_bytes, limit: Option<u64>| {
            let limit_bytes = limit.filter(|&limit| needed_bytes > limit)?;
            Some(Shortage { of, needed_bytes, limit_bytes })
        };
        lacks(Lack::Setting, needed.work, memory.work_bytes)
            .or_else(|| lacks(Lack::Memory, needed.total, memory.available_bytes))
    }

    fn explain(&self, chosen: &Candidate, best: &Best) -> String {
        let size = pretty(self.kept_bytes(chosen));
        let verb = if matches!(chosen.recipe.structure, Structure::Lists { .. }) { "take" } else { "takes" };
        let takes = format!("{} {verb} {size}", chosen.name());
        match &best.first_shortage {
            Some(shortage) if best.fits => format!("{shortage}; {takes}"),
            Some(shortage) => format!("{shortage}; {takes}, the least there is"),
            None => {
                let (cache, limit) = (pretty(self.memory.cache_bytes), cache_part(self.cache_share(chosen)));
                format!("{takes}, less than {limit} ({cache})")
            }
        }
    }
}

/// What comes out of going through the candidates.
struct Best {
    candidate: Candidate,
    /// Why it is not the first of them.
    first_shortage: Option<String>,
    fits: bool,
}

/// What there is too little of for a candidate.
#[derive(Clone, Copy)]
enum Lack {
    Cache { share: u64 },
    Setting,
    Memory,
}

struct Shortage {
    of: Lack,
    needed_bytes: u64,
    limit_bytes: u64,
}

impl Shortage {
    fn of(&self, candidate: &Candidate) -> String {
        let (name, needed, limit) = (candidate.name(), pretty(self.needed_bytes), pretty(self.limit_bytes));
        match self.of {
            Lack::Cache { share } => {
                format!("{name} would take {needed}, and {} is {limit}", cache_part(share))
            }
            Lack::Setting => {
                format!("to build {name} takes {needed} beside it, and maintenance_work_mem allows {limit}")
            }
            Lack::Memory => format!("to build {name} takes {needed}, and {limit} of memory are available"),
        }
    }
}

fn cache_part(share: u64) -> &'static str {
    if share == CACHE_SHARE { "half of effective_cache_size" } else { "effective_cache_size" }
}

/// A factory string, understood.
#[derive(Clone)]
struct Candidate {
    factory: String,
    recipe: Recipe,
}

impl Candidate {
    /// None: it does not fit so many dimensions.
    fn new(factory: &str, dims: usize) -> Option<Self> {
        Some(Self { factory: factory.to_owned(), recipe: parse(factory, dims).ok()? })
    }

    fn is_coded(&self) -> bool {
        self.recipe.codec != Codec::Flat
    }

    /// The same structure over the same codes, whatever its parameters.
    fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(&self.recipe.structure) == std::mem::discriminant(&other.recipe.structure)
            && self.recipe.codec == other.recipe.codec
    }

    fn name(&self) -> String {
        let rows = match self.recipe.codec {
            Codec::Flat => "full vectors",
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
