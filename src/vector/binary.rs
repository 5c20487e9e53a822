//! The binary form on the wire, big-endian: int16 dims, int16 0, float4[dims].

use pgrx::PgSqlErrorCode::ERRCODE_DATA_EXCEPTION;
use pgrx::datum::Internal;
use pgrx::pg_extern;
use pgrx::pg_sys;

use super::error::{check_dims, check_expected_dims, check_finite, null_argument, raise};
use super::{NewVector, Vector};
use crate::pg::bytes::NewBytes;

/// `vector_recv(internal, oid, integer) -> vector`
#[pg_extern]
fn vector_recv(message: Internal, _element_type: pg_sys::Oid, typmod: i32) -> NewVector {
    let Some(message) = message.unwrap() else { null_argument() };
    let message: pg_sys::StringInfo = message.cast_mut_ptr();
    // SAFETY: PostgreSQL passes receive functions a StringInfo (`internal` cannot come from SQL); pq_getmsgint
    // raises an error at the message's end.
    let int16 = || unsafe { pg_sys::pq_getmsgint(message, 2) } as i16;
    let (dims, unused) = (int16(), int16());
    let dims = usize::try_from(dims).unwrap_or(0);
    check_dims(dims);
    check_expected_dims(typmod, dims);
    if unused != 0 {
        raise(ERRCODE_DATA_EXCEPTION, format!("expected unused to be 0, not {unused}"));
    }
    let mut vector = NewVector::zeroed(dims);
    // SAFETY: the message that PostgreSQL passed, of which nothing is read meanwhile.
    let about = unsafe { &*message };
    // The cursor never lies behind the end.
    let remaining = (about.len - about.cursor) as usize / size_of::<f32>();
    let (present, missing) = vector.split_at_mut(remaining.min(dims));
    // Check the numbers that are present before reporting a short message, as reading number by number would.
    // SAFETY: the message that PostgreSQL passed.
    unsafe { read_floats(message, present) };
    check_finite(present);
    // SAFETY: the message that PostgreSQL passed.
    unsafe { read_floats(message, missing) };
    vector
}

/// Reads as many floats as `elements` has from a message; raises PostgreSQL's error if it is too short.
///
/// # Safety
/// `message` is what PostgreSQL passed to the receive function.
unsafe fn read_floats(message: pg_sys::StringInfo, elements: &mut [f32]) {
    let bytes = size_of_val(elements);
    // SAFETY: the caller's promise; raises an error where there are fewer bytes.
    let start = unsafe { pg_sys::pq_getmsgbytes(message, bytes as i32) };
    // SAFETY: that many bytes inside the message, which outlives this call.
    let body = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), bytes) };
    let (floats, _) = body.as_chunks();
    for (element, &float) in elements.iter_mut().zip(floats) {
        *element = f32::from_be_bytes(float);
    }
}

/// `vector_send(vector) -> bytea`
#[pg_extern]
fn vector_send(vector: Vector<'_>) -> NewBytes {
    let mut bytea = NewBytes::zeroed(2 * size_of::<u16>() + vector.dims() * size_of::<f32>());
    let (head, floats) = bytea.as_mut_slice().split_at_mut(2 * size_of::<u16>());
    head[..2].copy_from_slice(&(vector.dims() as u16).to_be_bytes());
    let (floats, _) = floats.as_chunks_mut();
    for (float, element) in floats.iter_mut().zip(vector.iter()) {
        *float = element.to_be_bytes();
    }
    bytea
}
