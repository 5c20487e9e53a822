//! FAISS behind a C interface: `shim.h` declares it, the C++ files implement it, and [`ffi`] binds it.
//!
//! `shim.cc` holds the functions themselves; `internal.h` lists what each of the other files does for them.

pub(super) mod ffi;
