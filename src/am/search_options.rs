//! How hard a scan searches: as the caller says, else as settings do, else as the index's options `search` and `recall`
//! do. At each of these places parameters may be named, or a recall; at the same place, parameters win.

use pgrx::PgSqlErrorCode as Code;

use super::options;
use crate::engine::{KnownParams, Metric, ParamsError, SearchParams};
use crate::guc;
use crate::index::search::Order;
use crate::index::{self, Definition};
use crate::pg::error::SqlError;
use crate::pg::relation::Rel;

/// What a search of `index` takes beside `nearest`, which the caller named. Where settings and the option do not fit a
/// part of the index (a small segment is exact, and a setting holds for many indexes), the search ignores them.
pub fn effective(index: Rel, nearest: SearchParams) -> SearchParams {
    nearest.before(guc::search_params()).before(stored(index))
}

/// What becomes of rows that a scan finds too late.
pub fn order() -> Order {
    match guc::iterative_scan() {
        guc::IterativeScan::StrictOrder => Order::Strict,
        guc::IterativeScan::RelaxedOrder => Order::Relaxed,
    }
}

/// The options `search`, which was checked when it was set, against the `factory` option beside it, and `recall`.
fn stored(index: Rel) -> SearchParams {
    let named = options::search(index).and_then(|text| {
        let known = KnownParams::of(&options::factory(index), None);
        SearchParams::parse(&text, &known).ok()
    });
    SearchParams { recall: options::recall(index), ..named.unwrap_or_default() }
}

/// Err: `recall` is none.
pub fn check_recall(recall: f64) -> Result<(), SqlError> {
    if recall > 0.0 && recall <= 1.0 {
        return Ok(());
    }
    let message = format!("recall must be above 0 and at most 1, not {recall}");
    Err(SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message))
}

/// Reads what a caller names for a search of `index`, which may be partitioned.
pub fn parse(index: Rel, text: &str) -> Result<SearchParams, SqlError> {
    let factory = match index.is_partitioned() {
        // Those of the partitions are built after it.
        true => options::factory(index),
        false => index::read_meta(index)?.factory,
    };
    Ok(SearchParams::parse(text, &KnownParams::of(&factory, options::metric(index)))?)
}

/// Err: the `search` option does not fit what is to be built.
pub fn check(index: Rel, definition: &Definition) -> Result<(), SqlError> {
    match options::search(index) {
        Some(text) => check_text(&text, &definition.factory, Some(definition.metric)),
        None => Ok(()),
    }
}

/// Err: `text` is not a valid `search` option beside such a `factory`.
pub fn check_text(text: &str, factory: &str, metric: Option<Metric>) -> Result<(), SqlError> {
    SearchParams::parse(text, &KnownParams::of(factory, metric))?;
    Ok(())
}

impl From<ParamsError> for SqlError {
    fn from(error: ParamsError) -> SqlError {
        let detail = error.detail();
        let mut report = SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, error.to_string());
        report.detail = detail;
        report
    }
}
