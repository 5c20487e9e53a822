//! `WITH (factory = '...')` and the operator class's support function.
//!
//! Options are read when an index is built and then copied to its meta page, which is the truth from there on.

use core::ffi::CStr;
use std::sync::OnceLock;

use pgrx::pg_sys;

use crate::engine::{self, Metric};
use crate::pg::relation::Rel;

/// Support function 1 returns the metric's code (`engine::Metric`), so that an operator class is known by what it
/// does and not by its name.
pub const METRIC_PROCEDURE: u16 = 1;
pub const SUPPORT_PROCEDURES: u16 = 1;

/// The longest factory string; FAISS's own are far shorter.
const MAX_FACTORY_BYTES: usize = 1000;

/// Parsed options. The string lies behind the struct, at the offset: never copy it by value.
#[repr(C)]
struct Options {
    varlena_header: i32,
    factory_offset: i32,
}

/// Registers the options, once per process, in `_PG_init`.
pub fn register() {
    OPTION_KIND.get_or_init(|| {
        // SAFETY: called on the main thread while the library is loaded; the strings are copied.
        unsafe {
            let kind = pg_sys::add_reloption_kind();
            pg_sys::add_string_reloption(
                kind,
                c"factory".as_ptr(),
                c"FAISS factory string, or auto".as_ptr(),
                c"auto".as_ptr(),
                Some(validate_factory),
                pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE,
            );
            kind
        }
    });
}

static OPTION_KIND: OnceLock<pg_sys::relopt_kind::Type> = OnceLock::new();

/// What can be said without knowing the dimensions; the rest is checked when the index is built.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn validate_factory(value: *const core::ffi::c_char) {
    if value.is_null() {
        return;
    }
    // SAFETY: a C string by reloptions.c.
    let factory = unsafe { CStr::from_ptr(value) };
    if factory.is_empty() || factory.to_bytes().len() > MAX_FACTORY_BYTES {
        pgrx::ereport!(
            ERROR,
            pgrx::PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "invalid value for option \"factory\"",
            "A factory string has between 1 and 1000 bytes."
        );
    }
}

/// Must not fail while `validate` is false: the relation cache calls it so.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn amoptions(options: pg_sys::Datum, validate: bool) -> *mut pg_sys::bytea {
    let Some(&kind) = OPTION_KIND.get() else {
        return core::ptr::null_mut();
    };
    let elements = [pg_sys::relopt_parse_elt {
        optname: c"factory".as_ptr(),
        opttype: pg_sys::relopt_type::RELOPT_TYPE_STRING,
        offset: core::mem::offset_of!(Options, factory_offset) as i32,
        #[cfg(feature = "pg18")]
        isset_offset: 0,
    }];
    // SAFETY: `options` comes from PostgreSQL; the elements describe `Options`.
    unsafe {
        pg_sys::build_reloptions(
            options,
            validate,
            kind,
            size_of::<Options>(),
            elements.as_ptr(),
            elements.len() as i32,
        )
        .cast()
    }
}

/// The `factory` option of an index.
pub fn factory(index: Rel) -> String {
    // SAFETY: an open relation; rd_options is null or what `amoptions` built.
    let options = unsafe { (*index.as_ptr()).rd_options.cast::<Options>() };
    if options.is_null() {
        return engine::AUTO.to_string();
    }
    // SAFETY: build_reloptions put a C string at the offset.
    let factory = unsafe {
        CStr::from_ptr(options.cast::<core::ffi::c_char>().offset((*options).factory_offset as isize))
    };
    factory.to_string_lossy().into_owned()
}

/// The metric of the operator class.
pub fn metric(index: Rel) -> Option<Metric> {
    // SAFETY: an open index of this access method; its operator class has support function 1, which takes nothing.
    let code = unsafe {
        let procedure = pg_sys::index_getprocinfo(index.as_ptr(), 1, METRIC_PROCEDURE);
        pg_sys::FunctionCall0Coll(procedure, pg_sys::InvalidOid)
    };
    u8::try_from(code.value() as i32).ok().and_then(Metric::from_code)
}

/// Support function 1 of the three operator classes.
#[pgrx::pg_extern]
fn vekter_metric_l2() -> i32 {
    i32::from(Metric::L2.code())
}

#[pgrx::pg_extern]
fn vekter_metric_ip() -> i32 {
    i32::from(Metric::InnerProduct.code())
}

#[pgrx::pg_extern]
fn vekter_metric_cosine() -> i32 {
    i32::from(Metric::Cosine.code())
}
