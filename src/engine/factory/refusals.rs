//! Reasons why a part of a factory string is refused, each with an alternative.

/// The reason for a part that the grammar does not have; each of FAISS's other families has its own.
pub(crate) fn reason_against(text: &str) -> String {
    let why = why_not(text).unwrap_or("it is not a FAISS index family that is known here");
    format!("could not use \"{text}\" as an index: {why}")
}

/// The reason for a code after lists.
pub(super) fn reason_against_code(text: &str) -> String {
    let why = if text.starts_with("HNSW") {
        "lists are no graphs; a graph over their centroids is IVFn_HNSW,Flat"
    } else if text.starts_with("LSH") {
        "LSH is a scan without lists; RaBitQ keeps a bit for each dimension as well"
    } else {
        why_not(text).unwrap_or("lists take Flat, SQ, PQ, RaBitQ, RQ, LSQ, PRQ and PLSQ codes")
    };
    format!("could not use \"{text}\" in inverted lists: {why}")
}

/// None for unknown text.
fn why_not(text: &str) -> Option<&'static str> {
    why_not_family(text).or_else(|| why_not_form(text))
}

/// Reasons for families that FAISS has and vekter does not.
fn why_not_family(text: &str) -> Option<&'static str> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| text.starts_with(prefix));
    Some(if text.contains("IDMap") {
        "id maps are not needed: the index keeps track of rows itself"
    } else if text.starts_with('B') {
        "binary indexes do not hold float vectors"
    } else if starts(&["NSG"]) {
        "FAISS builds NSG graphs over all rows in one pass that cannot be cancelled, and copies them into each process \
         that searches; use HNSW"
    } else if text.contains("_NSG") {
        "NSG graphs over centroids are built in a pass that cannot be cancelled; use IVFn_HNSW"
    } else if starts(&["RCQ", "LSCQ"]) {
        "it is a coarse quantiser, which holds no rows; use RQ or LSQ"
    } else if starts(&["IMI"]) {
        "most of the 2^(2b) lists of an inverted multi-index are empty, and each takes memory in every process that \
         searches; use IVFn_HNSW"
    } else if starts(&["Residual"]) {
        "FAISS cannot search two-level codes by themselves; use IVFn,PQm"
    } else if starts(&["ZnLattice"]) {
        "the tables of lattice codes have no bound that is known before they are built; use PQ or RaBitQ"
    } else if starts(&["MinMax"]) {
        "FAISS cannot search codes with a range for each row; use SQ8"
    } else if text == "FlatDedup" {
        "FAISS copies the table of equal rows into each process that searches; use Flat"
    } else if starts(&["ITQ", "PCA"]) && text.contains(",SH") {
        "spectral hash codes in inverted lists are not supported; RaBitQ keeps a bit for each dimension as well"
    } else if starts(&["PQ"]) && text.contains('+') {
        "FAISS copies the refining codes into each process that searches; use PQ with RFlat or Refine(...)"
    } else {
        return None;
    })
}

/// Reasons for families that vekter has, but not in this form.
fn why_not_form(text: &str) -> Option<&'static str> {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| text.starts_with(prefix));
    let head = text.split(',').next().unwrap_or(text);
    Some(if text.is_empty() || text.starts_with(',') || text.ends_with(',') {
        "a part before or behind a comma is empty"
    } else if starts(&["RFlat", "Refine"]) {
        "it refines an index that stands before it, as in IVF1024,PQ48,RFlat"
    } else if text.contains('(') {
        "an index in parentheses is understood in Refine(...) only; for a coarse quantiser use IVFn_HNSWm"
    } else if head == "IVF" {
        "IVF takes the number of its lists, as in IVF1024,Flat"
    } else if starts(&["IVF"]) && !text.contains(',') {
        "behind the lists stands how rows are coded, as in IVF1024,Flat"
    } else if ["PCA", "PCAW", "PCAR", "PCAWR", "Pad", "OPQ", "PQ"].contains(&head) {
        "a number is missing, as in PCA64,Flat or PQ48"
    } else if starts(&["PCA", "ITQ", "OPQ", "RR", "L2norm", "Pad"]) {
        "a transform stands before an index, as in PCA64,IVF1024,Flat"
    } else if text.contains(',') && starts(&["Flat", "SQ", "PQ", "LSH", "RaBitQ"]) {
        "transforms and lists come before codes, and only RFlat or Refine(...) behind them"
    } else if starts(&["SQ"]) {
        "scalar codes are SQ4, SQ6, SQ8, SQfp16, SQbf16, SQ8_direct and SQ8_direct_signed"
    } else if starts(&["PQ"]) && text.contains("fs") {
        "fast scan takes codes of 4 bits, as in PQ48x4fs"
    } else if starts(&["PQ"]) {
        "product codes are PQ48, PQ48x10 or, for fast scan, PQ48x4fs"
    } else if starts(&["LSH"]) {
        "signs are LSH, LSH64, LSHr (rotated), LSHt (with thresholds) or LSH64rt"
    } else if starts(&["RaBitQ"]) {
        "RaBitQ takes no numbers: it keeps a bit for each dimension"
    } else {
        return None;
    })
}

#[cfg(test)]
#[path = "refusals_tests.rs"]
mod tests;
