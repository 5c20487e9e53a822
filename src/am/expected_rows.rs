//! How many rows a plain scan is expected to return, which is what its first round searches for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;

use pgrx::pg_sys::Oid;

use super::search_options;
use crate::engine::SearchParams;
use crate::index::search::{FIRST_ROUND_ROWS, Request};
use crate::pg::relation::Rel;
use crate::pg::row_limit::{self, RowLimit};

/// More indexes than a session searches at a time.
const MAX_INDEXES: usize = 100;
/// Upper bound on the first round if its size is derived from an estimate or from an earlier scan.
pub const MAX_FIRST_ROUND_ROWS: usize = 1000;

thread_local! {
    /// What the last scan of an index returned whose limit was unknown.
    static RECENT: RefCell<HashMap<Oid, usize>> = RefCell::default();
}

/// What a plain scan asks of the index. `key`: see `row_limit`.
pub fn request(index: Rel, key: *const c_void, params: SearchParams) -> (Request, RowLimit) {
    let limit = row_limit::of_scan(key);
    let request = match limit {
        RowLimit::All => Request { reads_all: true, params, ..Request::default() },
        RowLimit::Unknown => Request { wanted_rows: recent(index.oid()), params, ..Request::default() },
        RowLimit::About { rows, filtered_rows } => {
            let rows = rows.ceil().max(1.0);
            let passing = filtered_rows.map_or(1.0, |filtered| {
                (filtered / index.estimated_rows().max(1.0)).clamp(f64::MIN_POSITIVE, 1.0)
            });
            let searched = match passing < 1.0 {
                true => (rows / passing).min(rows.max(MAX_FIRST_ROUND_ROWS as f64)),
                false => rows,
            };
            Request::of(searched as usize, params)
        }
    };
    (Request { order: search_options::order(), ..request }, limit)
}

pub fn recent(index: Oid) -> usize {
    RECENT.with_borrow(|recent| recent.get(&index).copied().unwrap_or(FIRST_ROUND_ROWS))
}

/// `rows`: number of rows that a scan of unknown limit has returned.
pub fn remember(index: Oid, rows: usize) {
    RECENT.with_borrow_mut(|recent| {
        if recent.len() >= MAX_INDEXES {
            recent.clear();
        }
        // Scans differ: the next may want some more.
        recent.insert(index, rows.next_power_of_two().clamp(FIRST_ROUND_ROWS / 4, MAX_FIRST_ROUND_ROWS));
    });
}
