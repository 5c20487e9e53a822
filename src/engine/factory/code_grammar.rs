//! The part of a factory string that names the code of a row: scalar and product quantisers, and fast scan.

use super::grammar::{Parsed, Unread, refuse};
use super::recipe::Codec;
use crate::shim::constants::MAX_PRODUCT_BITS;

/// The grammar's `Flat`, `sq` and `pq`; None for anything else.
pub(super) fn parse_plain_code(text: &str, dims: Option<usize>) -> Parsed<Option<Codec>> {
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

fn parse_product(text: &str, dims: Option<usize>) -> Parsed<Option<Codec>> {
    let mut scan = Unread(text);
    if !scan.eat("PQ") {
        return Ok(None);
    }
    let Some(parts) = scan.number() else {
        return Ok(None);
    };
    let bits = if scan.eat("x") { scan.number() } else { Some(8) };
    let (Some(bits), is_unordered, true) = (bits, scan.eat("np"), scan.is_done()) else {
        return Ok(None);
    };
    check_parts(text, parts, dims)?;
    if !(1..=MAX_PRODUCT_BITS).contains(&bits) {
        return refuse(format!("\"{text}\": PQ takes between 1 and {MAX_PRODUCT_BITS} bits for each part"));
    }
    Ok(Some(Codec::Product { parts, bits, polysemous: !is_unordered }))
}

pub(super) fn parse_fast_scan(text: &str, dims: Option<usize>, in_lists: bool) -> Parsed<Option<Codec>> {
    let mut scan = Unread(text);
    if !scan.eat("PQ") {
        return Ok(None);
    }
    let Some(parts) = scan.number() else {
        return Ok(None);
    };
    if !scan.eat("x4fs") {
        return Ok(None);
    }
    if scan.eat("r") && !in_lists {
        let reason = "\"r\" is for residuals to the centroids of lists";
        return refuse(format!("\"{text}\": {reason}; use PQ{parts}x4fs, or IVFn,PQ{parts}x4fsr"));
    }
    // Blocks of 32 codes are FAISS's default; the kernels of other sizes are rarely used.
    let block = scan.eat("_32") || (!in_lists && scan.eat("_64"));
    if !scan.is_done() {
        return if block || !scan.0.starts_with('_') {
            Ok(None)
        } else {
            refuse(format!("\"{text}\": fast scan takes blocks of 32 codes, as in PQ{parts}x4fs"))
        };
    }
    check_parts(text, parts, dims)?;
    Ok(Some(Codec::FastScan { parts }))
}

/// Err unless `parts` divides the dimensions; the error names the nearest numbers that do.
pub(super) fn check_parts(text: &str, parts: usize, dims: Option<usize>) -> Parsed<()> {
    if parts == 0 {
        return refuse(format!("\"{text}\": a vector is divided into 1 part at least"));
    }
    let Some(dims) = dims.filter(|dims| !dims.is_multiple_of(parts)) else {
        return Ok(());
    };
    let divides = |number: &usize| dims.is_multiple_of(*number);
    let below = (1..=dims.min(parts)).rev().find(divides);
    let above = (parts..=dims).find(divides);
    let others = match (below, above) {
        (Some(below), Some(above)) => format!("{below} and {above} are"),
        (one, other) => format!("{} is", one.or(other).unwrap_or(dims)),
    };
    refuse(format!("\"{text}\": {parts} is not a divisor of {dims} dimensions; {others}"))
}
