//! Runs FAISS on a worker thread while the main thread processes interrupts.

use crate::engine;
use crate::pg::exit;

/// Runs `work` on a worker thread, with at most `threads` OpenMP threads. No buffer may be pinned or locked.
pub fn interruptible<T: Send, E: Send>(
    threads: usize,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    run(threads, &mut || true, work).0
}

/// As `interruptible`, but stops when `should_continue`, which is polled, returns false; None if it was stopped.
pub fn stoppable<T: Send, E: Send>(
    threads: usize,
    should_continue: &mut dyn FnMut() -> bool,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<Option<T>, E> {
    match run(threads, should_continue, work) {
        (outcome, true) => outcome.map(Some),
        (_, false) => Ok(None),
    }
}

fn run<T: Send>(
    threads: usize,
    should_continue: &mut dyn FnMut() -> bool,
    work: impl FnOnce() -> T + Send,
) -> (T, bool) {
    exit::before_exit(engine::stop_worker);
    let mut tick = || {
        crate::pg::take_interrupts();
        should_continue()
    };
    let outcome = engine::on_worker_while(threads, &mut tick, work);
    // If FAISS noticed the interrupt first, raise PostgreSQL's own error instead.
    crate::pg::take_interrupts();
    outcome
}
