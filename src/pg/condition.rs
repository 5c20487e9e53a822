//! Checks conditions that are given as text and become part of a query.

use std::ffi::CStr;
use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode as Code, PgTryBuilder, pg_sys};

use super::error::{SqlError, class_of};
use super::list::{elements, references};
use super::node;
use super::text::to_server;

/// Checks that `text` is exactly one boolean expression over the columns of `from` (a FROM item), so that it can be put
/// in parentheses, with line breaks around it. Errors are PostgreSQL's, with `hint`.
pub fn check(text: &str, from: &str, hint: String) -> Result<(), SqlError> {
    let alone = to_server(&format!("SELECT {text}"));
    let enclosed = to_server(&format!("SELECT FROM {from} WHERE (\n{text}\n)"));
    // There is nothing to undo on failure, so the error is re-raised with the hint.
    PgTryBuilder::new(AssertUnwindSafe(|| {
        // SAFETY: a valid C string, in a transaction; what is made is this memory context's.
        let statements = unsafe { parse(&alone) };
        // SAFETY: the parser's statements.
        if !unsafe { is_one_expression(statements) } {
            let message = "filter is not one condition";
            return Err(SqlError::new(Code::ERRCODE_SYNTAX_ERROR, message).hint(hint.clone()));
        }
        // SAFETY: in a transaction with a snapshot; the text's own part of it is one expression, so this is one
        // statement.
        unsafe { analyse(&enclosed) };
        Ok(())
    }))
    .catch_others(|error| Err(with_hint(error, &hint)))
    .execute()
}

/// # Safety
/// Called in a transaction.
unsafe fn parse(query: &CStr) -> *mut pg_sys::List {
    // SAFETY: a valid C string.
    unsafe { pg_sys::raw_parser(query.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT) }
}

/// Whether the statements are a single `SELECT expression`.
///
/// # Safety
/// They are the parser's.
unsafe fn is_one_expression(statements: *mut pg_sys::List) -> bool {
    // SAFETY: the parser's list of RawStmt.
    let Some(statement) = only(unsafe { references::<pg_sys::RawStmt>(statements) }) else {
        return false;
    };
    // SAFETY: a RawStmt's statement is a node.
    let Some(select) = (unsafe { node::read::<pg_sys::SelectStmt>(statement.stmt) }) else {
        return false;
    };
    let lists = [
        select.distinctClause,
        select.fromClause,
        select.groupClause,
        select.windowClause,
        select.valuesLists,
        select.sortClause,
        select.lockingClause,
    ];
    let clauses = [select.whereClause, select.havingClause, select.limitOffset, select.limitCount];
    // SAFETY: the parser's list of ResTarget.
    let Some(target) = only(unsafe { references::<pg_sys::ResTarget>(select.targetList) }) else {
        return false;
    };
    lists.iter().all(|list| list.is_null())
        && clauses.iter().all(|clause| clause.is_null())
        && select.intoClause.is_null()
        && select.withClause.is_null()
        && select.op == pg_sys::SetOperation::SETOP_NONE
        && target.name.is_null()
}

/// # Safety
/// `query` is one statement; called in a transaction with a snapshot.
unsafe fn analyse(query: &CStr) {
    // SAFETY: called in a transaction.
    let statements = unsafe { parse(query) };
    // SAFETY: the parser's list of RawStmt.
    let Some(statement) = only(unsafe { elements::<pg_sys::RawStmt>(statements) }) else {
        pgrx::error!("a filter changed the statement that it is part of");
    };
    let (text, no_types, no_environment) = (query.as_ptr(), core::ptr::null(), core::ptr::null_mut());
    // SAFETY: the statement and its text; no parameters are declared.
    unsafe { pg_sys::parse_analyze_fixedparams(statement, text, no_types, 0, no_environment) };
}

fn only<T>(mut elements: impl Iterator<Item = T>) -> Option<T> {
    elements.next().filter(|_| elements.next().is_none())
}

/// Adds the hint to errors caused by the text. A denied privilege gets none; others (query cancel, out of memory) are
/// raised unchanged.
fn with_hint(error: CaughtError, hint: &str) -> SqlError {
    let report = match &error {
        CaughtError::PostgresError(report) => report,
        _ => error.rethrow(),
    };
    let code = report.sql_error_code();
    let classes = [
        Code::ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION,
        Code::ERRCODE_DATA_EXCEPTION,
        Code::ERRCODE_FEATURE_NOT_SUPPORTED,
    ];
    let is_denied = code == Code::ERRCODE_INSUFFICIENT_PRIVILEGE;
    if !is_denied && !classes.iter().any(|class| class_of(*class) == class_of(code)) {
        error.rethrow();
    }
    // Raised anew: the position of the error is one in the text that was parsed here, not in the user's statement.
    let mut same = SqlError::new(code, report.message());
    same.hint = match (is_denied, report.hint()) {
        (true, own) => own.map(str::to_string),
        (false, own) => Some(own.map_or(hint.to_string(), |own| format!("{own} {hint}"))),
    };
    match report.detail() {
        Some(detail) => same.detail(detail),
        None => same,
    }
}
