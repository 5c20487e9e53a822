//! Indexes that contain others: ids, refinement, transforms, lists, graphs.

use std::ops::Range;

use super::code_reader::{Codec, Codes, codes};
use super::external_index::{ForeignError, List, Stored};
use super::serial_bytes::{Cursor, Read, damaged, require, unsupported};
use super::transform_reader::{Kind, Step};
use crate::engine::{MAX_DIMS, Metric};

/// As in builder.rs.
pub const MAX_ROWS: u64 = i32::MAX as u64;

/// FAISS's metrics (faiss/MetricType.h).
const INNER_PRODUCT: i32 = 0;
const L2: i32 = 1;
const L1: i32 = 2;

/// What every index begins with.
#[derive(Clone, Copy)]
pub struct Header {
    pub dims: usize,
    pub rows: usize,
    pub metric: i32,
}

/// A whole file.
pub struct File {
    /// Where the index is that factory strings make.
    pub range: Range<usize>,
    pub body: Body,
    pub metric: Metric,
    pub labels: Option<Vec<i64>>,
}

/// An index as factory strings make them.
pub struct Body {
    pub header: Header,
    pub factory: String,
    pub stored: Stored,
    pub lists: Option<Vec<List>>,
}

/// Bytes that are changed before FAISS reads them, each with its place.
pub type Patches = Vec<(usize, Vec<u8>)>;

pub struct Walk<'a> {
    pub(super) cursor: Cursor<'a>,
    patches: Patches,
}

/// Reads the beginning of an index.
pub fn header(cursor: &mut Cursor) -> Read<Header> {
    let (dims, rows) = (cursor.i32()?, cursor.u64()?);
    let _ = (cursor.u64()?, cursor.u64()?);
    let is_trained = cursor.bool()?;
    let metric = cursor.i32()?;
    if metric > 1 {
        let _ = cursor.f32()?;
    }
    require(dims >= 1 && rows <= MAX_ROWS, "it has an impossible dimension or row count")?;
    if dims as usize > MAX_DIMS {
        return unsupported(format!("it has {dims} dimensions, and the limit is {MAX_DIMS}"));
    }
    if !(INNER_PRODUCT..=L1).contains(&metric) {
        return unsupported("its metric is none of Euclidean distance, inner product and taxicab distance");
    }
    if !is_trained {
        return unsupported("it is not trained");
    }
    Ok(Header { dims: dims as usize, rows: rows as usize, metric })
}

impl<'a> Walk<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Walk { cursor: Cursor::new(bytes), patches: Vec::new() }
    }

    pub fn into_patches(self) -> Patches {
        self.patches
    }

    /// Notes what is to be written at a place.
    pub(super) fn patch(&mut self, at: usize, value: impl Into<Vec<u8>>) {
        self.patches.push((at, value.into()));
    }

    pub fn file(&mut self, wanted: Option<Metric>) -> Read<File> {
        let fourcc = self.cursor.fourcc()?;
        let is_labelled = matches!(&fourcc, b"IxMp" | b"IxM2");
        let around = if is_labelled { Some(header(&mut self.cursor)?) } else { None };
        let start = self.cursor.at() - if is_labelled { 0 } else { 4 };
        let fourcc = if is_labelled { self.cursor.fourcc()? } else { fourcc };
        let (range, body, metric) = self.prepared(start, fourcc, wanted)?;
        if !metric.accepts(body.header.metric) {
            return unsupported(format!("it was not made for the metric {}", metric.name()));
        }
        let labels = match around {
            Some(around) => {
                check_same(around, body.header)?;
                let place = self.cursor.vector_of(8, around.rows, "ids")?;
                Some((0..around.rows).map(|row| self.cursor.u64_at(&place, row) as i64).collect())
            }
            None => None,
        };
        require(self.cursor.is_done(), "bytes follow behind its end")?;
        Ok(File { range, body, metric, labels })
    }

    /// An index, behind a normalisation that is the business of the metric cosine and not its own.
    fn prepared(
        &mut self,
        start: usize,
        fourcc: [u8; 4],
        wanted: Option<Metric>,
    ) -> Read<(Range<usize>, Body, Metric)> {
        let of_header = |header: Header| match header.metric {
            L2 => Metric::L2,
            L1 => Metric::L1,
            _ => Metric::InnerProduct,
        };
        if &fourcc != b"IxPT" || wanted.is_some_and(|metric| metric != Metric::Cosine) {
            let body = self.refined(fourcc)?;
            let metric = wanted.unwrap_or(of_header(body.header));
            return Ok((start..self.cursor.at(), body, metric));
        }
        let around = header(&mut self.cursor)?;
        let chain = self.chain(around)?;
        let inner = self.cursor.at();
        if chain.len() != 1 || !matches!(chain[0].kind, Kind::Normalise) {
            let body = self.behind(around, &chain)?;
            return Ok((start..self.cursor.at(), body, wanted.unwrap_or(of_header(around))));
        }
        let fourcc = self.cursor.fourcc()?;
        let mut body = self.refined(fourcc)?;
        check_same(around, body.header)?;
        // Graphs over product codes are for Euclidean distance alone: see Recipe::l2_only.
        let is_for_cosine = around.metric == INNER_PRODUCT
            || (around.metric == L2 && body.factory.starts_with("HNSW") && body.factory.contains("_PQ"));
        if wanted.is_none() && !is_for_cosine {
            body.factory.insert_str(0, "L2norm,");
            body.stored = Stored::No;
            return Ok((start..self.cursor.at(), body, of_header(around)));
        }
        Ok((inner..self.cursor.at(), body, Metric::Cosine))
    }

    /// An index, perhaps with finer codes beside it.
    fn refined(&mut self, fourcc: [u8; 4]) -> Read<Body> {
        if &fourcc != b"IxRF" {
            return self.transformed(fourcc);
        }
        let around = header(&mut self.cursor)?;
        let fourcc = self.cursor.fourcc()?;
        let base = self.transformed(fourcc)?;
        let fine = self.codes()?;
        check_same(around, base.header)?;
        check_same(around, fine.header)?;
        let at = self.cursor.at();
        let _ = self.cursor.f32()?;
        self.patch(at, 1f32.to_le_bytes());
        let (factory, stored) = match &fine.codec {
            Codec::Flat => (format!("{},RFlat", base.factory), Stored::At(fine.place.start)),
            codec => (format!("{},Refine({})", base.factory, codec.name()), Stored::No),
        };
        Ok(Body { header: around, factory, stored, lists: base.lists })
    }

    /// An index, perhaps behind transforms.
    fn transformed(&mut self, fourcc: [u8; 4]) -> Read<Body> {
        if &fourcc != b"IxPT" {
            return self.core(fourcc).map(|(body, _)| body);
        }
        let around = header(&mut self.cursor)?;
        let chain = self.chain(around)?;
        self.behind(around, &chain)
    }

    fn behind(&mut self, around: Header, chain: &[Step]) -> Read<Body> {
        let fourcc = self.cursor.fourcc()?;
        let (inner, codec) = self.core(fourcc)?;
        let width = chain.last().map_or(around.dims, |step| step.to);
        require(
            inner.header.dims == width
                && inner.header.rows == around.rows
                && inner.header.metric == around.metric,
            "its transforms do not fit what is behind them",
        )?;
        let mut factory = String::new();
        for step in chain {
            factory += &step.name(&codec);
            factory.push(',');
        }
        let stored = if chain.is_empty() { inner.stored } else { Stored::No };
        Ok(Body { header: around, factory: factory + &inner.factory, stored, lists: inner.lists })
    }

    /// Lists, a graph or plain codes; with the codec.
    fn core(&mut self, fourcc: [u8; 4]) -> Read<(Body, Codec)> {
        match &fourcc {
            b"IwFl" | b"IwPQ" | b"IwPf" | b"IwSq" => self.lists(fourcc),
            b"IHNf" | b"IHNp" | b"IHNs" => self.graph(fourcc),
            _ => {
                let Some(codes) = codes(&mut self.cursor, fourcc)? else {
                    return reason_against(fourcc);
                };
                let stored = match codes.codec {
                    Codec::Flat => Stored::At(codes.place.start),
                    _ => Stored::No,
                };
                let factory = codes.codec.name();
                Ok((Body { header: codes.header, factory, stored, lists: None }, codes.codec))
            }
        }
    }

    pub(super) fn codes(&mut self) -> Read<Codes> {
        let fourcc = self.cursor.fourcc()?;
        match codes(&mut self.cursor, fourcc)? {
            Some(codes) => Ok(codes),
            None => reason_against(fourcc),
        }
    }
}

/// Ids and refinement are of the same rows as what is in them.
pub fn check_same(around: Header, inner: Header) -> Read<()> {
    require(
        around.dims == inner.dims && around.rows == inner.rows && around.metric == inner.metric,
        "its parts are of different dimensions, row counts or metrics",
    )
}

pub fn printable(fourcc: [u8; 4]) -> String {
    fourcc.iter().flat_map(|byte| byte.escape_ascii()).map(char::from).collect()
}

/// Codes that factory strings make, and that are not walked through here.
fn family(fourcc: [u8; 4]) -> Option<&'static str> {
    match &fourcc {
        b"IxHe" | b"IxHE" => Some("LSH codes"),
        b"Ixrq" | b"Iwrq" => Some("RaBitQ codes"),
        b"IxRq" | b"IxLS" | b"IxPR" | b"IxPL" | b"ILfs" | b"IRfs" | b"IPRf" | b"IPLf" | b"IVLf" | b"IVRf"
        | b"NPLf" | b"NPRf" | b"IwLS" | b"IwRQ" | b"IwPL" | b"IwPR" => Some("codes of additive quantisers"),
        _ => None,
    }
}

pub fn reason_against<T>(fourcc: [u8; 4]) -> Read<T> {
    if let Some(family) = family(fourcc) {
        return Err(ForeignError::Family(family));
    }
    unsupported(match &fourcc {
        b"IxMp" | b"IxM2" => "its ids are not around the whole index".to_string(),
        b"IHNc" | b"IHc2" => "it is a graph made by CAGRA: copy it to an IndexHNSWFlat first".to_string(),
        b"IvFl" | b"IvFL" | b"IvPQ" | b"IvQR" | b"IvSQ" | b"IwSQ" | b"IxPQ" | b"IxPo" => {
            "it is in a form that old versions of FAISS wrote: read it and write it again".to_string()
        }
        _ if fourcc.iter().all(u8::is_ascii_graphic) && matches!(fourcc[0], b'I' | b'i') => {
            format!("its type ({}) is not supported", printable(fourcc))
        }
        _ => return damaged("it does not begin as FAISS's files do"),
    })
}
