//! Quantisers, and indexes that are nothing but codes.

use std::ops::Range;

use super::index_reader::{Header, header};
use super::serial_bytes::{Cursor, Read, damaged, require, unsupported};

/// FAISS's enumerations (faiss/impl/ScalarQuantizer.h), and what factory strings call their elements.
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
const MAX_PRODUCT_BITS: u64 = 12;

/// A kind of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Codec {
    Flat,
    Product {
        parts: usize,
        bits: usize,
    },
    /// Of 4 bits, in blocks of so many rows.
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

impl Codec {
    /// As a factory string has it.
    pub fn name(&self) -> String {
        match self {
            Codec::Flat => "Flat".into(),
            Codec::Product { parts, bits } => format!("PQ{parts}x{bits}"),
            Codec::Packed { parts, block: 64 } => format!("PQ{parts}x4fs_64"),
            Codec::Packed { parts, .. } => format!("PQ{parts}x4fs"),
            Codec::Scalar { name, .. } => (*name).into(),
        }
    }

    /// Bytes of a row's code.
    pub fn bytes(&self, dims: usize) -> usize {
        match self {
            Codec::Flat => 4 * dims,
            Codec::Product { parts, bits } => (parts * bits).div_ceil(8),
            Codec::Packed { parts, .. } => parts.div_ceil(2),
            Codec::Scalar { bytes, .. } => *bytes,
        }
    }

    pub fn parts(&self) -> Option<usize> {
        match self {
            Codec::Product { parts, .. } | Codec::Packed { parts, .. } => Some(*parts),
            _ => None,
        }
    }

    /// Err where codes of floats, at this place, are not numbers.
    pub fn check_codes(&self, cursor: &Cursor, codes: Range<usize>) -> Read<()> {
        match self {
            Codec::Flat => cursor.check_floats(codes),
            Codec::Scalar { kind: HALF, .. } => cursor.check_halves(codes),
            Codec::Scalar { kind: BRAIN_FLOAT, .. } => cursor.check_brain_floats(codes),
            _ => Ok(()),
        }
    }
}

/// An index without lists and links.
pub struct Codes {
    pub header: Header,
    pub codec: Codec,
    /// Where the codes are.
    pub place: Range<usize>,
}

/// The index of codes with this fourcc, which was just read.
pub fn codes(cursor: &mut Cursor, fourcc: [u8; 4]) -> Read<Option<Codes>> {
    let known = [b"IxF2", b"IxFI", b"IxFl", b"IxPq", b"IxSQ", b"IPfs"];
    if !known.contains(&&fourcc) {
        return Ok(None);
    }
    let header = header(cursor)?;
    let (dims, rows) = (header.dims, header.rows);
    let (codec, place) = match &fourcc {
        b"IxPq" => {
            let codec = product(cursor, dims)?;
            let place = cursor.vector_of(1, rows * codec.bytes(dims), "bytes of codes")?;
            let (search_type, _, _) = (cursor.i32()?, cursor.bool()?, cursor.i32()?);
            if search_type != 0 {
                return unsupported("its product codes are searched in another way than by distances");
            }
            (codec, place)
        }
        b"IxSQ" => {
            let codec = scalar(cursor, dims)?;
            let place = cursor.vector_of(1, rows * codec.bytes(dims), "bytes of codes")?;
            (codec, place)
        }
        b"IPfs" => packed(cursor, dims, rows)?,
        _ => {
            let metric = match &fourcc {
                b"IxF2" => 1,
                b"IxFI" => 0,
                _ => header.metric,
            };
            require(metric == header.metric, "its metric is not that of its type")?;
            (Codec::Flat, cursor.vector_of(4, rows * dims, "values")?)
        }
    };
    codec.check_codes(cursor, place.clone())?;
    Ok(Some(Codes { header, codec, place }))
}

/// A product quantiser.
pub fn product(cursor: &mut Cursor, dims: usize) -> Read<Codec> {
    let (width, parts, bits) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
    require(width == dims as u64, "it has a product quantiser of another dimension")?;
    let parts = usize::try_from(parts).ok().filter(|&parts| parts >= 1 && dims.is_multiple_of(parts));
    let Some(parts) = parts else {
        return damaged("it has a product quantiser with parts of different width");
    };
    if !(1..=MAX_PRODUCT_BITS).contains(&bits) {
        return unsupported(format!("its product quantiser has {bits} bits for each part"));
    }
    cursor.floats_of(dims << bits, "values of a product quantiser")?;
    Ok(Codec::Product { parts, bits: bits as usize })
}

/// A scalar quantiser.
pub fn scalar(cursor: &mut Cursor, dims: usize) -> Read<Codec> {
    let kind = cursor.i32()?;
    let statistic = cursor.i32()?;
    let _ = cursor.f32()?;
    let (width, bytes) = (cursor.u64()?, cursor.u64()?);
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
    cursor.floats_of(if learns { 2 * dims } else { 0 }, "values of a scalar quantiser")?;
    Ok(Codec::Scalar { name, kind, bytes: expected })
}

/// Fast-scan codes.
fn packed(cursor: &mut Cursor, dims: usize, rows: usize) -> Read<(Codec, Range<usize>)> {
    let codec = product(cursor, dims)?;
    let (kernel, block, query_block) = (cursor.i32()?, cursor.i32()?, cursor.i32()?);
    let (padded_rows, padded_parts) = (cursor.u64()?, cursor.u64()?);
    let Codec::Product { parts, bits: 4 } = codec else {
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
    let place = cursor.vector_of(1, filled * even_parts / 2, "bytes of codes")?;
    Ok((Codec::Packed { parts, block }, place))
}
