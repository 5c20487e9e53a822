//! vekter: FAISS inside PostgreSQL. `src/README.md` describes the architecture.

#[cfg(not(panic = "unwind"))]
compile_error!("PostgreSQL's errors cross Rust frames by unwinding: build with panic = \"unwind\"");

pub mod am;
pub mod cache;
pub mod failpoint;
pub mod functions;
pub mod guc;
pub mod index;
pub mod page;
pub mod pg;
mod processor;
pub mod vector;

pub use vekter_engine as engine;

pgrx::pg_module_magic!();

/// Called once in each process that loads the library; in the postmaster if it is preloaded. Must start no thread.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::error::leave_backtraces_out();
    processor::check();
    pg::interrupts::initialise();
    pg::row_limit::initialise();
    pg::visible_index::initialise();
    engine::initialise(pg::interrupts::are_pending);
    #[cfg(feature = "failpoints")]
    failpoint::initialise(pg::take_interrupts, engine::is_interrupted);
    am::options::register();
    am::filtered_scan::initialise();
    guc::register();
}
