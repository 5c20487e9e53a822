//! vekter: FAISS inside PostgreSQL. `src/README.md` is the map of this house.

#[cfg(not(panic = "unwind"))]
compile_error!("PostgreSQL's errors cross Rust frames by unwinding: build with panic = \"unwind\"");

pub mod cache;
pub mod engine;
pub mod index;
pub mod pg;
pub mod vector;

pgrx::pg_module_magic!();
