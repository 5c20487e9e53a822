//! Failpoints: named points at which a test can crash, fail or pause this process.
//!
//! They exist only in builds with the cargo feature `failpoints`, which are never released; otherwise a call compiles
//! to nothing. A test arms them with the setting `vekter.failpoint`, for example `publish.before_root=crash,
//! build.added=wait@2`. Actions:
//!
//! * `crash`: SIGKILL to this process, upon which the postmaster ends the others and recovers.
//! * `error`: an ERROR of PostgreSQL's kind, or an I/O error where the step can meet one.
//! * `enospc`: the I/O error of a full disk; elsewhere as `error`.
//! * `wait`: makes the file `failpoint.NAME.PID` in the data directory and waits until it is removed, or until the
//!   query is cancelled (not under a buffer lock, where PostgreSQL takes no interrupts).
//!
//! `@N`: acts only when this process reaches the point for the N-th time after it was armed.
//!
//! Such builds also have the setting `vekter.longest_pause`, a limit on all waits that only save processor time, so
//! that tests need not sit through them.

use std::time::Duration;

#[cfg(feature = "failpoints")]
mod armed;

#[cfg(feature = "failpoints")]
pub use armed::{arm, initialise, is_valid, set_longest_pause};

/// All failpoints, by the work that reaches them. A test parses this list, one name per line.
pub const NAMES: &[&str] = &[
    "build.sampled",
    "build.trained",
    "build.added",
    "build.staged",
    "build.segment_stored",
    "build.root_written",
    "build.logged",
    "build.finished",
    "search.root_read",
    "search.segments_opened",
    "search.delta_read",
    "insert.overflow_page_written",
    "insert.started",
    "insert.before_append",
    "insert.appended",
    "insert.page_allocated",
    "insert.before_link",
    "insert.linked",
    "vacuum.tombstones_written",
    "vacuum.published",
    "vacuum.entries_removed",
    "vacuum.before_unlink",
    "vacuum.page_unlinked",
    "vacuum.delta_done",
    "reclaim.listed",
    "reclaim.retired",
    "reclaim.offered",
    "blob.page_allocated",
    "blob.page_written",
    "seal.page_closed",
    "seal.frozen",
    "seal.stored",
    "seal.published",
    "compact.started",
    "merge.planned",
    "merge.trained",
    "merge.batch_added",
    "merge.staged",
    "merge.copied",
    "merge.stored",
    "merge.published",
    "merge.retired",
    "worker.idle",
    "publish.manifest_written",
    "publish.before_root",
    "publish.root_written",
    "materialise.started",
    "materialise.copied",
    "cache.created",
    "cache.preallocated",
    "cache.written",
    "cache.synced",
    "cache.renamed",
    "cache.stamped",
    "cache.sweeping",
];

/// Marks failpoint `name` of `NAMES`.
#[inline(always)]
pub fn reach(name: &'static str) {
    #[cfg(feature = "failpoints")]
    armed::reach(name);
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

/// As `reach`, where the failpoint can return an I/O error.
#[inline(always)]
pub fn reach_io(name: &'static str) -> std::io::Result<()> {
    #[cfg(feature = "failpoints")]
    return armed::reach_io(name);
    #[cfg(not(feature = "failpoints"))]
    {
        let _ = name;
        Ok(())
    }
}

/// A wait of `usual`, or less under `vekter.longest_pause`.
#[inline(always)]
pub fn pause(usual: Duration) -> Duration {
    #[cfg(feature = "failpoints")]
    return armed::pause(usual);
    #[cfg(not(feature = "failpoints"))]
    usual
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::NAMES;

    #[test]
    fn every_name_in_the_list_is_reached_and_every_reached_name_is_in_the_list() {
        let mut reached = BTreeSet::new();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut reached);
        let listed: BTreeSet<String> = NAMES.iter().map(|name| name.to_string()).collect();
        assert_eq!(listed.len(), NAMES.len(), "a name is listed twice");
        assert_eq!(reached, listed);
    }

    /// The names in all calls below `folder`.
    fn collect(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, names);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                for call in ["failpoint::reach(\"", "failpoint::reach_io(\""] {
                    let calls = text.split(call).skip(1).filter_map(|rest| rest.split_once("\")"));
                    names.extend(calls.map(|(name, _)| name.to_string()).filter(|name| !name.contains('"')));
                }
            }
        }
    }
}
