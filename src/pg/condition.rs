//! Checks conditions that are given as text and become part of a query.

use std::ffi::CStr;
use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode as Code, PgTryBuilder, pg_sys};

use super::error::{SqlError, class_of};
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
        if !is_one_expression(statements) {
            let message = "filter is not one condition";
            return Err(SqlError::new(Code::ERRCODE_SYNTAX_ERROR, message).hint(hint.clone()));
        }
        // SAFETY: as above; the text's own part of it is one expression, so this is one statement.
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
fn is_one_expression(statements: *mut pg_sys::List) -> bool {
    // SAFETY: the parser's list of RawStmt, whose statements are nodes.
    unsafe {
        let Some(statement) = only::<pg_sys::RawStmt>(statements) else {
            return false;
        };
        let Some(select) = node::<pg_sys::SelectStmt>((*statement).stmt, pg_sys::NodeTag::T_SelectStmt)
        else {
            return false;
        };
        let select = &*select;
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
        let Some(target) = only::<pg_sys::ResTarget>(select.targetList) else {
            return false;
        };
        lists.iter().all(|list| list.is_null())
            && clauses.iter().all(|clause| clause.is_null())
            && select.intoClause.is_null()
            && select.withClause.is_null()
            && select.op == pg_sys::SetOperation::SETOP_NONE
            && (*target).name.is_null()
    }
}

/// # Safety
/// `query` is one statement; called in a transaction with a snapshot.
unsafe fn analyse(query: &CStr) {
    // SAFETY: the parser's list has one RawStmt, by the caller's promise; no parameters are declared.
    unsafe {
        let Some(statement) = only::<pg_sys::RawStmt>(parse(query)) else {
            pgrx::error!("a filter changed the statement that it is part of");
        };
        pg_sys::parse_analyze_fixedparams(
            statement,
            query.as_ptr(),
            core::ptr::null(),
            0,
            core::ptr::null_mut(),
        );
    }
}

/// # Safety
/// `list` is null or a valid list of pointers to `T`.
unsafe fn only<T>(list: *mut pg_sys::List) -> Option<*mut T> {
    // SAFETY: the caller's promise.
    unsafe { (!list.is_null() && (*list).length == 1).then(|| (*(*list).elements).ptr_value.cast()) }
}

/// # Safety
/// `node` is null or a valid node; nodes with this tag are `T`.
unsafe fn node<T>(node: *mut pg_sys::Node, tag: pg_sys::NodeTag) -> Option<*mut T> {
    // SAFETY: the caller's promise.
    unsafe { (!node.is_null() && (*node).type_ == tag).then(|| node.cast()) }
}

/// Adds the hint to errors caused by the text; others (query cancel, out of memory) are returned unchanged.
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
    if is_denied || !classes.iter().any(|class| class_of(*class) == class_of(code)) {
        error.rethrow();
    }
    let hint = report.hint().map_or(hint.to_string(), |own| format!("{own} {hint}"));
    let same = SqlError::new(code, report.message()).hint(hint);
    match report.detail() {
        Some(detail) => same.detail(detail),
        None => same,
    }
}
