//! The `filter` argument: a condition on the table's columns, given as text.
//!
//! It becomes part of a query, so it must be nothing but a condition. PostgreSQL's own parser says so, twice: what
//! stands alone in `SELECT filter` as one target is a complete expression, with nothing open and nothing behind it; and
//! of that expression between parentheses, analysis finds that it is a boolean over the table's columns, with neither
//! parameters nor aggregates.

use crate::functions::target::Target;
use crate::pg::condition;
use crate::pg::error::SqlError;

/// Checks the text. Names in it are looked up as the caller would.
pub fn check(filter: &str, target: &Target) -> Result<(), SqlError> {
    let hint = format!(
        "The filter is a condition on the columns of {}, written as after WHERE: 'price < 10 AND kind = ''book'''.",
        target.table
    );
    condition::check(filter, &target.from(), hint)
}

/// The checked text as part of a query: a comment at its end stays inside.
pub fn enclosed(filter: &str) -> String {
    format!("(\n{filter}\n)")
}
