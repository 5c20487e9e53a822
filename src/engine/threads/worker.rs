//! Long native calls, off the caller's thread.
//!
//! A Postgres backend handles its signals on its one thread, and any thread that does not block a signal can be made
//! to run its handler. So FAISS's OpenMP threads are started from a thread of our own that has every signal blocked,
//! which they inherit. The caller meanwhile waits in short steps and listens to its user.

use super::openmp_threads;
use crate::engine::shim::ffi;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long the caller sleeps between two ticks, in milliseconds.
const TICK_MS: u64 = 20;
/// Stack of the worker, in bytes: LAPACK and OpenBLAS keep blocks of matrices on it.
const STACK_BYTES: usize = 16 << 20;

/// Set while a worker's work is unwanted.
static CANCEL: AtomicBool = AtomicBool::new(false);
/// Whether a worker is at work.
static RUNNING: AtomicBool = AtomicBool::new(false);
/// Whether nobody waits for what this process does.
static IN_BACKGROUND: AtomicBool = AtomicBool::new(false);
/// The caller's `fn() -> bool` as an address; 0 before [`initialise`].
static INTERRUPTED: AtomicUsize = AtomicUsize::new(0);

/// Prepares FAISS for this process and this thread: installs the interrupt callback, which FAISS then polls from
/// whatever thread it works on (so `interrupted` may only read globals), and gives this thread no OpenMP helpers.
/// Cheap, starts no thread; calling it again replaces `interrupted`.
pub fn initialise(interrupted: fn() -> bool) {
    INTERRUPTED.store(interrupted as usize, Ordering::Relaxed);
    // SAFETY: the callback is a function without state. A failure (no memory for two small objects) leaves FAISS
    // without callback and mapped lists, and the first open reports it.
    unsafe { ffi::vekter_initialise(is_interrupted_callback) };
    // SAFETY: sets a property of the calling thread.
    unsafe { ffi::vekter_set_threads(1) };
}

/// From here on FAISS's threads in this process leave the processor to all who want it: nobody waits for their work.
/// The caller's own thread, which may hold locks, does not.
pub fn work_in_background() {
    IN_BACKGROUND.store(true, Ordering::Relaxed);
}

/// Whether the work at hand should end.
pub fn is_interrupted() -> bool {
    if CANCEL.load(Ordering::Relaxed) {
        return true;
    }
    let address = INTERRUPTED.load(Ordering::Relaxed);
    if address == 0 {
        return false;
    }
    // SAFETY: the address is 0 or was stored by `initialise` from a `fn() -> bool`, and code is never unloaded.
    let interrupted = unsafe { std::mem::transmute::<usize, fn() -> bool>(address) };
    interrupted()
}

extern "C" fn is_interrupted_callback() -> bool {
    is_interrupted()
}

/// Blocks every signal on this thread until it is dropped, on this thread.
pub(in crate::engine) struct SignalsBlocked {
    previous: ffi::SignalMask,
    blocked: bool,
}

impl SignalsBlocked {
    pub(in crate::engine) fn new() -> Self {
        let mut previous: ffi::SignalMask = [0; 16];
        let bytes = size_of_val(&previous);
        // SAFETY: the mask has `bytes` bytes, is aligned for a sigset_t, and the shim refuses too few.
        let code = unsafe { ffi::vekter_block_signals(previous.as_mut_ptr().cast(), bytes) };
        Self { previous, blocked: code == ffi::OK }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        if self.blocked {
            // SAFETY: `previous` holds the mask that vekter_block_signals stored.
            unsafe { ffi::vekter_restore_signals(self.previous.as_ptr().cast()) };
        }
    }
}

/// As [`on_worker_while`], to the end of `work`.
pub fn on_worker<T: Send>(threads: usize, tick: &mut dyn FnMut(), work: impl FnOnce() -> T + Send) -> T {
    let mut goes_on = || {
        tick();
        true
    };
    on_worker_while(threads, &mut goes_on, work).0
}

/// Runs `work` on a new thread with all signals blocked, where OpenMP has up to `threads` threads; meanwhile calls
/// `goes_on` on this thread about every 20 ms. Returns what `work` did, and whether `goes_on` always held: when it does
/// not, FAISS is asked to stop, and `work` likely ends with `Interrupted`.
///
/// If `goes_on` unwinds, FAISS is asked to stop, the thread is joined, and the unwinding goes on. If `work` unwinds,
/// that goes on here. One worker at a time in a process: cancelling one would cancel all. Where the system gives no
/// thread, `work` runs here, alone and without ticks; FAISS still polls the interrupt callback.
pub fn on_worker_while<T: Send>(
    threads: usize,
    goes_on: &mut dyn FnMut() -> bool,
    work: impl FnOnce() -> T + Send,
) -> (T, bool) {
    let finished = Mutex::new(false);
    let wake = Condvar::new();
    // The work waits in a slot, so that it is still here when no thread could be made.
    let slot = Mutex::new(Some(work));
    let run = || {
        let work = lock(&slot).take();
        work.map(|work| catch_unwind(AssertUnwindSafe(work)))
    };
    let (outcome, waited) = std::thread::scope(|scope| {
        RUNNING.store(true, Ordering::Release);
        let spawned = {
            let _blocked = SignalsBlocked::new();
            std::thread::Builder::new().name("vekter".into()).stack_size(STACK_BYTES).spawn_scoped(
                scope,
                || {
                    if IN_BACKGROUND.load(Ordering::Relaxed) {
                        // SAFETY: sets a property of this new thread, which its team inherits.
                        unsafe { ffi::vekter_give_way() };
                    }
                    openmp_threads::start(threads);
                    let outcome = run();
                    RUNNING.store(false, Ordering::Release);
                    *lock(&finished) = true;
                    wake.notify_one();
                    outcome
                },
            )
        };
        let Ok(worker) = spawned else {
            RUNNING.store(false, Ordering::Release);
            return (Ok(run()), Ok(true));
        };
        let waited = wait(&finished, &wake, goes_on);
        if !matches!(waited, Ok(true)) {
            CANCEL.store(true, Ordering::Relaxed);
        }
        let outcome = worker.join();
        CANCEL.store(false, Ordering::Relaxed);
        (outcome, waited)
    });
    let went_on = waited.unwrap_or_else(|panic| resume_unwind(panic));
    match outcome {
        Ok(Some(Ok(value))) => (value, went_on),
        Ok(Some(Err(panic))) | Err(panic) => resume_unwind(panic),
        // `run` is called once, and finds the work that was put there.
        Ok(None) => unreachable!("a worker's work was taken twice"),
    }
}

/// For a process that is about to exit with this status without unwinding: asks a worker to stop and waits for it, a
/// few seconds. Matrices that LAPACK decomposes can take longer. Then the process ends without the library's
/// destructors, which would take away what its threads work with; whoever has registered something with atexit(3)
/// before does not see the end.
pub fn stop_worker(status: i32) {
    const LIMIT_MS: u64 = 2000;
    CANCEL.store(true, Ordering::Relaxed);
    for _ in 0..LIMIT_MS / TICK_MS {
        if !RUNNING.load(Ordering::Acquire) {
            return;
        }
        std::thread::sleep(Duration::from_millis(TICK_MS));
    }
    // SAFETY: ends the process in exit(3), before what was registered earlier.
    unsafe { ffi::vekter_skip_destructors(status) };
}

/// Waits until `finished` while `goes_on` holds. Returns whether it did; Err: what it panicked with.
fn wait(
    finished: &Mutex<bool>,
    wake: &Condvar,
    goes_on: &mut dyn FnMut() -> bool,
) -> std::thread::Result<bool> {
    let mut done = lock(finished);
    while !*done {
        let (guard, timeout) =
            wake.wait_timeout(done, Duration::from_millis(TICK_MS)).unwrap_or_else(PoisonError::into_inner);
        done = guard;
        if timeout.timed_out() && !*done {
            drop(done);
            if !catch_unwind(AssertUnwindSafe(&mut *goes_on))? {
                return Ok(false);
            }
            done = lock(finished);
        }
    }
    Ok(true)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while holding these locks, and their contents are single values.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
