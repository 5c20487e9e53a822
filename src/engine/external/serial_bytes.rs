//! Numbers and arrays of FAISS's format: little-endian, unaligned, bounds checked.

use std::ops::Range;

use super::external_index::ExternalIndexError;
use crate::is_interrupted;
use crate::shim::constants::MAX_VALUE;

/// Bytes that are checked between two polls of the interrupt flag.
const CHUNK_BYTES: usize = 16 << 20;

pub type ReadResult<T> = Result<T, ExternalIndexError>;

pub fn damaged<T>(reason: impl Into<String>) -> ReadResult<T> {
    Err(ExternalIndexError::Damaged(reason.into()))
}

pub fn unsupported<T>(reason: impl Into<String>) -> ReadResult<T> {
    Err(ExternalIndexError::Unsupported(reason.into()))
}

/// Err(Damaged) with this reason unless `condition` holds.
pub fn require(condition: bool, reason: &str) -> ReadResult<()> {
    if condition { Ok(()) } else { damaged(reason) }
}

pub fn check_interrupts() -> ReadResult<()> {
    if is_interrupted() { Err(ExternalIndexError::Interrupted) } else { Ok(()) }
}

/// A reader of bytes with its offset.
pub struct ByteReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> ByteReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        ByteReader { bytes, at: 0 }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn is_done(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn rest(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> ReadResult<Range<usize>> {
        require(length <= self.rest(), "it ends too early")?;
        let range = self.at..self.at + length;
        self.at = range.end;
        Ok(range)
    }

    fn fixed<const N: usize>(&mut self) -> ReadResult<[u8; N]> {
        let range = self.take(N)?;
        let mut value = [0; N];
        value.copy_from_slice(&self.bytes[range]);
        Ok(value)
    }

    pub fn fourcc(&mut self) -> ReadResult<[u8; 4]> {
        self.fixed()
    }

    pub fn i32(&mut self) -> ReadResult<i32> {
        Ok(i32::from_le_bytes(self.fixed()?))
    }

    pub fn f32(&mut self) -> ReadResult<f32> {
        Ok(f32::from_le_bytes(self.fixed()?))
    }

    pub fn u64(&mut self) -> ReadResult<u64> {
        Ok(u64::from_le_bytes(self.fixed()?))
    }

    pub fn byte(&mut self) -> ReadResult<u8> {
        let [byte] = self.fixed()?;
        Ok(byte)
    }

    pub fn bool(&mut self) -> ReadResult<bool> {
        let byte = self.byte()?;
        require(byte <= 1, "it has a flag that is neither yes nor no")?;
        Ok(byte == 1)
    }

    /// An array, preceded by its length, of elements of this size: its range, and the number of elements.
    pub fn vector(&mut self, element_bytes: usize) -> ReadResult<(Range<usize>, usize)> {
        let count = self.u64()?;
        let count = usize::try_from(count).ok().filter(|&count| count <= self.rest() / element_bytes);
        let Some(count) = count else { return damaged("it has an array that reaches beyond its end") };
        Ok((self.take(count * element_bytes)?, count))
    }

    /// The same with exactly `count` elements.
    pub fn vector_of(&mut self, element_bytes: usize, count: usize, what: &str) -> ReadResult<Range<usize>> {
        let (range, found) = self.vector(element_bytes)?;
        if found != count {
            return damaged(format!("it has {found} {what} where {count} belong"));
        }
        Ok(range)
    }

    /// An array of floats, finite and not too large.
    pub fn floats(&mut self) -> ReadResult<usize> {
        let (range, count) = self.vector(4)?;
        self.check_floats(range)?;
        Ok(count)
    }

    pub fn floats_of(&mut self, count: usize, what: &str) -> ReadResult<()> {
        let range = self.vector_of(4, count, what)?;
        self.check_floats(range)
    }

    pub fn check_floats(&self, range: Range<usize>) -> ReadResult<()> {
        self.check_values(range, |value: [u8; 4]| f32::from_le_bytes(value))
    }

    /// 16-bit floats (IEEE): all finite ones are small enough.
    pub fn check_halves(&self, range: Range<usize>) -> ReadResult<()> {
        self.check_values(
            range,
            |value: [u8; 2]| {
                if u16::from_le_bytes(value) & 0x7c00 == 0x7c00 { f32::NAN } else { 0.0 }
            },
        )
    }

    /// 16-bit floats that are the upper halves of 32-bit ones.
    pub fn check_brain_floats(&self, range: Range<usize>) -> ReadResult<()> {
        self.check_values(range, |value: [u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(value)) << 16))
    }

    fn check_values<const N: usize>(
        &self,
        range: Range<usize>,
        decode: fn([u8; N]) -> f32,
    ) -> ReadResult<()> {
        for chunk in self.bytes[range].chunks(CHUNK_BYTES) {
            check_interrupts()?;
            let mut is_bounded = true;
            for bytes in chunk.chunks_exact(N) {
                let mut value = [0; N];
                value.copy_from_slice(bytes);
                // False for NaN.
                is_bounded &= decode(value).abs() <= MAX_VALUE;
            }
            require(is_bounded, "it has values that are not finite, or larger than 1e16")?;
        }
        Ok(())
    }

    /// The 32-bit integers in a range.
    pub fn i32s(&self, range: Range<usize>) -> impl ExactSizeIterator<Item = i32> + 'a {
        let bytes: &'a [u8] = &self.bytes[range];
        bytes.chunks_exact(4).map(|value| i32::from_le_bytes([value[0], value[1], value[2], value[3]]))
    }

    /// The `index`-th 32-bit integer of an array.
    pub fn i32_at(&self, array: &Range<usize>, index: usize) -> i32 {
        let mut value = [0; 4];
        value.copy_from_slice(&self.bytes[array.start + 4 * index..][..4]);
        i32::from_le_bytes(value)
    }

    /// The `index`-th 64-bit integer of an array.
    pub fn u64_at(&self, array: &Range<usize>, index: usize) -> u64 {
        let mut value = [0; 8];
        value.copy_from_slice(&self.bytes[array.start + 8 * index..][..8]);
        u64::from_le_bytes(value)
    }
}
