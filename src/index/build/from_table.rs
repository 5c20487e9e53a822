//! Builds an index over a table: sample, train, add, write, publish.
//!
//! The table is scanned in runs of blocks. FAISS works between two runs, when no buffer is pinned or locked, on a
//! worker thread (`engine::on_worker`), while the main thread processes interrupts.

use std::time::Duration;

use super::add_rows::{Added, Untrained, add_rows};
use super::{import, trained};
use crate::cache::SyncAt;
use crate::engine::ExternalIndex;
use crate::failpoint;
use crate::index::error::{ImportError, IndexError};
use crate::index::format::{DeltaHead, META_BLOCK, Manifest};
use crate::index::interruptible::interruptible;
use crate::index::segment::{self, Models, Staged};
use crate::index::storage::blob::{self, Logging};
use crate::index::table::Table;
use crate::index::train::{RequestedFactory, Resources, check_factory};
use crate::index::{Definition, delta, first_pages, read_meta};
use crate::pg::buffer::ExclusivePageLock;
use crate::pg::progress::{self, Phase};
use crate::pg::relation::Rel;
use crate::pg::wal;

/// The result of a build.
#[derive(Default)]
pub struct Built {
    /// Rows in the table, and how many of them are in the index.
    pub heap_rows: f64,
    pub index_rows: f64,
    /// Time spent in calibration.
    pub calibration: Duration,
    pub untrained: Option<Untrained>,
    /// What training lacked (see `train::shortage`); empty if nothing.
    pub shortage: String,
}

/// Fills the new, empty relation `rel`, starting from the external index `external` if there is one.
pub fn build(
    rel: Rel,
    definition: &Definition,
    table: &mut dyn Table,
    resources: Resources,
    external: Option<ExternalIndex>,
) -> Result<Built, IndexError> {
    check_factory(definition)?;
    // Of codes that come from elsewhere only a sample is compared with the table: they may be of other values.
    let are_halves = definition.are_halves && external.is_none();
    let (mut meta, [meta_tag, delta_tag]) = first_pages(&Definition { are_halves, ..definition.clone() })?;
    let main = pgrx::pg_sys::ForkNumber::MAIN_FORKNUM;
    ExclusivePageLock::create(rel, main).write_unlogged(meta_tag, &[&meta.encode()]);
    ExclusivePageLock::create(rel, main).write_unlogged(delta_tag, &[&DeltaHead::EMPTY.to_bytes()]);

    let (staged, mut added) = stage_segment(rel, definition, table, resources, external)?;
    if let Some(staged) = staged {
        let live_rows = added.tids.len() as u64;
        let models = if added.is_trained { Models::Own { live_rows } } else { Models::None };
        let points = std::mem::take(&mut added.points);
        // The lock on the index keeps the cache file from being swept until this transaction commits.
        let (mut segment, _) = staged.store(rel, models, points, Logging::WithRelation)?;
        segment.reason = std::mem::take(&mut added.reason);
        if segment.reason.is_empty() {
            segment.reason.clone_from(&added.shortage);
        }
        failpoint::reach("build.segment_stored");
        let manifest = Manifest { segments: vec![segment] };
        let blob = blob::write(rel, blob::random_id()?, &manifest.encode(), Logging::WithRelation)?;
        meta.manifest = Some(blob);
        meta.generation = 1;
        ExclusivePageLock::lock(rel, META_BLOCK).write_unlogged(meta_tag, &[&meta.encode()]);
    }
    failpoint::reach("build.root_written");
    wal::log_relation(rel);
    failpoint::reach("build.logged");
    let mut tail = delta::Tail::of(&read_meta(rel)?);
    for (tid, row) in &added.rejected {
        delta::append(rel, &mut tail, *tid, row)?;
    }
    failpoint::reach("build.finished");
    let index_rows = (added.tids.len() + added.rejected.len()) as f64;
    let Added { heap_rows, calibration, untrained, shortage, .. } = added;
    Ok(Built { heap_rows, index_rows, calibration, untrained, shortage })
}

/// All steps up to the cache file; None if the table has no rows to index.
fn stage_segment(
    rel: Rel,
    definition: &Definition,
    table: &mut dyn Table,
    resources: Resources,
    external: Option<ExternalIndex>,
) -> Result<(Option<Staged>, Added), IndexError> {
    let option = RequestedFactory::new(definition, resources);
    let is_import = external.is_some();
    let mut base = match external {
        Some(external) => import::begin(external, definition, table, resources)?,
        None => trained::begin(definition, &option, table, resources)?,
    };
    if base.complete.is_none() {
        // Reserve a little more than estimated: unused memory stays unmapped, and growing would copy every row.
        base.builder.reserve(base.expected_rows + base.expected_rows / 16)?;
    }
    progress::phase(Phase::Adding);
    let (builder, factory, mut added) = add_rows(definition, table, base, resources)?;
    failpoint::reach("build.added");
    if added.tids.is_empty() {
        return if is_import { Err(ImportError::EmptyTable.into()) } else { Ok((None, added)) };
    }
    progress::phase(Phase::Writing);
    let chosen = option.choose(added.tids.len() as u64);
    if chosen.factory == factory {
        added.reason = chosen.reason;
    }
    let cache = segment::cache();
    let key = segment::file_key(rel, blob::random_id()?);
    let staged = interruptible(resources.threads, || {
        segment::stage(&cache, key, &builder, definition.metric, &factory, &added.tids, SyncAt::Writing)
    })?;
    failpoint::reach("build.staged");
    Ok((Some(staged), added))
}
