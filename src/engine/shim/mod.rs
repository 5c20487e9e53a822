//! FAISS behind a C interface: `shim.h` declares it, the C++ files implement it, and [`ffi`] binds it.
//!
//! `shim.cc` and `process.cc` hold the functions themselves. `parts.cc` takes an index apart once, when it is made or
//! opened, and the other files work on these parts; `internal.h` lists their functions. `constants` are
//! shared by both languages.

pub(super) mod constants;
pub(super) mod ffi;
