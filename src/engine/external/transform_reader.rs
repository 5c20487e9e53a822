//! Transforms before an index.

use super::code_reader::Codec;
use super::external_index::ForeignError;
use super::index_reader::{Header, Walk, printable};
use super::serial_bytes::{Read, require, unsupported};
use crate::engine::MAX_DIMS;

const MAX_TRANSFORMS: i32 = 8;

impl Walk<'_> {
    pub(super) fn chain(&mut self, around: Header) -> Read<Vec<Step>> {
        let count = self.cursor.i32()?;
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

    fn step(&mut self, width: usize) -> Read<Step> {
        let fourcc = self.cursor.fourcc()?;
        let mut matrix = None;
        let mut map = None;
        let kind = match &fourcc {
            b"rrot" => Kind::Rotation,
            b"LTra" => Kind::Linear,
            b"PcAm" | b"Pcam" => {
                let power = self.cursor.f32()?;
                if &fourcc == b"Pcam" {
                    let _ = self.cursor.f32()?;
                }
                let (is_rotated, _) = (self.cursor.bool()?, self.cursor.i32()?);
                for _ in 0..3 {
                    let _ = self.cursor.floats()?;
                }
                if power != 0.0 && power != -0.5 {
                    return unsupported("it whitens by another power than factory strings do");
                }
                Kind::Principal { is_white: power != 0.0, is_rotated }
            }
            b"RmDT" => {
                map = Some(self.cursor.vector(4)?);
                Kind::Pad
            }
            b"VNrm" => {
                if self.cursor.f32()? != 2.0 {
                    return unsupported("it normalises by another norm than the Euclidean");
                }
                Kind::Normalise
            }
            b"Viqm" | b"Viqt" => return Err(ForeignError::Family("transforms by ITQ")),
            _ => return unsupported(format!("its transform ({}) is not supported", printable(fourcc))),
        };
        if matches!(kind, Kind::Rotation | Kind::Linear | Kind::Principal { .. }) {
            let has_bias = self.cursor.bool()?;
            matrix = Some((self.cursor.floats()?, self.cursor.floats()?, has_bias));
        }
        let (from, to, is_trained) = (self.cursor.i32()?, self.cursor.i32()?, self.cursor.bool()?);
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
            let mut sources = self.cursor.i32s(place).enumerate();
            let is_padding = sources.all(|(at, from)| from == if at < width { at as i32 } else { -1 });
            if count != to || to < width || !is_padding {
                return unsupported("it exchanges dimensions");
            }
        }
        if matches!(kind, Kind::Normalise) {
            require(to == width, "its transforms do not fit each other")?;
        }
        Ok(Step { kind, to })
    }
}

/// A transform, to so many dimensions.
pub struct Step {
    pub kind: Kind,
    pub to: usize,
}

pub enum Kind {
    Rotation,
    /// An OPQ matrix is written as this.
    Linear,
    Principal {
        is_white: bool,
        is_rotated: bool,
    },
    Pad,
    Normalise,
}

impl Step {
    /// As factory strings have it, before codes of this kind.
    pub fn name(&self, codec: &Codec) -> String {
        let to = self.to;
        match self.kind {
            Kind::Rotation => format!("RR{to}"),
            Kind::Linear => {
                // For how many parts it was made is not written.
                let parts = codec.parts().filter(|&parts| to.is_multiple_of(parts)).unwrap_or(1);
                format!("OPQ{parts}_{to}")
            }
            Kind::Principal { is_white, is_rotated } => {
                let (white, rotated) = (if is_white { "W" } else { "" }, if is_rotated { "R" } else { "" });
                format!("PCA{white}{rotated}{to}")
            }
            Kind::Pad => format!("Pad{to}"),
            Kind::Normalise => "L2norm".into(),
        }
    }
}
