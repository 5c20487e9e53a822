//! The `filter` argument: a condition on the table's columns, given as text.
//!
//! The text becomes part of a query, so it must be a condition and nothing else. PostgreSQL's parser checks that twice:
//! text that is a single target in `SELECT filter` is a complete expression, with nothing unclosed and nothing after
//! it; and of that expression in parentheses, analysis establishes that it is a boolean over the table's columns,
//! without parameters or aggregates.

use crate::functions::target::Target;
use crate::pg::condition;
use crate::pg::error::SqlError;

/// Checks the text. Names in it are resolved as for the caller.
pub fn check(filter: &str, target: &Target) -> Result<(), SqlError> {
    let hint = format!(
        "The filter is a condition on the columns of {}, written as after WHERE: 'price < 10 AND kind = ''book'''.",
        target.table
    );
    condition::check(filter, &target.from(), hint)
}

/// The checked text as part of a query, on lines of its own so that a comment at its end stays inside.
pub fn enclosed(filter: &str) -> String {
    format!("(\n{filter}\n)")
}
