//! Factory strings: which ones reach FAISS.
//!
//! `faiss::index_factory` matches regular expressions, converts whatever digits it finds, recurses as deep as the
//! string nests, and allocates what the numbers say; some strings abort the process. So the engine reads a string by
//! its own grammar first and passes on only what it understood and found within limits:
//!
//! ```text
//! factory   = {transform ","} core ["," refine]
//! transform = PCA[W][R]n | ITQ[n] | OPQm[_n] | RR[n] | L2norm | Padn
//! core      = code | HNSW[m][("," | "_") (Flat | sq | pq)]
//!           | IVFn[k|M][_HNSW[m]] "," (Flat | sq | pq | fs | RaBitQ | additive)
//! code      = Flat | sq | pq | fs[_32|_64] | LSH[n][r][t] | RaBitQ | additive
//! sq        = SQ4 | SQ6 | SQ8 | SQfp16 | SQbf16 | SQ8_direct | SQ8_direct_signed
//! pq        = PQm[xn][np]
//! fs        = PQmx4fs[r][_32]
//! refine    = RFlat | Refine((Flat | sq | pq))
//! ```
//!
//! What `additive` is, additive.rs tells.

use super::EngineError;
use super::MAX_DIMS;
use super::additive::Additive;
use super::recipe::{Codec, Recipe, Structure, Transform, TransformKind};

const MAX_BYTES: usize = 1_000;
const MAX_TRANSFORMS: usize = 4;
/// IVF: FAISS holds about 200 bytes for each list before the first row comes.
const MAX_LISTS: usize = 1 << 20;
/// HNSW: links of 512 are 4 KiB a row.
const MAX_LINKS: usize = 512;
/// PQ: 2^12 centroids in each subspace; FAISS takes more, at training times of hours.
const MAX_PRODUCT_BITS: usize = 12;
/// Transforms by a matrix cost d^2 bytes and, in LAPACK, d^3 steps without a place to stop.
const MAX_MATRIX_DIMS: usize = 4_096;
/// LSH's random rotation is made before the first row comes.
const MAX_ROTATED_SIGN_DIMS: usize = 1_024;

type Parsed<T> = Result<T, EngineError>;

/// Understands a factory string for rows of `dims` dimensions, or says why not.
pub(super) fn parse(factory: &str, dims: usize) -> Parsed<Recipe> {
    if dims == 0 || dims > MAX_DIMS {
        return refuse(format!("vectors must have between 1 and {MAX_DIMS} dimensions, not {dims}"));
    }
    if factory.len() > MAX_BYTES {
        return refuse(format!("factory string is longer than {MAX_BYTES} bytes"));
    }
    if let Some(odd) = factory.chars().find(|c| !(c.is_ascii_alphanumeric() || ",_()+-.".contains(*c))) {
        return refuse(format!("factory string contains {odd:?}"));
    }
    let (body, refine) = split_refine(factory, dims)?;
    let mut transforms: Vec<Transform> = Vec::new();
    let mut rest = body;
    let mut inner = dims;
    while let Some((head, tail)) = rest.split_once(',') {
        let Some(transform) = parse_transform(head, inner)? else {
            break;
        };
        if transforms.len() == MAX_TRANSFORMS {
            return refuse(format!("more than {MAX_TRANSFORMS} transforms before the index"));
        }
        inner = transform.d_out;
        transforms.push(transform);
        rest = tail;
    }
    let (structure, codec) = parse_core(rest, inner)?;
    Ok(Recipe { dims, transforms, structure, codec, refine })
}

fn refuse<T>(reason: impl Into<String>) -> Parsed<T> {
    Err(EngineError::refused(reason))
}

fn split_refine(factory: &str, dims: usize) -> Parsed<(&str, Option<Codec>)> {
    if let Some(body) = factory.strip_suffix(",RFlat") {
        return Ok((body, Some(Codec::Flat)));
    }
    let Some((body, inner)) = factory.rsplit_once(",Refine(") else {
        return Ok((factory, None));
    };
    let Some(inner) = inner.strip_suffix(')') else {
        return refuse("Refine(...) must be the last part of a factory string");
    };
    match parse_plain_code(inner, dims)? {
        Some(codec) => Ok((body, Some(codec))),
        None => refuse(format!("Refine takes Flat, SQ or PQ codes, not \"{inner}\"")),
    }
}

fn parse_transform(text: &str, d_in: usize) -> Parsed<Option<Transform>> {
    let mut scan = Scan(text);
    let (kind, d_out) = if scan.eat("PCA") {
        let _ = (scan.eat("W"), scan.eat("R"));
        let Some(d_out) = scan.number() else {
            return Ok(None);
        };
        (TransformKind::Pca, d_out)
    } else if scan.eat("ITQ") {
        (TransformKind::Itq, scan.number().unwrap_or(d_in))
    } else if scan.eat("OPQ") {
        let Some(parts) = scan.number() else {
            return Ok(None);
        };
        let d_out = if scan.eat("_") { scan.number() } else { Some(d_in) };
        let Some(d_out) = d_out else { return Ok(None) };
        if parts == 0 || !d_out.is_multiple_of(parts) {
            return refuse(format!("OPQ{parts} does not divide {d_out} dimensions into equal parts"));
        }
        (TransformKind::Opq { parts }, d_out)
    } else if scan.eat("RR") {
        (TransformKind::RandomRotation, scan.number().unwrap_or(d_in))
    } else if scan.eat("L2norm") || scan.eat("L2Norm") {
        (TransformKind::Normalise, d_in)
    } else if scan.eat("Pad") {
        let Some(d_out) = scan.number() else {
            return Ok(None);
        };
        (TransformKind::Pad, d_out.max(d_in))
    } else {
        return Ok(None);
    };
    if !scan.is_done() {
        return Ok(None);
    }
    let transform = Transform { kind, d_in, d_out };
    if transform.is_matrix() && d_in.max(d_out) > MAX_MATRIX_DIMS {
        return refuse(format!("\"{text}\" transforms {d_in} dimensions; the limit is {MAX_MATRIX_DIMS}"));
    }
    if d_out == 0 || d_out > if kind == TransformKind::Pad { MAX_DIMS } else { d_in } {
        return refuse(format!("\"{text}\" does not fit vectors of {d_in} dimensions"));
    }
    Ok(Some(transform))
}

fn parse_core(text: &str, dims: usize) -> Parsed<(Structure, Codec)> {
    let mut scan = Scan(text);
    if scan.eat("HNSW") {
        return parse_graph(text, scan, dims);
    }
    if scan.eat("IVF") {
        return parse_lists(text, scan, dims);
    }
    if let Some(codec) = parse_plain_code(text, dims)? {
        return Ok((Structure::Scan, codec));
    }
    if let Some(codec) = parse_fast_scan(text, dims, false)? {
        return Ok((Structure::Scan, codec));
    }
    if text == "RaBitQ" {
        return Ok((Structure::Scan, Codec::RaBitQ));
    }
    if let Some(additive) = Additive::parse(text, dims, false)? {
        return Ok((Structure::Scan, Codec::Additive(additive)));
    }
    if scan.eat("LSH") {
        let bits = scan.number().unwrap_or(dims);
        let (rotated, thresholds) = (scan.eat("r"), scan.eat("t"));
        if scan.is_done() {
            return parse_signs(bits, rotated, thresholds, dims);
        }
    }
    refuse(reason_against(text))
}

fn parse_signs(bits: usize, rotated: bool, thresholds: bool, dims: usize) -> Parsed<(Structure, Codec)> {
    if bits == 0 || bits > dims {
        return refuse(format!("LSH takes between 1 and {dims} bits for {dims} dimensions, not {bits}"));
    }
    if rotated && dims > MAX_ROTATED_SIGN_DIMS {
        return refuse(format!(
            "LSH with a rotation takes at most {MAX_ROTATED_SIGN_DIMS} dimensions, not {dims}"
        ));
    }
    Ok((Structure::Scan, Codec::Signs { bits, rotated, thresholds }))
}

fn parse_graph(text: &str, mut scan: Scan<'_>, dims: usize) -> Parsed<(Structure, Codec)> {
    let links = parse_links(&mut scan)?;
    let code = if scan.is_done() {
        Some(Codec::Flat)
    } else if scan.eat(",") || scan.eat("_") {
        parse_plain_code(scan.0, dims)?
    } else {
        None
    };
    match code {
        Some(codec) => Ok((Structure::Graph { links }, codec)),
        None => refuse(format!("\"{text}\": HNSW takes Flat, SQ or PQ codes")),
    }
}

fn parse_links(scan: &mut Scan<'_>) -> Parsed<usize> {
    let links = scan.number().unwrap_or(32);
    if !(2..=MAX_LINKS).contains(&links) {
        return refuse(format!("HNSW takes between 2 and {MAX_LINKS} links, not {links}"));
    }
    Ok(links)
}

fn parse_lists(text: &str, mut scan: Scan<'_>, dims: usize) -> Parsed<(Structure, Codec)> {
    let Some(count) = scan.number() else {
        return refuse(reason_against(text));
    };
    let unit = if scan.eat("k") {
        1 << 10
    } else if scan.eat("M") {
        1 << 20
    } else {
        1
    };
    let lists = count.saturating_mul(unit);
    if lists == 0 || lists > MAX_LISTS {
        return refuse(format!("IVF takes between 1 and {MAX_LISTS} lists, not {lists}"));
    }
    let coarse_links = if scan.eat("_HNSW") { Some(parse_links(&mut scan)?) } else { None };
    if !scan.eat(",") {
        return refuse(reason_against(text));
    }
    let code = scan.0;
    let codec = match parse_plain_code(code, dims)? {
        Some(codec) => Some(codec),
        None if code == "RaBitQ" => Some(Codec::RaBitQ),
        None => match parse_fast_scan(code, dims, true)? {
            Some(codec) => Some(codec),
            None => Additive::parse(code, dims, true)?.map(Codec::Additive),
        },
    };
    match codec {
        Some(codec) => Ok((Structure::Lists { lists, coarse_links }, codec)),
        None => refuse(reason_against(code)),
    }
}

/// `Flat`, `sq` or `pq` of the grammar.
fn parse_plain_code(text: &str, dims: usize) -> Parsed<Option<Codec>> {
    let codec = match text {
        "Flat" => Codec::Flat,
        "SQ4" => Codec::Scalar { bits: 4, learns: true },
        "SQ6" => Codec::Scalar { bits: 6, learns: true },
        "SQ8" => Codec::Scalar { bits: 8, learns: true },
        "SQfp16" => Codec::Half,
        "SQbf16" => Codec::Scalar { bits: 16, learns: false },
        "SQ8_direct" | "SQ8_direct_signed" => Codec::Scalar { bits: 8, learns: false },
        _ => return parse_product(text, dims),
    };
    Ok(Some(codec))
}

fn parse_product(text: &str, dims: usize) -> Parsed<Option<Codec>> {
    let mut scan = Scan(text);
    if !scan.eat("PQ") {
        return Ok(None);
    }
    let Some(parts) = scan.number() else {
        return Ok(None);
    };
    let bits = if scan.eat("x") { scan.number() } else { Some(8) };
    let (Some(bits), _, true) = (bits, scan.eat("np"), scan.is_done()) else {
        return Ok(None);
    };
    check_parts(parts, dims)?;
    if !(1..=MAX_PRODUCT_BITS).contains(&bits) {
        return refuse(format!("PQ takes between 1 and {MAX_PRODUCT_BITS} bits for each part, not {bits}"));
    }
    Ok(Some(Codec::Product { parts, bits }))
}

fn parse_fast_scan(text: &str, dims: usize, in_lists: bool) -> Parsed<Option<Codec>> {
    let mut scan = Scan(text);
    if !scan.eat("PQ") {
        return Ok(None);
    }
    let Some(parts) = scan.number() else {
        return Ok(None);
    };
    if !scan.eat("x4fs") {
        return Ok(None);
    }
    let _ = in_lists && scan.eat("r");
    // Blocks of 32 codes are FAISS's default; other sizes go through kernels that are seldom used.
    let block = scan.eat("_32") || (!in_lists && scan.eat("_64"));
    if !scan.is_done() {
        return if block {
            Ok(None)
        } else {
            refuse(format!("\"{text}\": fast scan takes blocks of 32 codes"))
        };
    }
    check_parts(parts, dims)?;
    Ok(Some(Codec::FastScan { parts }))
}

fn check_parts(parts: usize, dims: usize) -> Parsed<()> {
    if parts == 0 || !dims.is_multiple_of(parts) {
        return refuse(format!(
            "PQ{parts} does not fit {dims} dimensions: the number of dimensions must be a multiple of {parts}"
        ));
    }
    Ok(())
}

/// Why a part that the grammar does not know is refused: FAISS's other families each have a reason.
fn reason_against(text: &str) -> String {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| text.starts_with(prefix));
    let why = if text.contains("IDMap") {
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
    } else if text.contains('(') {
        "an index in parentheses is understood in Refine(...) only; for a coarse quantiser use IVFn_HNSWm"
    } else {
        "it is not a FAISS index family that is known here"
    };
    format!("could not use \"{text}\" as an index: {why}")
}

/// What is left of a text that is being read.
pub(super) struct Scan<'a>(pub(super) &'a str);

impl Scan<'_> {
    pub(super) fn eat(&mut self, prefix: &str) -> bool {
        match self.0.strip_prefix(prefix) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// Decimal digits; what has more than nine is as good as the largest number, which no limit lets through.
    pub(super) fn number(&mut self) -> Option<usize> {
        let digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = self.0.split_at(digits);
        self.0 = rest;
        match digits {
            0 => None,
            1..=9 => number.parse().ok(),
            _ => Some(usize::MAX >> 32),
        }
    }

    fn is_done(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_composite_string_is_understood_part_by_part() {
        let recipe = parse("OPQ16_64,IVF4k_HNSW,PQ16x4fs,RFlat", 384).unwrap();
        assert_eq!(recipe.transforms.len(), 1);
        assert_eq!(recipe.inner_dims(), 64);
        assert_eq!(recipe.structure, Structure::Lists { lists: 4096, coarse_links: Some(32) });
        assert_eq!(recipe.codec, Codec::FastScan { parts: 16 });
        assert_eq!(recipe.refine, Some(Codec::Flat));
        assert_eq!(recipe.training_rows().min, 4096);
        assert_eq!(recipe.training_rows().wanted, 1 << 20);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let reason = |factory: &str, dims| parse(factory, dims).unwrap_err().to_string();
        assert!(reason("PQ7", 384).contains("multiple of 7"));
        assert!(reason("IVF100000000,Flat", 384).contains("100000000"));
        assert!(reason("HNSW100000", 384).contains("512"));
        assert!(reason("PQ8x64", 384).contains("12 bits"));
        assert!(reason("PCA64,Flat", 32).contains("32 dimensions"));
        assert!(reason("LSH128", 64).contains("64 bits"));
        assert!(reason("IDMap2,Flat", 64).contains("id maps"));
        assert!(reason("BIVF16", 64).contains("binary"));
        assert!(reason("NSG32", 64).contains("HNSW"));
        assert!(reason("LSQ64x8", 64).contains("PLSQ"));
        assert!(reason("Flut", 64).contains("Flut"));
        assert!(reason("Fl\0at", 64).contains("\\0"));
        assert!(reason(&"Flat,".repeat(300), 64).contains("1000 bytes"));
        assert!(reason("Flat", 0).contains("16000"));
    }
}
