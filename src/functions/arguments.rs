//! Arguments that several functions have in common, with their checks.

use pgrx::PgSqlErrorCode as Code;

use super::distributed;
use super::target::Target;
use crate::am::{SearchParams, search_options};
use crate::pg::error::SqlError;
use crate::pg::relation::OpenRelation;

/// The `search` and `recall` arguments of a call, which override settings and the index's options. `search` overrides
/// `recall`.
#[derive(Clone, Copy, Default)]
pub struct Effort<'a> {
    /// Search parameters, in FAISS's syntax.
    pub search: Option<&'a str>,
    /// Share of the true neighbours to find: above 0, at most 1.
    pub recall: Option<f64>,
}

impl Effort<'_> {
    /// The search parameters for the index. Err if the recall is out of range, or the parameters do not fit the index
    /// or do not reach it.
    pub fn params_of(self, target: &Target) -> Result<SearchParams, SqlError> {
        if target.is_searched_elsewhere && (self.search.is_some() || self.recall.is_some()) {
            return Err(distributed::no_parameters(&target.table));
        }
        let recall = self.recall;
        recall.map_or(Ok(()), search_options::check_recall)?;
        let Some(text) = self.search else {
            return Ok(SearchParams { recall, ..SearchParams::default() });
        };
        let index = OpenRelation::index(target.index)?;
        let named = search_options::parse(index.rel(), text)?;
        Ok(SearchParams { recall, ..named })
    }
}

/// Checks a number of rows; Err, with the argument's name, if it is less than one.
pub fn row_count(name: &str, rows: i32) -> Result<usize, SqlError> {
    usize::try_from(rows).ok().filter(|&rows| rows >= 1).ok_or_else(|| {
        let message = format!("{name} must be at least 1, not {rows}");
        SqlError::new(Code::ERRCODE_INVALID_PARAMETER_VALUE, message)
    })
}
