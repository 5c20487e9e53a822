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
//! `code_grammar.rs` parses `sq`, `pq` and `fs`, and `additive_codec.rs` the rest of the grammar, `additive`.

use super::additive_codec::Additive;
use super::auto_choice::AUTO;
use super::code_grammar::{check_parts, parse_fast_scan, parse_plain_code};
use super::recipe::{Codec, Recipe, Structure, Transform, TransformKind};
use super::refusals::{reason_against, reason_against_code};
use super::spelling;
use crate::{EngineError, MAX_DIMS};

const MAX_BYTES: usize = 1_000;
const MAX_TRANSFORMS: usize = 4;
/// IVF: FAISS holds about 200 bytes for each list, even an empty one.
const MAX_LISTS: usize = 1 << 20;
/// HNSW: links of 512 are 4 KiB a row.
const MAX_LINKS: usize = 512;
/// A matrix costs 4 d^2 bytes and, in LAPACK, d^3 steps that cannot be interrupted.
const MAX_MATRIX_DIMS: usize = 4_096;
/// LSH's random rotation is computed even for an empty index.
const MAX_ROTATED_SIGN_DIMS: usize = 1_024;

pub(super) type Parsed<T> = Result<T, EngineError>;

/// Parses a factory string for rows of `dims` dimensions. A refusal carries the reason and, if there is one, a valid
/// string close to it.
pub(crate) fn parse(factory: &str, dims: usize) -> Parsed<Recipe> {
    if dims == 0 || dims > MAX_DIMS {
        return refuse(format!("vectors must have between 1 and {MAX_DIMS} dimensions, not {dims}"));
    }
    let dims = Some(dims);
    understand(factory, dims).map_err(|error| match error {
        EngineError::Refused { reason, .. } if factory.len() <= MAX_BYTES => {
            let meant = spelling::meant(factory, |other| other == AUTO || understand(other, dims).is_ok());
            EngineError::Refused { reason, meant }
        }
        error => error,
    })
}

/// Parses a factory string for rows of unknown dimensions; None where no dimensions would do. Of the recipe only
/// structure and codecs mean anything.
pub(crate) fn parse_without_dims(factory: &str) -> Option<Recipe> {
    understand(factory, None).ok()
}

/// `dims`: None where they are unknown; then only checks that need none are made.
fn understand(factory: &str, dims: Option<usize>) -> Parsed<Recipe> {
    if factory.len() > MAX_BYTES {
        return refuse(format!("factory string is longer than {MAX_BYTES} bytes"));
    }
    let is_known = |c: char| c.is_ascii_alphanumeric() || ",_()+-.".contains(c);
    if let Some(odd) = factory.find(|c| !is_known(c)) {
        return refuse(format!("factory string contains \"{}\"", odd_part(&factory[odd..])));
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
        inner = dims.map(|_| transform.d_out);
        transforms.push(transform);
        rest = tail;
    }
    let (structure, codec) = parse_core(rest, inner)?;
    Ok(Recipe { dims: dims.unwrap_or_default(), transforms, structure, codec, refine })
}

/// The first character of a text, for a message. Beyond ASCII also those that follow, since several of them may encode
/// one character of the user's.
fn odd_part(text: &str) -> String {
    let beyond_ascii = text.find(|c: char| c.is_ascii()).unwrap_or(text.len());
    match text.chars().next() {
        Some(first) if first.is_ascii() => first.escape_default().to_string(),
        _ => text[..beyond_ascii].to_string(),
    }
}

pub(super) fn refuse<T>(reason: impl Into<String>) -> Parsed<T> {
    Err(EngineError::refused(reason))
}

fn split_refine(factory: &str, dims: Option<usize>) -> Parsed<(&str, Option<Codec>)> {
    if let Some(body) = factory.strip_suffix(",RFlat") {
        return Ok((body, Some(Codec::Flat)));
    }
    let Some((body, inner)) = factory.rsplit_once(",Refine(") else {
        return Ok((factory, None));
    };
    let Some(inner) = inner.strip_suffix(')') else {
        return refuse(
            "Refine(...) must be the last part of a factory string, with one parenthesis on each side",
        );
    };
    match parse_plain_code(inner, dims)? {
        Some(codec) => Ok((body, Some(codec))),
        None => refuse(format!("Refine takes Flat, SQ or PQ codes, not \"{inner}\"")),
    }
}

fn parse_transform(text: &str, dims: Option<usize>) -> Parsed<Option<Transform>> {
    let mut scan = Unread(text);
    let d_in = dims.unwrap_or_default();
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
        check_parts(text, parts, dims.map(|_| d_out))?;
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
    match kind {
        TransformKind::Pad if d_out > MAX_DIMS => {
            return refuse(format!("\"{text}\": rows are padded to at most {MAX_DIMS} dimensions"));
        }
        TransformKind::Pad => {}
        _ if dims.is_some() && (d_out == 0 || d_out > d_in) => {
            return refuse(format!("\"{text}\" must leave between 1 and {d_in} of {d_in} dimensions"));
        }
        _ => {}
    }
    Ok(Some(transform))
}

fn parse_core(text: &str, dims: Option<usize>) -> Parsed<(Structure, Codec)> {
    let mut scan = Unread(text);
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
        let bits = scan.number().or(dims).unwrap_or(1);
        let (rotated, thresholds) = (scan.eat("r"), scan.eat("t"));
        if scan.is_done() {
            return parse_signs(text, bits, rotated, thresholds, dims);
        }
    }
    refuse(reason_against(text))
}

fn parse_signs(
    text: &str,
    bits: usize,
    rotated: bool,
    thresholds: bool,
    dims: Option<usize>,
) -> Parsed<(Structure, Codec)> {
    let dims = dims.unwrap_or(bits);
    if bits == 0 || bits > dims {
        return refuse(format!("\"{text}\": LSH takes between 1 and {dims} bits for {dims} dimensions"));
    }
    if rotated && dims > MAX_ROTATED_SIGN_DIMS {
        return refuse(format!(
            "LSH with a rotation takes at most {MAX_ROTATED_SIGN_DIMS} dimensions, not {dims}"
        ));
    }
    Ok((Structure::Scan, Codec::Signs { bits, rotated, thresholds }))
}

fn parse_graph(text: &str, mut scan: Unread<'_>, dims: Option<usize>) -> Parsed<(Structure, Codec)> {
    let links = parse_links(text, &mut scan)?;
    let code = if scan.is_done() {
        Some(Codec::Flat)
    } else if scan.eat(",") || scan.eat("_") {
        parse_plain_code(scan.0, dims)?
    } else {
        None
    };
    match code {
        Some(codec) => Ok((Structure::Graph { links }, codec)),
        None => {
            refuse(format!("\"{text}\": HNSW takes Flat, SQ or PQ codes, behind a comma, as in HNSW32,SQ8"))
        }
    }
}

fn parse_links(text: &str, scan: &mut Unread<'_>) -> Parsed<usize> {
    let links = scan.number().unwrap_or(32);
    if !(2..=MAX_LINKS).contains(&links) {
        return refuse(format!("\"{text}\": HNSW takes between 2 and {MAX_LINKS} links"));
    }
    Ok(links)
}

fn parse_lists(text: &str, mut scan: Unread<'_>, dims: Option<usize>) -> Parsed<(Structure, Codec)> {
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
        return refuse(format!("\"{text}\": IVF takes between 1 and {MAX_LISTS} lists"));
    }
    let coarse_links = if scan.eat("_HNSW") { Some(parse_links(text, &mut scan)?) } else { None };
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
        None => refuse(reason_against_code(code)),
    }
}

/// The unread rest of a text.
pub(crate) struct Unread<'a>(pub(super) &'a str);

impl Unread<'_> {
    pub(super) fn eat(&mut self, prefix: &str) -> bool {
        match self.0.strip_prefix(prefix) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// A decimal number. Numbers too large to compute with become one that exceeds every limit.
    pub(crate) fn number(&mut self) -> Option<usize> {
        let digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = self.0.split_at(digits);
        self.0 = rest;
        match digits {
            0 => None,
            _ => Some(number.parse().unwrap_or(usize::MAX).min(usize::MAX >> 32)),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn structure_and_codecs_need_no_dimensions() {
        for factory in
            ["PCA64,IVF4k_HNSW,PQ48,RFlat", "LSHrt", "ITQ,LSH", "RR,HNSW,SQ8", "PRQ5x2x8", "OPQ7,PQ7"]
        {
            assert!(parse_without_dims(factory).is_some(), "{factory}");
        }
        for factory in ["NSG32", "IVF4k", "HNSW1", "PQ0", "Flat,Flat", "auto", ""] {
            assert_eq!(parse_without_dims(factory), None, "{factory}");
        }
    }

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
}
