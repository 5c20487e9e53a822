//! Reads a whole file: ids, refinement, transforms, and the index inside them.

use std::ops::Range;

use super::code_reader::{ExternalCodec, ParsedCodes, codes};
use super::external_index::{ExternalIndexError, StoredList, StoredRows};
use super::serial_bytes::{ByteReader, ReadResult, damaged, require, unsupported};
use super::transform_reader::{ExternalTransform, ExternalTransformKind};
use crate::{MAX_DIMS, Metric, factory};

/// As `MAX_ROWS` in builder.rs.
pub const MAX_ROWS: u64 = i32::MAX as u64;

/// FAISS's metrics (faiss/MetricType.h).
const INNER_PRODUCT: i32 = 0;
const L2: i32 = 1;
const L1: i32 = 2;

/// The header of every index.
#[derive(Clone, Copy)]
pub struct IndexHeader {
    pub dims: usize,
    pub rows: usize,
    pub metric: i32,
}

/// A whole file.
pub struct ParsedFile {
    /// The range of the index, without ids and a normalisation for cosine.
    pub range: Range<usize>,
    pub body: ParsedIndex,
    pub metric: Metric,
    pub labels: Option<Vec<i64>>,
}

/// An index that a factory string can describe.
pub struct ParsedIndex {
    pub header: IndexHeader,
    pub factory: String,
    pub stored: StoredRows,
    pub lists: Option<Vec<StoredList>>,
}

/// Bytes that replace others before FAISS reads them, each with its offset.
pub type Patches = Vec<(usize, Vec<u8>)>;

pub struct IndexReader<'a> {
    pub(super) reader: ByteReader<'a>,
    patches: Patches,
}

/// Reads an index header.
pub fn header(reader: &mut ByteReader) -> ReadResult<IndexHeader> {
    let (dims, rows) = (reader.i32()?, reader.u64()?);
    let _ = (reader.u64()?, reader.u64()?);
    let is_trained = reader.bool()?;
    let metric = reader.i32()?;
    if metric > 1 {
        let _ = reader.f32()?;
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
    Ok(IndexHeader { dims: dims as usize, rows: rows as usize, metric })
}

impl<'a> IndexReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        IndexReader { reader: ByteReader::new(bytes), patches: Vec::new() }
    }

    pub fn into_patches(self) -> Patches {
        self.patches
    }

    /// Records bytes to be written at an offset.
    pub(super) fn patch(&mut self, at: usize, value: impl Into<Vec<u8>>) {
        self.patches.push((at, value.into()));
    }

    pub fn file(&mut self, wanted: Option<Metric>) -> ReadResult<ParsedFile> {
        let fourcc = self.reader.fourcc()?;
        let is_labelled = matches!(&fourcc, b"IxMp" | b"IxM2");
        let around = if is_labelled { Some(header(&mut self.reader)?) } else { None };
        let start = self.reader.at() - if is_labelled { 0 } else { 4 };
        let fourcc = if is_labelled { self.reader.fourcc()? } else { fourcc };
        let (range, body, metric) = self.prepared(start, fourcc, wanted)?;
        if !metric.accepts(body.header.metric) {
            return unsupported(format!("it was not made for the metric {}", metric.name()));
        }
        let labels = match around {
            Some(around) => {
                check_same(around, body.header)?;
                let place = self.reader.vector_of(8, around.rows, "ids")?;
                Some((0..around.rows).map(|row| self.reader.u64_at(&place, row) as i64).collect())
            }
            None => None,
        };
        require(self.reader.is_done(), "bytes follow behind its end")?;
        Ok(ParsedFile { range, body, metric, labels })
    }

    /// Reads an index, perhaps after a normalisation that belongs to the metric cosine instead of the index.
    fn prepared(
        &mut self,
        start: usize,
        fourcc: [u8; 4],
        wanted: Option<Metric>,
    ) -> ReadResult<(Range<usize>, ParsedIndex, Metric)> {
        let of_header = |header: IndexHeader| match header.metric {
            L2 => Metric::L2,
            L1 => Metric::L1,
            _ => Metric::InnerProduct,
        };
        if &fourcc != b"IxPT" || wanted.is_some_and(|metric| metric != Metric::Cosine) {
            let body = self.refined(fourcc)?;
            let metric = wanted.unwrap_or(of_header(body.header));
            return Ok((start..self.reader.at(), body, metric));
        }
        let around = header(&mut self.reader)?;
        let chain = self.chain(around)?;
        let inner = self.reader.at();
        if chain.len() != 1 || !matches!(chain[0].kind, ExternalTransformKind::Normalise) {
            let body = self.behind(around, &chain)?;
            return Ok((start..self.reader.at(), body, wanted.unwrap_or(of_header(around))));
        }
        let fourcc = self.reader.fourcc()?;
        let mut body = self.refined(fourcc)?;
        check_same(around, body.header)?;
        // Graphs over product codes exist for Euclidean distance alone: see Recipe::l2_only.
        let is_l2_only = || factory::parse(&body.factory, around.dims).is_ok_and(|recipe| recipe.l2_only());
        let is_for_cosine = around.metric == INNER_PRODUCT || (around.metric == L2 && is_l2_only());
        if wanted.is_none() && !is_for_cosine {
            body.factory.insert_str(0, "L2norm,");
            body.stored = StoredRows::No;
            return Ok((start..self.reader.at(), body, of_header(around)));
        }
        Ok((inner..self.reader.at(), body, Metric::Cosine))
    }

    /// Reads an index, perhaps with finer codes beside it.
    fn refined(&mut self, fourcc: [u8; 4]) -> ReadResult<ParsedIndex> {
        if &fourcc != b"IxRF" {
            return self.transformed(fourcc);
        }
        let around = header(&mut self.reader)?;
        let fourcc = self.reader.fourcc()?;
        let base = self.transformed(fourcc)?;
        let fine = self.codes()?;
        check_same(around, base.header)?;
        check_same(around, fine.header)?;
        let at = self.reader.at();
        let _ = self.reader.f32()?;
        self.patch(at, 1f32.to_le_bytes());
        let (factory, stored) = match &fine.codec {
            ExternalCodec::Flat => (format!("{},RFlat", base.factory), StoredRows::At(fine.place.start)),
            codec => (format!("{},Refine({})", base.factory, codec.name()), StoredRows::No),
        };
        Ok(ParsedIndex { header: around, factory, stored, lists: base.lists })
    }

    /// Reads an index, perhaps after transforms.
    fn transformed(&mut self, fourcc: [u8; 4]) -> ReadResult<ParsedIndex> {
        if &fourcc != b"IxPT" {
            return self.core(fourcc).map(|(body, _)| body);
        }
        let around = header(&mut self.reader)?;
        let chain = self.chain(around)?;
        self.behind(around, &chain)
    }

    fn behind(&mut self, around: IndexHeader, chain: &[ExternalTransform]) -> ReadResult<ParsedIndex> {
        let fourcc = self.reader.fourcc()?;
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
        let stored = if chain.is_empty() { inner.stored } else { StoredRows::No };
        Ok(ParsedIndex { header: around, factory: factory + &inner.factory, stored, lists: inner.lists })
    }

    /// Reads lists, a graph or plain codes, and returns the codec with the index.
    fn core(&mut self, fourcc: [u8; 4]) -> ReadResult<(ParsedIndex, ExternalCodec)> {
        match &fourcc {
            b"IwFl" | b"IwPQ" | b"IwPf" | b"IwSq" => self.lists(fourcc),
            b"IHNf" | b"IHNp" | b"IHNs" => self.graph(fourcc),
            _ => {
                let Some(codes) = codes(&mut self.reader, fourcc)? else {
                    return reason_against(fourcc);
                };
                let stored = match codes.codec {
                    ExternalCodec::Flat => StoredRows::At(codes.place.start),
                    _ => StoredRows::No,
                };
                let factory = codes.codec.name();
                Ok((ParsedIndex { header: codes.header, factory, stored, lists: None }, codes.codec))
            }
        }
    }

    pub(super) fn codes(&mut self) -> ReadResult<ParsedCodes> {
        let fourcc = self.reader.fourcc()?;
        match codes(&mut self.reader, fourcc)? {
            Some(codes) => Ok(codes),
            None => reason_against(fourcc),
        }
    }
}

/// Err unless an enclosing index has the same rows as the enclosed one.
pub fn check_same(around: IndexHeader, inner: IndexHeader) -> ReadResult<()> {
    require(
        around.dims == inner.dims && around.rows == inner.rows && around.metric == inner.metric,
        "its parts are of different dimensions, row counts or metrics",
    )
}

pub fn printable(fourcc: [u8; 4]) -> String {
    fourcc.iter().flat_map(|byte| byte.escape_ascii()).map(char::from).collect()
}

/// Kinds of codes that factory strings make, and that are not imported.
fn family(fourcc: [u8; 4]) -> Option<&'static str> {
    match &fourcc {
        b"IxHe" | b"IxHE" => Some("LSH codes"),
        b"Ixrq" | b"Iwrq" => Some("RaBitQ codes"),
        b"IxRq" | b"IxLS" | b"IxPR" | b"IxPL" | b"ILfs" | b"IRfs" | b"IPRf" | b"IPLf" | b"IVLf" | b"IVRf"
        | b"NPLf" | b"NPRf" | b"IwLS" | b"IwRQ" | b"IwPL" | b"IwPR" => Some("codes of additive quantisers"),
        _ => None,
    }
}

pub fn reason_against<T>(fourcc: [u8; 4]) -> ReadResult<T> {
    if let Some(family) = family(fourcc) {
        return Err(ExternalIndexError::Family(family));
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
