//! vekter: FAISS inside PostgreSQL. `src/README.md` is the map of this house.

#[cfg(not(panic = "unwind"))]
compile_error!("PostgreSQL's errors cross Rust frames by unwinding: build with panic = \"unwind\"");

pub mod am;
pub mod cache;
pub mod engine;
pub mod failpoint;
pub mod functions;
pub mod guc;
pub mod index;
pub mod pg;
mod processor;
pub mod vector;

use pgrx::pg_sys;

pgrx::pg_module_magic!();

/// Called once in each process that loads the library; in the postmaster if it is preloaded. Starts no thread.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    processor::check();
    engine::initialise(is_interrupted);
    #[cfg(feature = "failpoints")]
    failpoint::initialise(pg::take_interrupts, engine::is_interrupted);
    am::options::register();
    guc::register();
}

/// Whether the query is to end. FAISS's threads ask too, so this only reads flags that signal handlers set.
fn is_interrupted() -> bool {
    // SAFETY: aligned integers that live as long as the process.
    unsafe {
        (&raw const pg_sys::QueryCancelPending).read_volatile() != 0
            || (&raw const pg_sys::ProcDiePending).read_volatile() != 0
    }
}
