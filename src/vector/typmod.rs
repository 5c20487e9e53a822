//! The type modifier of `vector(n)`: the number of dimensions, or -1 for any.

use pgrx::PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;
use pgrx::pg_extern;
use pgrx::pg_sys;

use super::array::Array;
use super::error::{check_expected_dims, raise};
use super::{MAX_DIMS, Vector};

/// `vector_typmod_in(cstring[]) -> integer`: parses the text in the parentheses.
#[pg_extern]
fn vector_typmod_in(modifiers: Array<'_>) -> i32 {
    let mut count = 0;
    // SAFETY: the argument is a `cstring[]` in plain storage; PostgreSQL checks its elements and raises errors
    // for what is not an integer.
    let integers = unsafe { pg_sys::ArrayGetIntegerTypmods(modifiers.as_ptr(), &mut count) };
    // SAFETY: there is one.
    let dims = (count == 1).then(|| unsafe { *integers });
    let invalid = |message: String| -> ! { raise(ERRCODE_INVALID_PARAMETER_VALUE, message) };
    match dims {
        None => invalid("invalid type modifier".to_owned()),
        Some(dims) if dims < 1 => invalid("dimensions for type vector must be at least 1".to_owned()),
        Some(dims) if dims as usize > MAX_DIMS => {
            invalid(format!("dimensions for type vector cannot exceed {MAX_DIMS}"))
        }
        Some(dims) => dims,
    }
}

/// `vector(vector, integer, boolean) -> vector`: the cast that applies a column's type modifier.
#[pg_extern]
fn vector<'a>(vector: Vector<'a>, typmod: i32, _explicit: bool) -> Vector<'a> {
    check_expected_dims(typmod, vector.dims());
    vector
}
