//! Reads inverted lists and their coarse quantiser.

use super::code_reader::{ExternalCodec, codes, product, scalar};
use super::external_index::{StoredList, StoredRows};
use super::index_reader::{IndexHeader, IndexReader, MAX_ROWS, ParsedIndex, header, reason_against};
use super::serial_bytes::{ReadResult, damaged, require, unsupported};

impl IndexReader<'_> {
    pub(super) fn lists(&mut self, fourcc: [u8; 4]) -> ReadResult<(ParsedIndex, ExternalCodec)> {
        let head = header(&mut self.reader)?;
        let (count, at) = (self.reader.u64()?, self.reader.at());
        let _ = self.reader.u64()?;
        self.patch(at, 1u64.to_le_bytes());
        let coarse = self.coarse_quantiser(head, count)?;
        let count = count as usize;
        let map = self.reader.byte()?;
        let (_, mapped) = self.reader.vector(8)?;
        if map != 0 || mapped != 0 {
            return unsupported("it has a direct map: write it without, after set_direct_map_type(NoMap)");
        }
        let (codec, suffix) = match &fourcc {
            b"IwFl" => (ExternalCodec::Flat, ""),
            b"IwPQ" => {
                let by_residual = self.reader.bool()?;
                let bytes = self.reader.u64()?;
                let codec = product(&mut self.reader, head.dims)?;
                require(bytes == codec.bytes(head.dims) as u64, "it has codes of another size")?;
                if !by_residual {
                    return unsupported(
                        "its product codes are not of residuals, as those of factory strings are",
                    );
                }
                (codec, "")
            }
            b"IwSq" => {
                let codec = scalar(&mut self.reader, head.dims)?;
                let bytes = self.reader.u64()?;
                require(bytes == codec.bytes(head.dims) as u64, "it has codes of another size")?;
                if !self.reader.bool()? {
                    return unsupported(
                        "its scalar codes are not of residuals, as those of factory strings are",
                    );
                }
                (codec, "")
            }
            _ => self.packed_quantiser(head)?,
        };
        let lists = match codec {
            ExternalCodec::Packed { parts, block } => self.packed_lists(count, parts, block)?,
            _ => self.plain_lists(count, codec.bytes(head.dims))?,
        };
        let rows: usize = lists.iter().map(|list| list.rows).sum();
        require(rows == head.rows, "its inverted lists do not hold all rows")?;
        for list in &lists {
            let codes = list.codes_at..list.codes_at + list.rows * list.code_bytes;
            codec.check_codes(&self.reader, codes)?;
        }
        let factory = format!("IVF{count}{coarse},{}{suffix}", codec.name());
        let stored = if codec == ExternalCodec::Flat { StoredRows::Each(Vec::new()) } else { StoredRows::No };
        Ok((ParsedIndex { header: head, factory, stored, lists: Some(lists) }, codec))
    }

    /// Reads the coarse quantiser, and returns its suffix to `IVFn` in the factory string.
    fn coarse_quantiser(&mut self, head: IndexHeader, count: u64) -> ReadResult<String> {
        let fourcc = self.reader.fourcc()?;
        let (coarse, links) = match &fourcc {
            b"IHNf" => {
                let (graph, _) = self.graph(fourcc)?;
                (graph.header, format!("_{}", graph.factory))
            }
            b"IxF2" | b"IxFI" | b"IxFl" => match codes(&mut self.reader, fourcc)? {
                Some(codes) => (codes.header, String::new()),
                None => return reason_against(fourcc),
            },
            _ => return unsupported("its coarse quantiser is neither Flat nor HNSW"),
        };
        if coarse.metric != head.metric {
            return unsupported("its coarse quantiser has another metric than itself");
        }
        require(
            coarse.dims == head.dims && count >= 1 && coarse.rows as u64 == count,
            "its coarse quantiser does not have a centroid for each list",
        )?;
        Ok(links)
    }

    fn packed_quantiser(&mut self, head: IndexHeader) -> ReadResult<(ExternalCodec, &'static str)> {
        let by_residual = self.reader.bool()?;
        let bytes = self.reader.u64()?;
        let (block, padded_parts) = (self.reader.i32()?, self.reader.u64()?);
        let (kernel, query_block) = (self.reader.i32()?, self.reader.u64()?);
        let ExternalCodec::Product { parts, bits: 4 } = product(&mut self.reader, head.dims)? else {
            return damaged("it has fast-scan codes that are not of 4 bits");
        };
        if kernel != 0 || query_block != 0 || block != 32 {
            return unsupported("its fast-scan codes are not in the form that factory strings give them");
        }
        let codec = ExternalCodec::Packed { parts, block: 32 };
        require(
            padded_parts == parts.next_multiple_of(2) as u64 && bytes == codec.bytes(head.dims) as u64,
            "it has codes of another size",
        )?;
        Ok((codec, if by_residual { "r" } else { "" }))
    }

    /// Reads `ilar`: sizes, and then codes and ids of each list.
    fn plain_lists(&mut self, count: usize, code_bytes: usize) -> ReadResult<Vec<StoredList>> {
        let fourcc = self.reader.fourcc()?;
        if &fourcc != b"ilar" {
            return unsupported("its inverted lists are not in the file, or not in the usual form");
        }
        let (lists, bytes) = (self.reader.u64()?, self.reader.u64()?);
        require(
            lists == count as u64 && bytes == code_bytes as u64,
            "its inverted lists are another index's",
        )?;
        let mut sizes = vec![0u64; count];
        match &self.reader.fourcc()? {
            b"full" => {
                let place = self.reader.vector_of(8, count, "lengths of lists")?;
                sizes
                    .iter_mut()
                    .enumerate()
                    .for_each(|(list, size)| *size = self.reader.u64_at(&place, list));
            }
            b"sprs" => {
                let (place, numbers) = self.reader.vector(8)?;
                require(numbers % 2 == 0, "its inverted lists have no lengths")?;
                for pair in 0..numbers / 2 {
                    let list = self.reader.u64_at(&place, 2 * pair);
                    let size = usize::try_from(list).ok().and_then(|list| sizes.get_mut(list));
                    let Some(size) = size else { return damaged("it has more inverted lists than it says") };
                    *size = self.reader.u64_at(&place, 2 * pair + 1);
                }
            }
            _ => return damaged("its inverted lists have no lengths"),
        }
        let mut lists = Vec::with_capacity(count);
        for size in sizes {
            require(size <= MAX_ROWS, "it has an inverted list that is too long")?;
            let rows = size as usize;
            let codes = self.reader.take(rows * code_bytes)?;
            let ids = self.reader.take(rows * 8)?;
            lists.push(StoredList { codes_at: codes.start, code_bytes, ids_at: ids.start, rows });
        }
        Ok(lists)
    }

    /// Reads `ilbl`: ids and blocks of codes of each list, each with its length.
    fn packed_lists(&mut self, count: usize, parts: usize, block: usize) -> ReadResult<Vec<StoredList>> {
        let fourcc = self.reader.fourcc()?;
        if &fourcc != b"ilbl" {
            return unsupported("its inverted lists are not in the file, or not in the usual form");
        }
        let block_bytes = block * parts.next_multiple_of(2) / 2;
        let numbers = [self.reader.u64()?, self.reader.u64()?, self.reader.u64()?, self.reader.u64()?];
        require(
            numbers[0] == count as u64 && numbers[2] == block as u64 && numbers[3] == block_bytes as u64,
            "its inverted lists are another index's",
        )?;
        let mut lists = Vec::with_capacity(count);
        for _ in 0..count {
            let (ids, rows) = self.reader.vector(8)?;
            let codes = self.reader.vector_of(1, rows.div_ceil(block) * block_bytes, "bytes of codes")?;
            lists.push(StoredList { codes_at: codes.start, code_bytes: 0, ids_at: ids.start, rows });
        }
        Ok(lists)
    }
}
