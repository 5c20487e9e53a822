//! Reads transforms before an index.

use super::code_reader::ExternalCodec;
use super::external_index::ExternalIndexError;
use super::index_reader::{IndexHeader, IndexReader, printable};
use super::serial_bytes::{ReadResult, require, unsupported};
use crate::MAX_DIMS;

const MAX_TRANSFORMS: i32 = 8;

impl IndexReader<'_> {
    pub(super) fn chain(&mut self, around: IndexHeader) -> ReadResult<Vec<ExternalTransform>> {
        let count = self.reader.i32()?;
        require((0..=MAX_TRANSFORMS).contains(&count), "it has an impossible number of transforms")?;
        let mut width = around.dims;
        let mut chain = Vec::new();
        for _ in 0..count {
            let step = self.step(width)?;
            width = step.to;
            chain.push(step);
        }
        Ok(chain)
    }

    fn step(&mut self, width: usize) -> ReadResult<ExternalTransform> {
        let fourcc = self.reader.fourcc()?;
        let mut matrix = None;
        let mut map = None;
        let kind = match &fourcc {
            b"rrot" => ExternalTransformKind::Rotation,
            b"LTra" => ExternalTransformKind::Linear,
            b"PcAm" | b"Pcam" => {
                let power = self.reader.f32()?;
                if &fourcc == b"Pcam" {
                    let _ = self.reader.f32()?;
                }
                let (is_rotated, _) = (self.reader.bool()?, self.reader.i32()?);
                for _ in 0..3 {
                    let _ = self.reader.floats()?;
                }
                if power != 0.0 && power != -0.5 {
                    return unsupported("it whitens by another power than factory strings do");
                }
                ExternalTransformKind::Principal { is_white: power != 0.0, is_rotated }
            }
            b"RmDT" => {
                map = Some(self.reader.vector(4)?);
                ExternalTransformKind::Pad
            }
            b"VNrm" => {
                if self.reader.f32()? != 2.0 {
                    return unsupported("it normalises by another norm than the Euclidean");
                }
                ExternalTransformKind::Normalise
            }
            b"Viqm" | b"Viqt" => return Err(ExternalIndexError::Family("transforms by ITQ")),
            _ => return unsupported(format!("its transform ({}) is not supported", printable(fourcc))),
        };
        if matches!(
            kind,
            ExternalTransformKind::Rotation
                | ExternalTransformKind::Linear
                | ExternalTransformKind::Principal { .. }
        ) {
            let has_bias = self.reader.bool()?;
            matrix = Some((self.reader.floats()?, self.reader.floats()?, has_bias));
        }
        let (from, to, is_trained) = (self.reader.i32()?, self.reader.i32()?, self.reader.bool()?);
        require(
            from == width as i32 && (1..=MAX_DIMS as i32).contains(&to) && is_trained,
            "its transforms do not fit each other",
        )?;
        let to = to as usize;
        if let Some((values, bias, has_bias)) = matrix {
            let is_right = values == width * to && (bias == to || (bias == 0 && !has_bias));
            require(is_right, "it has a transform without its matrix")?;
        }
        if let Some((place, count)) = map {
            let mut sources = self.reader.i32s(place).enumerate();
            let is_padding = sources.all(|(at, from)| from == if at < width { at as i32 } else { -1 });
            if count != to || to < width || !is_padding {
                return unsupported("it exchanges dimensions");
            }
        }
        if matches!(kind, ExternalTransformKind::Normalise) {
            require(to == width, "its transforms do not fit each other")?;
        }
        Ok(ExternalTransform { kind, to })
    }
}

/// A transform to `to` dimensions.
pub struct ExternalTransform {
    pub kind: ExternalTransformKind,
    pub to: usize,
}

pub enum ExternalTransformKind {
    Rotation,
    /// FAISS writes an OPQ matrix as this.
    Linear,
    Principal {
        is_white: bool,
        is_rotated: bool,
    },
    Pad,
    Normalise,
}

impl ExternalTransform {
    /// The name in a factory string, before codes of this kind.
    pub fn name(&self, codec: &ExternalCodec) -> String {
        let to = self.to;
        match self.kind {
            ExternalTransformKind::Rotation => format!("RR{to}"),
            ExternalTransformKind::Linear => {
                // FAISS does not write the number of parts that OPQ was trained for.
                let parts = codec.parts().filter(|&parts| to.is_multiple_of(parts)).unwrap_or(1);
                format!("OPQ{parts}_{to}")
            }
            ExternalTransformKind::Principal { is_white, is_rotated } => {
                let (white, rotated) = (if is_white { "W" } else { "" }, if is_rotated { "R" } else { "" });
                format!("PCA{white}{rotated}{to}")
            }
            ExternalTransformKind::Pad => format!("Pad{to}"),
            ExternalTransformKind::Normalise => "L2norm".into(),
        }
    }
}
