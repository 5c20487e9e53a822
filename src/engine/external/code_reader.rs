//! Reads quantisers, and indexes that are plain codes.

use std::ops::Range;

use super::index_reader::{IndexHeader, header};
use super::serial_bytes::{ByteReader, ReadResult, damaged, require, unsupported};
use crate::shim::constants::MAX_PRODUCT_BITS;

/// FAISS's scalar quantiser types (faiss/impl/ScalarQuantizer.h) with their names in factory strings.
const SCALAR_TYPES: [(i32, &str); 7] = [
    (0, "SQ8"),
    (1, "SQ4"),
    (4, "SQfp16"),
    (5, "SQ8_direct"),
    (6, "SQ6"),
    (7, "SQbf16"),
    (8, "SQ8_direct_signed"),
];
const HALF: i32 = 4;
const BRAIN_FLOAT: i32 = 7;
const LAST_RANGE_STATISTIC: i32 = 3;

/// A kind of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExternalCodec {
    Flat,
    Product {
        parts: usize,
        bits: usize,
    },
    /// Fast-scan codes of 4 bits, in blocks of `block` rows.
    Packed {
        parts: usize,
        block: usize,
    },
    Scalar {
        name: &'static str,
        kind: i32,
        bytes: usize,
    },
}

impl ExternalCodec {
    /// The name in a factory string.
    pub fn name(&self) -> String {
        match self {
            ExternalCodec::Flat => "Flat".into(),
            ExternalCodec::Product { parts, bits } => format!("PQ{parts}x{bits}"),
            ExternalCodec::Packed { parts, block: 64 } => format!("PQ{parts}x4fs_64"),
            ExternalCodec::Packed { parts, .. } => format!("PQ{parts}x4fs"),
            ExternalCodec::Scalar { name, .. } => (*name).into(),
        }
    }

    /// Bytes of a row's code.
    pub fn bytes(&self, dims: usize) -> usize {
        match self {
            ExternalCodec::Flat => 4 * dims,
            ExternalCodec::Product { parts, bits } => (parts * bits).div_ceil(8),
            ExternalCodec::Packed { parts, .. } => parts.div_ceil(2),
            ExternalCodec::Scalar { bytes, .. } => *bytes,
        }
    }

    pub fn parts(&self) -> Option<usize> {
        match self {
            ExternalCodec::Product { parts, .. } | ExternalCodec::Packed { parts, .. } => Some(*parts),
            _ => None,
        }
    }

    /// Err if codes that are floats hold values that are not finite or too large.
    pub fn check_codes(&self, reader: &ByteReader, codes: Range<usize>) -> ReadResult<()> {
        match self {
            ExternalCodec::Flat => reader.check_floats(codes),
            ExternalCodec::Scalar { kind: HALF, .. } => reader.check_halves(codes),
            ExternalCodec::Scalar { kind: BRAIN_FLOAT, .. } => reader.check_brain_floats(codes),
            _ => Ok(()),
        }
    }
}

/// An index of plain codes.
pub struct ParsedCodes {
    pub header: IndexHeader,
    pub codec: ExternalCodec,
    /// The range of the codes.
    pub place: Range<usize>,
}

/// Reads the rest of an index of plain codes after its fourcc; None if the fourcc is another type's.
pub fn codes(reader: &mut ByteReader, fourcc: [u8; 4]) -> ReadResult<Option<ParsedCodes>> {
    let known = [b"IxF2", b"IxFI", b"IxFl", b"IxPq", b"IxSQ", b"IPfs"];
    if !known.contains(&&fourcc) {
        return Ok(None);
    }
    let header = header(reader)?;
    let (dims, rows) = (header.dims, header.rows);
    let (codec, place) = match &fourcc {
        b"IxPq" => {
            let codec = product(reader, dims)?;
            let place = reader.vector_of(1, rows * codec.bytes(dims), "bytes of codes")?;
            let (search_type, _, _) = (reader.i32()?, reader.bool()?, reader.i32()?);
            if search_type != 0 {
                return unsupported("its product codes are searched in another way than by distances");
            }
            (codec, place)
        }
        b"IxSQ" => {
            let codec = scalar(reader, dims)?;
            let place = reader.vector_of(1, rows * codec.bytes(dims), "bytes of codes")?;
            (codec, place)
        }
        b"IPfs" => packed(reader, dims, rows)?,
        _ => {
            let metric = match &fourcc {
                b"IxF2" => 1,
                b"IxFI" => 0,
                _ => header.metric,
            };
            require(metric == header.metric, "its metric is not that of its type")?;
            (ExternalCodec::Flat, reader.vector_of(4, rows * dims, "values")?)
        }
    };
    codec.check_codes(reader, place.clone())?;
    Ok(Some(ParsedCodes { header, codec, place }))
}

/// Reads a product quantiser.
pub fn product(reader: &mut ByteReader, dims: usize) -> ReadResult<ExternalCodec> {
    let (width, parts, bits) = (reader.u64()?, reader.u64()?, reader.u64()?);
    require(width == dims as u64, "it has a product quantiser of another dimension")?;
    let parts = usize::try_from(parts).ok().filter(|&parts| parts >= 1 && dims.is_multiple_of(parts));
    let Some(parts) = parts else {
        return damaged("it has a product quantiser with parts of different width");
    };
    if !(1..=MAX_PRODUCT_BITS as u64).contains(&bits) {
        return unsupported(format!("its product quantiser has {bits} bits for each part"));
    }
    reader.floats_of(dims << bits, "values of a product quantiser")?;
    Ok(ExternalCodec::Product { parts, bits: bits as usize })
}

/// Reads a scalar quantiser.
pub fn scalar(reader: &mut ByteReader, dims: usize) -> ReadResult<ExternalCodec> {
    let kind = reader.i32()?;
    let statistic = reader.i32()?;
    let _ = reader.f32()?;
    let (width, bytes) = (reader.u64()?, reader.u64()?);
    let Some(&(_, name)) = SCALAR_TYPES.iter().find(|(known, _)| *known == kind) else {
        return unsupported(format!(
            "its scalar quantiser is of a type (number {kind}) that no factory string makes"
        ));
    };
    let (bits, learns) = match name {
        "SQ8" => (8, true),
        "SQ6" => (6, true),
        "SQ4" => (4, true),
        "SQfp16" | "SQbf16" => (16, false),
        _ => (8, false),
    };
    let expected = (bits * dims).div_ceil(8);
    require(
        (0..=LAST_RANGE_STATISTIC).contains(&statistic) && width == dims as u64 && bytes == expected as u64,
        "it has a scalar quantiser of another dimension",
    )?;
    reader.floats_of(if learns { 2 * dims } else { 0 }, "values of a scalar quantiser")?;
    Ok(ExternalCodec::Scalar { name, kind, bytes: expected })
}

/// Reads fast-scan codes.
fn packed(reader: &mut ByteReader, dims: usize, rows: usize) -> ReadResult<(ExternalCodec, Range<usize>)> {
    let codec = product(reader, dims)?;
    let (kernel, block, query_block) = (reader.i32()?, reader.i32()?, reader.i32()?);
    let (padded_rows, padded_parts) = (reader.u64()?, reader.u64()?);
    let ExternalCodec::Product { parts, bits: 4 } = codec else {
        return damaged("it has fast-scan codes that are not of 4 bits");
    };
    if kernel != 0 || query_block != 0 || !matches!(block, 32 | 64) {
        return unsupported("its fast-scan codes are not in the form that factory strings give them");
    }
    let (block, even_parts) = (block as usize, parts.next_multiple_of(2));
    let filled = rows.next_multiple_of(block);
    require(
        padded_rows == filled as u64 && padded_parts == even_parts as u64,
        "its fast-scan codes do not fit their number",
    )?;
    let place = reader.vector_of(1, filled * even_parts / 2, "bytes of codes")?;
    Ok((ExternalCodec::Packed { parts, block }, place))
}
