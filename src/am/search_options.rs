//! Search parameters of a scan: from the caller, else from the settings, else from the index's options `search` and
//! `recall`. Each of these can name parameters or a recall; within one of them, parameters override the recall.

use pgrx::PgSqlErrorCode as Code;

use super::options;
use crate::engine::{KnownParams, Metric, ParamsError, SearchParams};
use crate::guc;
use crate::index::search::Order;
use crate::index::{self, Definition};
use crate::pg::error::SqlError;
use crate::pg::relation::Rel;

/// Completes the caller's parameters `nearest` for a search of `index`. Settings and options that do not fit a part of
/// the index are ignored: a small segment is exact, and a setting applies to many indexes.
pub fn effective(index: Rel, nearest: SearchParams) -> SearchParams {
    nearest.before(guc::search_params()).before(stored(index))
}

/// Treatment of rows that a scan finds too late.
pub fn order() -> Order {
    match guc::iterative_scan() {
        guc::IterativeScan::StrictOrder => Order::Strict,
        guc::IterativeScan::RelaxedOrder => Order::Relaxed,
    }
}

/// The `search` option, which was checked against the `factory` option when it was set, and the `recall` option.
fn stored(index: Rel) -> SearchParams {
    let named = options::search(index).and_then(|text| {
        let known = KnownParams::of(&options::factory(index), None);
        SearchParams::parse(&text, &known).ok()
    });
    SearchParams { recall: options::recall(index), ..named.unwrap_or_default() }
}

/// Err if `recall` is out of range.
pub fn check_recall(recall: f64) -> Result<(), SqlError> {
    if recall > 0.0 && recall <= 1.0 {
        return Ok(());
    }
    let message = format!("recall must be above 0 and at most 1, not {recall}");
    Err(SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message))
}

/// Parses the caller's parameters for a search of `index`, which may be partitioned.
pub fn parse(index: Rel, text: &str) -> Result<SearchParams, SqlError> {
    let factory = match index.is_partitioned() {
        // The partitions' indexes have the same option.
        true => options::factory(index),
        false => index::read_meta(index)?.factory,
    };
    Ok(SearchParams::parse(text, &KnownParams::of(&factory, options::metric(index)))?)
}

/// Err if the `search` option does not fit the index that is to be built.
pub fn check(index: Rel, definition: &Definition) -> Result<(), SqlError> {
    match options::search(index) {
        Some(text) => check_text(&text, &definition.factory, Some(definition.metric)),
        None => Ok(()),
    }
}

/// Err if `text` is not a valid `search` option for this `factory`.
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
