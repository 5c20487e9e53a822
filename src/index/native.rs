//! Running FAISS beside the main thread, which takes interrupts meanwhile.

use crate::engine;
use crate::pg::exit;

/// Runs `work` on a thread of its own and at most `threads` of FAISS's. No buffer may be pinned or locked.
pub fn interruptible<T: Send, E: Send>(
    threads: usize,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    exit::before_exit(engine::stop_worker);
    let outcome = engine::on_worker(threads, &mut crate::pg::take_interrupts, work);
    // Where FAISS noticed the interrupt first, PostgreSQL's own error is the one to raise.
    pgrx::check_for_interrupts!();
    outcome
}
