//! `vekter_check()`: checks every invariant that can be verified from pages, segments, tombstones and free space, and
//! that each row of the table is found exactly once.
//!
//! Unlike a search, the check continues after a problem and reports each one with its location. It holds the
//! maintenance lock, so only inserts can change the index meanwhile, and it tolerates those.
//!
//! The free space map is not checked: it is a hint, and a crash can make it wrong (`pg::buffer`). Only a page's own tag
//! protects it from being reused, and the tags are checked.

mod against_heap;
mod delta_chain;
mod pages;
mod segment_files;

use std::fmt::Display;

use super::error::IndexError;
use super::format::{Extent, META_BLOCK, Manifest, Meta, Tid};
use super::table::Table;
use crate::engine::Metric;
use crate::pg::lock::{IndexLock, Purpose};
use crate::pg::relation::Rel;
use crate::pg::{is_in_recovery, xid};

/// Limit on the findings reported.
const MAX_FINDINGS: usize = 1000;
/// On a standby, a finding must show up in this many runs before it is reported.
const RUNS_IN_RECOVERY: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Searches can fail or return wrong results; the index must be rebuilt.
    Error,
    /// Costs space or time only, and disappears by itself.
    Warning,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// The part of the index: block, segment or row.
    pub place: String,
    /// The problem.
    pub problem: String,
}

/// Returns all problems of the index. With `table`, also compares the index's rows with the table's. Uses 16 bytes of
/// memory for each row. Waits for VACUUM, sealing and compaction of this index, and blocks them.
pub fn check(rel: Rel, mut table: Option<&mut dyn Table>) -> Result<Vec<Finding>, IndexError> {
    let _lock = IndexLock::acquire(rel, Purpose::Maintenance);
    let mut found = look(rel, &mut table)?;
    // Replay takes none of our locks. A finding that disappears in the next run was a change in progress.
    for _ in 1..if is_in_recovery() { RUNS_IN_RECOVERY } else { 1 } {
        if found.is_empty() {
            break;
        }
        let again = look(rel, &mut table)?;
        found.retain(|finding| again.contains(finding));
    }
    Ok(found)
}

fn look(rel: Rel, table: &mut Option<&mut dyn Table>) -> Result<Vec<Finding>, IndexError> {
    // Take the snapshot before reading the root: the index then has an entry for every row that the snapshot sees.
    if let Some(table) = table {
        table.take_snapshot();
    }
    let mut check = Check::new(rel, table.is_some());
    check.run()?;
    if let Some(table) = table
        && check.is_complete
    {
        check.compare_with(*table)?;
    }
    Ok(check.findings)
}

/// A live entry of the index.
struct IndexEntry {
    tid: Tid,
    /// CRC-32C of the stored row; None if the index does not store the row bit for bit.
    row_crc32c: Option<u32>,
}

/// State of one run of the check.
struct Check {
    rel: Rel,
    /// Horizon and relation size, read before the root as in `free_pages::reclaim`.
    horizon: u64,
    end: u32,
    findings: Vec<Finding>,
    /// Extents in use, each with the number of its owner in `places`.
    used: Vec<(Extent, usize)>,
    places: Vec<String>,
    entries: Vec<IndexEntry>,
    /// Whether to compare the rows with the table's.
    compares_rows: bool,
    /// Whether everything reachable from the root has been checked.
    is_complete: bool,
}

impl Check {
    fn new(rel: Rel, compares_rows: bool) -> Self {
        Check {
            rel,
            horizon: xid::oldest_running(),
            end: rel.blocks(),
            findings: Vec::new(),
            used: Vec::new(),
            places: Vec::new(),
            entries: Vec::new(),
            compares_rows,
            is_complete: true,
        }
    }

    fn run(&mut self) -> Result<(), IndexError> {
        self.use_extents("meta page", &[Extent { start: META_BLOCK, blocks: 1 }]);
        let Some(meta) = self.check_meta() else {
            self.is_complete = false;
            return Ok(());
        };
        if let Some(metric) = Metric::from_code(meta.metric_code()) {
            if let Some(manifest) = self.check_manifest(&meta) {
                self.check_segments(&meta, metric, &manifest)?;
            }
        } else {
            self.is_complete = false;
            self.error("meta page", format!("metric {} is unknown", meta.metric_code()));
        }
        self.check_delta(&meta)?;
        self.check_overlaps();
        self.check_entries();
        if self.is_complete {
            self.check_unused_pages();
        }
        Ok(())
    }

    /// None if there is no manifest yet, or it cannot be read.
    fn check_manifest(&mut self, meta: &Meta) -> Option<Manifest> {
        let blob = meta.manifest.as_ref()?;
        let mut bytes = Vec::new();
        let decoded = self.check_blob("manifest", blob, Some(&mut bytes)).then(|| Manifest::decode(&bytes));
        match decoded {
            Some(Ok(manifest)) => Some(manifest),
            unreadable => {
                self.is_complete = false;
                if let Some(Err(error)) = unreadable {
                    self.error("manifest", error);
                }
                None
            }
        }
    }

    fn error(&mut self, place: impl Display, problem: impl Display) {
        self.find(Severity::Error, place, problem);
    }

    fn warn(&mut self, place: impl Display, problem: impl Display) {
        self.find(Severity::Warning, place, problem);
    }

    fn find(&mut self, severity: Severity, place: impl Display, problem: impl Display) {
        let finding = |severity, place: String, problem: String| Finding { severity, place, problem };
        match self.findings.len() {
            MAX_FINDINGS.. => {}
            LAST => self.findings.push(finding(
                severity,
                "index".into(),
                "there is more, which is not listed".into(),
            )),
            _ => self.findings.push(finding(severity, place.to_string(), problem.to_string())),
        }
    }

    fn add_entry(&mut self, entry: IndexEntry) -> Result<(), IndexError> {
        // Rust aborts the process if a vector cannot grow, so reserve first.
        self.entries.try_reserve(1)?;
        self.entries.push(entry);
        Ok(())
    }

    /// Checks for TIDs that no heap page can have and for duplicates. Sorts the entries.
    fn check_entries(&mut self) {
        self.entries.sort_unstable_by_key(|entry| entry.tid);
        let twice: Vec<Tid> = self
            .entries
            .windows(2)
            .filter(|pair| pair[0].tid == pair[1].tid)
            .map(|pair| pair[0].tid)
            .take(MAX_FINDINGS)
            .collect();
        for tid in twice {
            self.error(row_name(tid), "the row is in the index more than once");
        }
        let impossible = |tid: Tid| tid.offset() == 0 || tid.block() == u32::MAX;
        let impossible: Vec<Tid> = self
            .entries
            .iter()
            .map(|entry| entry.tid)
            .filter(|&tid| impossible(tid))
            .take(MAX_FINDINGS)
            .collect();
        for tid in impossible {
            self.error(row_name(tid), "no table has such a row");
        }
    }
}

const LAST: usize = MAX_FINDINGS - 1;

fn row_name(tid: Tid) -> String {
    format!("row {tid}")
}

/// CRC-32C of a row in the delta's format.
fn checksum(row: &[f32]) -> u32 {
    row.iter().fold(0, |crc, element| crc32c::crc32c_append(crc, &element.to_le_bytes()))
}
