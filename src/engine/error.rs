//! Errors of the engine, worded for users.

use super::shim::ffi;
use std::ffi::CStr;

/// Reasons are clauses in the style of PostgreSQL's error details: lower case, no full stop.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A factory string that FAISS or the engine does not build, or that does not fit dimension or metric.
    #[error("{reason}")]
    Refused {
        reason: String,
        /// A valid string that is close to it.
        meant: Option<String>,
    },
    /// The training sample cannot train the index, for example because it has too few rows.
    #[error("{reason}")]
    UntrainableSample { reason: String },
    /// Bytes that are not an index of this engine.
    #[error("{reason}")]
    Corrupt { reason: String },
    /// Memory ran out; partial results were freed.
    #[error("out of memory")]
    OutOfMemory,
    /// The interrupt callback asked to stop.
    #[error("computation interrupted")]
    Interrupted,
    /// Rows, a query or search parameters that do not fit the index.
    #[error("{reason}")]
    BadParameter { reason: String },
    /// The sink of a written index failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Any other failure of FAISS, with its own reason.
    #[error("{reason}")]
    Failed { reason: String },
}

impl EngineError {
    pub(super) fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into(), meant: None }
    }

    pub(super) fn bad_parameter(reason: impl Into<String>) -> Self {
        Self::BadParameter { reason: reason.into() }
    }

    /// Turns a code of the shim into an error; `classify` makes the error of VEKTER_FAILED.
    pub(super) fn from_code(code: i32, classify: impl FnOnce(String) -> Self) -> Result<(), Self> {
        match code {
            ffi::OK => Ok(()),
            ffi::INTERRUPTED => Err(Self::Interrupted),
            ffi::OUT_OF_MEMORY => Err(Self::OutOfMemory),
            _ => Err(classify(reason_of(&last_message()))),
        }
    }
}

fn last_message() -> String {
    // SAFETY: has no requirements.
    let message = unsafe { ffi::vekter_message() };
    // SAFETY: a NUL-terminated buffer of this thread, which lives as long as the thread and changes only when this
    // thread calls the shim again.
    let text = unsafe { CStr::from_ptr(message) };
    text.to_string_lossy().into_owned()
}

/// Cuts a FAISS message ("Error in <function> at <file>:<line>: Error: '<condition>' failed: <reason>", see
/// faiss/impl/FaissException.cpp) down to its reason.
fn reason_of(message: &str) -> String {
    let message = message.trim();
    let reason = if let Some((_, after)) = message.rsplit_once("failed: ") {
        after
    } else if let (true, Some((_, after))) = (message.starts_with("Error in "), message.rsplit_once(": ")) {
        after
    } else {
        message
    };
    let reason = reason.trim().trim_end_matches('.');
    match reason {
        // Without a reason, the condition has to do.
        "" => message.rsplit_once("Error: ").map_or(message, |(_, condition)| condition).to_owned(),
        _ => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::reason_of;

    #[test]
    fn a_reason_has_no_function_file_or_line() {
        let throw_if_not = "Error in void faiss::ProductQuantizer::set_derived_values() at /x/y.cpp:63: Error: \
                            'd % M == 0' failed: The dimension of the vector (d) should be a multiple of M";
        assert_eq!(reason_of(throw_if_not), "The dimension of the vector (d) should be a multiple of M");
        let throw =
            "Error in Index* faiss::f() at /x/index_factory.cpp:958: could not parse index string Flut";
        assert_eq!(reason_of(throw), "could not parse index string Flut");
        let bare = "Error in void faiss::g() at /x/y.cpp:1: Error: 'k > 0' failed";
        assert_eq!(reason_of(bare), "'k > 0' failed");
        assert_eq!(reason_of("std::bad_cast"), "std::bad_cast");
    }
}
