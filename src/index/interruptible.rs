//! Running FAISS beside the main thread, which takes interrupts meanwhile.

use crate::engine;
use crate::pg::exit;

/// Runs `work` on a thread of its own and at most `threads` of FAISS's. No buffer may be pinned or locked.
pub fn interruptible<T: Send, E: Send>(
    threads: usize,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    run(threads, &mut || true, work).0
}

/// As `interruptible`, for as long as `goes_on` holds, which is asked now and then; None if it did not.
pub fn stoppable<T: Send, E: Send>(
    threads: usize,
    goes_on: &mut dyn FnMut() -> bool,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<Option<T>, E> {
    match run(threads, goes_on, work) {
        (outcome, true) => outcome.map(Some),
        (_, false) => Ok(None),
    }
}

fn run<T: Send>(
    threads: usize,
    goes_on: &mut dyn FnMut() -> bool,
    work: impl FnOnce() -> T + Send,
) -> (T, bool) {
    exit::before_exit(engine::stop_worker);
    let mut tick = || {
        crate::pg::take_interrupts();
        goes_on()
    };
    let outcome = engine::on_worker_while(threads, &mut tick, work);
    // Where FAISS noticed the interrupt first, PostgreSQL's own error is the one to raise.
    crate::pg::take_interrupts();
    outcome
}
