//! `vekter_segments()`: the segments of an index, one row for each.

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::target;
use crate::index::error::IndexError;
use crate::index::format::Tiers;
use crate::index::{read_manifest, read_meta, retry, segment};
use crate::pg::error::{OrRaise, SqlError};
use crate::pg::relation::Rel;

type Segment = (String, i32, String, i64, i64, i64, bool);

#[pg_extern]
fn vekter_segments(
    index: pg_sys::Oid,
) -> TableIterator<
    'static,
    (
        name!(id, String),
        name!(level, i32),
        name!(factory, String),
        name!(rows, i64),
        name!(dead_rows, i64),
        name!(bytes, i64),
        name!(cached, bool),
    ),
> {
    TableIterator::new(list(index).or_raise())
}

fn list(relation: pg_sys::Oid) -> Result<Vec<Segment>, SqlError> {
    Ok(read(target::open_plain_index(relation)?.index())?)
}

fn read(rel: Rel) -> Result<Vec<Segment>, IndexError> {
    let (manifest, dims) = retry(|| {
        let meta = read_meta(rel)?;
        Ok((read_manifest(rel, &meta)?, meta.dims))
    })?;
    let tiers = Tiers::of_dims(dims as usize);
    let cache = segment::cache();
    Ok(manifest
        .segments
        .into_iter()
        .map(|reference| {
            let key = segment::file_key(rel, reference.payload.id);
            (
                format!("{:032x}", reference.payload.id),
                tiers.tier(reference.live_rows()) as i32,
                reference.factory,
                reference.rows as i64,
                reference.dead_rows as i64,
                reference.payload.bytes as i64,
                cache.has(&key, reference.payload.bytes),
            )
        })
        .collect())
}
