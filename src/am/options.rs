//! `WITH (factory = '...', search = '...', recall = ..., delta_limit = ...)` and the operator class's support
//! functions.
//!
//! The factory is read when an index is built and copied to its meta page, which is authoritative from then on. The
//! other options are read when they are used, so ALTER INDEX changes them without a rebuild.

use core::ffi::CStr;
use std::sync::OnceLock;

use pgrx::pg_sys;

use super::search_options;
use crate::engine::{self, Metric};
use crate::guc;
use crate::pg::error::OrRaise;
use crate::pg::relation::Rel;
use crate::pg::text;
use crate::vector::ValueKind;

/// Support function 1 returns the metric's code (`engine::Metric`), so that the metric does not depend on the operator
/// class's name.
pub const METRIC_PROCEDURE: u16 = 1;
/// Support function 2 returns how values are stored (`vector::ValueKind`); without it, as float4.
pub const VALUE_PROCEDURE: u16 = 2;
pub const SUPPORT_PROCEDURES: u16 = 2;

/// Limit on the length of factory strings and search parameters, far above that of FAISS's own.
const MAX_TEXT_BYTES: usize = 1000;

/// Parsed options. Strings follow the struct, at the given offsets, so it must not be copied by value. Offset 0: not
/// set.
#[repr(C)]
struct Options {
    varlena_header: i32,
    factory_offset: i32,
    search_offset: i32,
    /// 0: not set.
    recall: f64,
    /// In kB; -1: not set.
    delta_limit: i32,
}

/// Registers the options, once per process, in `_PG_init`.
pub fn register() {
    OPTION_KIND.get_or_init(|| {
        let (exclusive, shared) = (pg_sys::AccessExclusiveLock, pg_sys::ShareUpdateExclusiveLock);
        let (exclusive, shared) = (exclusive as pg_sys::LOCKMODE, shared as pg_sys::LOCKMODE);
        // SAFETY: called on the main thread while the library is loaded.
        let kind = unsafe { pg_sys::add_reloption_kind() };
        let text = |name: &CStr, description: &CStr, default, validate, mode| {
            let (name, description) = (name.as_ptr(), description.as_ptr());
            // SAFETY: the strings are copied.
            unsafe { pg_sys::add_string_reloption(kind, name, description, default, validate, mode) };
        };
        let description = c"FAISS factory string, or auto";
        text(c"factory", description, c"auto".as_ptr(), Some(validate_factory), exclusive);
        let description = c"Search parameters, such as nprobe=32 or efSearch=64";
        text(c"search", description, core::ptr::null(), Some(validate_search), shared);
        let (name, description) = (c"recall", c"Share of the true neighbours that a search is to find");
        let (name, description) = (name.as_ptr(), description.as_ptr());
        // SAFETY: the strings are copied.
        unsafe { pg_sys::add_real_reloption(kind, name, description, 0.0, 0.0, 1.0, shared) };
        let description = c"Size of the delta beyond which it is sealed into a segment, in kilobytes";
        let (name, description) = (c"delta_limit".as_ptr(), description.as_ptr());
        let (least, most) = (guc::MIN_DELTA_LIMIT_KB, i32::MAX);
        // SAFETY: the strings are copied.
        unsafe { pg_sys::add_int_reloption(kind, name, description, -1, least, most, shared) };
        kind
    });
}

static OPTION_KIND: OnceLock<pg_sys::relopt_kind::Type> = OnceLock::new();

/// Checks what does not depend on the dimensions; the rest is checked when the index is built.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn validate_factory(value: *const core::ffi::c_char) {
    if value.is_null() {
        return;
    }
    // SAFETY: a C string by reloptions.c.
    let factory = unsafe { CStr::from_ptr(value) };
    if factory.is_empty() || factory.to_bytes().len() > MAX_TEXT_BYTES {
        pgrx::ereport!(
            ERROR,
            pgrx::PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "invalid value for option \"factory\"",
            "A factory string has between 1 and 1000 bytes."
        );
    }
}

/// Checks what does not depend on the factory; `amoptions` checks the rest.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn validate_search(value: *const core::ffi::c_char) {
    if value.is_null() {
        return;
    }
    // SAFETY: a C string by reloptions.c.
    let search = unsafe { CStr::from_ptr(value) };
    if search.to_bytes().len() > MAX_TEXT_BYTES {
        pgrx::ereport!(
            ERROR,
            pgrx::PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "invalid value for option \"search\"",
            "Search parameters have at most 1000 bytes."
        );
    }
}

/// Must not raise errors while `validate` is false, as when the relation cache calls it.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn amoptions(options: pg_sys::Datum, validate: bool) -> *mut pg_sys::bytea {
    let Some(&kind) = OPTION_KIND.get() else {
        return core::ptr::null_mut();
    };
    let element = |name: &'static CStr, kind, offset| pg_sys::relopt_parse_elt {
        optname: name.as_ptr(),
        opttype: kind,
        offset: offset as i32,
        #[cfg(feature = "pg18")]
        isset_offset: 0,
    };
    let (text, real) = (pg_sys::relopt_type::RELOPT_TYPE_STRING, pg_sys::relopt_type::RELOPT_TYPE_REAL);
    let whole = pg_sys::relopt_type::RELOPT_TYPE_INT;
    let elements = [
        element(c"factory", text, core::mem::offset_of!(Options, factory_offset)),
        element(c"search", text, core::mem::offset_of!(Options, search_offset)),
        element(c"recall", real, core::mem::offset_of!(Options, recall)),
        element(c"delta_limit", whole, core::mem::offset_of!(Options, delta_limit)),
    ];
    // SAFETY: `options` comes from PostgreSQL; the elements describe `Options`.
    let built: *mut pg_sys::bytea = unsafe {
        pg_sys::build_reloptions(
            options,
            validate,
            kind,
            size_of::<Options>(),
            elements.as_ptr(),
            elements.len() as i32,
        )
        .cast()
    };
    if validate {
        // SAFETY: what was just built, or NULL.
        let factory = unsafe { factory_in(built.cast()) };
        // SAFETY: what was just built, or NULL.
        if let Some(search) = unsafe { search_in(built.cast()) } {
            search_options::check_text(&search, &factory, None).or_raise();
        }
    }
    built
}

/// The `factory` option of an index, in FAISS's spelling.
pub fn factory(index: Rel) -> String {
    // SAFETY: what `amoptions` built, or null.
    unsafe { factory_in(index.options().cast()) }
}

/// The `search` option of an index.
pub fn search(index: Rel) -> Option<String> {
    // SAFETY: what `amoptions` built, or null.
    unsafe { search_in(index.options().cast()) }
}

/// The `recall` option of an index.
pub fn recall(index: Rel) -> Option<f64> {
    // SAFETY: what `amoptions` built, or null.
    let options = unsafe { index.options().cast::<Options>().as_ref() };
    options.map(|options| options.recall).filter(|&recall| recall > 0.0)
}

/// Size above which an index's delta is sealed: its `delta_limit` option, or else the setting.
pub fn delta_limit_bytes(index: Rel) -> u64 {
    // SAFETY: what `amoptions` built, or null.
    let options = unsafe { index.options().cast::<Options>().as_ref() };
    let own = options.and_then(|options| u64::try_from(options.delta_limit).ok());
    own.map_or_else(guc::delta_limit_bytes, |kilobytes| kilobytes * 1024)
}

/// # Safety
/// `options` is null or what `amoptions` built.
unsafe fn factory_in(options: *const Options) -> String {
    // SAFETY: the caller's promise.
    let text = unsafe { text_at(options, |options| options.factory_offset) };
    text.map_or_else(|| engine::AUTO.to_string(), |text| engine::canonical(&text))
}

/// # Safety
/// `options` is null or what `amoptions` built.
unsafe fn search_in(options: *const Options) -> Option<String> {
    // SAFETY: the caller's promise.
    unsafe { text_at(options, |options| options.search_offset) }
}

/// # Safety
/// `options` is null or what `amoptions` built.
unsafe fn text_at(options: *const Options, offset: impl Fn(&Options) -> i32) -> Option<String> {
    // SAFETY: the caller's promise.
    let offset = offset(unsafe { options.as_ref() }?);
    if offset == 0 {
        return None;
    }
    let text = options.cast::<core::ffi::c_char>().wrapping_offset(offset as isize);
    // SAFETY: build_reloptions put a C string at the offset.
    Some(unsafe { text::from_c(text) })
}

/// The metric of the operator class.
pub fn metric(index: Rel) -> Option<Metric> {
    // SAFETY: an open index of this access method; its operator class has support function 1.
    let procedure = unsafe { pg_sys::index_getprocinfo(index.as_ptr(), 1, METRIC_PROCEDURE) };
    // SAFETY: it takes nothing.
    let code = unsafe { pg_sys::FunctionCall0Coll(procedure, pg_sys::InvalidOid) };
    u8::try_from(code.value() as i32).ok().and_then(Metric::from_code)
}

/// How the values of an index's column are stored; None if its operator class says nothing that is known.
pub fn value_kind(index: Rel) -> Option<ValueKind> {
    let (family, input) = index.operator_family();
    OperatorClass { family, input }.value_kind()
}

/// An operator class of this access method, by its family and its type.
#[derive(Clone, Copy)]
pub struct OperatorClass {
    pub family: pg_sys::Oid,
    pub input: pg_sys::Oid,
}

impl OperatorClass {
    pub fn metric(self) -> Option<Metric> {
        self.support(METRIC_PROCEDURE).and_then(Metric::from_code)
    }

    /// None if the support function returns nothing that is known.
    pub fn value_kind(self) -> Option<ValueKind> {
        match self.procedure(VALUE_PROCEDURE) {
            pg_sys::InvalidOid => Some(ValueKind::default()),
            _ => self.support(VALUE_PROCEDURE).and_then(ValueKind::from_code),
        }
    }

    fn procedure(self, number: u16) -> pg_sys::Oid {
        // SAFETY: looks a catalogue row up.
        unsafe { pg_sys::get_opfamily_proc(self.family, self.input, self.input, number as i16) }
    }

    /// What a support function returns; None if there is none, or it is no code.
    fn support(self, number: u16) -> Option<u8> {
        let procedure = self.procedure(number);
        if procedure == pg_sys::InvalidOid {
            return None;
        }
        // SAFETY: the support functions of this access method take nothing and return int4.
        let code = unsafe { pg_sys::OidFunctionCall0Coll(procedure, pg_sys::InvalidOid) };
        u8::try_from(code.value() as i32).ok()
    }
}

/// Support function 1 of the operator classes.
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

#[pgrx::pg_extern]
fn vekter_metric_l1() -> i32 {
    i32::from(Metric::L1.code())
}

/// Support function 2 of the operator classes for pgvector's `halfvec`.
#[pgrx::pg_extern]
fn vekter_value_half() -> i32 {
    i32::from(ValueKind::Half.code())
}
