//! The aggregate `avg(vector)`. (`sum` is `vector_add` alone; `min` and `max` are in `compare`.)
//!
//! The state is a `double precision[]`: the number of rows, then the sum of each dimension. The state of no rows is
//! `{0}`, because their dimensions are not known yet.

use pgrx::PgSqlErrorCode::ERRCODE_INTERNAL_ERROR;
use pgrx::pg_extern;

use super::array::{Array, NewArray};
use super::error::{check_dims, check_expected_dims, check_finite, overflow, raise};
use super::{NewVector, Vector};

/// The number of rows and the sums in a state, which SQL can pass with any content.
fn state<'a>(array: &'a Array, caller: &str) -> (f64, &'a [f64]) {
    let is_list = matches!(*array.dims(), [_]) && !array.has_null_bitmap();
    match array.elements() {
        Some([rows, sums @ ..]) if is_list => (*rows, sums),
        _ => raise(ERRCODE_INTERNAL_ERROR, format!("{caller}: expected state array")),
    }
}

fn new_state(rows: f64, sums: impl ExactSizeIterator<Item = f64>) -> NewArray<f64> {
    let mut state = NewArray::zeroed(1 + sums.len());
    state[0] = rows;
    for (element, sum) in state[1..].iter_mut().zip(sums) {
        *element = sum;
    }
    state
}

fn finite_sum(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if sum.is_infinite() {
        overflow();
    }
    sum
}

/// `vector_accum(double precision[], vector) -> double precision[]`
#[pg_extern]
fn vector_accum(array: Array<'_>, vector: Vector<'_>) -> NewArray<f64> {
    let (rows, sums) = state(&array, "vector_accum");
    let elements = vector.iter().map(|&element| f64::from(element));
    if sums.is_empty() {
        return new_state(rows + 1.0, elements);
    }
    check_expected_dims(sums.len() as i32, vector.dims());
    new_state(rows + 1.0, sums.iter().zip(elements).map(|(&sum, element)| finite_sum(sum, element)))
}

/// `vector_combine(double precision[], double precision[]) -> double precision[]`, as pgvector 0.8.6 has it.
#[pg_extern]
fn vector_combine(a: Array<'_>, b: Array<'_>) -> NewArray<f64> {
    combine(state(&a, "vector_combine"), state(&b, "vector_combine"))
}

/// As `vector_combine`, for `avg`: a parallel scan in which no process finds a row combines states of no rows.
#[pg_extern]
fn vector_avg_combine(a: Array<'_>, b: Array<'_>) -> NewArray<f64> {
    match (state(&a, "vector_avg_combine"), state(&b, "vector_avg_combine")) {
        ((0.0, []), (0.0, [])) => new_state(0.0, std::iter::empty()),
        (a, b) => combine(a, b),
    }
}

fn combine((a_rows, a_sums): (f64, &[f64]), (b_rows, b_sums): (f64, &[f64])) -> NewArray<f64> {
    let (rows, sums) = match (a_rows, b_rows) {
        (0.0, _) => (b_rows, b_sums),
        (_, 0.0) => (a_rows, a_sums),
        _ => {
            check_dims(a_sums.len());
            check_expected_dims(a_sums.len() as i32, b_sums.len());
            let sums = a_sums.iter().zip(b_sums).map(|(&x, &y)| finite_sum(x, y));
            return new_state(a_rows + b_rows, sums);
        }
    };
    check_dims(sums.len());
    new_state(rows, sums.iter().copied())
}

/// `vector_avg(double precision[]) -> vector`: NULL for no rows, as the SQL standard requires.
#[pg_extern]
fn vector_avg(array: Array<'_>) -> Option<NewVector> {
    let (rows, sums) = state(&array, "vector_avg");
    if rows == 0.0 {
        return None;
    }
    let mut average = NewVector::zeroed(sums.len());
    for (element, sum) in average.iter_mut().zip(sums) {
        *element = (sum / rows) as f32;
    }
    check_finite(&average);
    Some(average)
}
