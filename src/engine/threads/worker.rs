//! Long calls of FAISS on a thread of their own, interruptible.
//!
//! A PostgreSQL backend handles its signals on its one thread, and any thread that does not block a signal may be made
//! to run its handler. So FAISS's OpenMP threads start from a worker thread that blocks all signals; they inherit its
//! mask. Meanwhile the caller waits in short steps and handles interrupts.

use super::openmp_threads;
use crate::shim::ffi;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long the caller sleeps between two ticks, in milliseconds.
const TICK_MS: u64 = 20;
/// Stack of the worker, in bytes: LAPACK and OpenBLAS keep blocks of matrices on it.
const STACK_BYTES: usize = 16 << 20;

/// Set while a worker should stop.
static CANCEL: AtomicBool = AtomicBool::new(false);
/// Whether a worker is running.
static RUNNING: AtomicBool = AtomicBool::new(false);
/// Whether this process does background work.
static IN_BACKGROUND: AtomicBool = AtomicBool::new(false);
/// The caller's `fn() -> bool` as an address; 0 before [`initialise`].
static INTERRUPTED: AtomicUsize = AtomicUsize::new(0);

/// Prepares FAISS for this process and thread: installs the interrupt callback, which FAISS polls from any of its
/// threads (so `interrupted` may read only globals), and gives this thread no OpenMP threads. Cheap, starts no thread;
/// a second call replaces `interrupted`.
pub fn initialise(interrupted: fn() -> bool) {
    INTERRUPTED.store(interrupted as usize, Ordering::Relaxed);
    // SAFETY: the callback is a function without state. A failure (no memory for two small objects) leaves FAISS
    // without callback and mapped lists, and the first open reports it.
    unsafe { ffi::vekter_initialise(is_interrupted_callback) };
    // SAFETY: sets a property of the calling thread.
    unsafe { ffi::vekter_set_threads(1) };
}

/// Lowers the priority of FAISS's threads that start in this process from now on: no user waits for them. The caller's
/// own thread, which may hold locks, keeps its priority.
pub fn work_in_background() {
    IN_BACKGROUND.store(true, Ordering::Relaxed);
}

/// Whether the current work should stop.
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

/// Blocks all signals on this thread until it is dropped, on this thread.
pub(crate) struct SignalsBlocked {
    previous: ffi::SignalMask,
    blocked: bool,
}

impl SignalsBlocked {
    pub(crate) fn new() -> Self {
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

/// [`on_worker_while`] without a way to stop `work`.
pub fn on_worker<T: Send>(threads: usize, tick: &mut dyn FnMut(), work: impl FnOnce() -> T + Send) -> T {
    let mut goes_on = || {
        tick();
        true
    };
    on_worker_while(threads, &mut goes_on, work).0
}

/// Runs `work` on a new thread that blocks all signals and has up to `threads` OpenMP threads, and calls `goes_on` on
/// this thread about every 20 ms. Once `goes_on` returns false, FAISS is interrupted, and `work` likely ends with
/// `Interrupted`. Returns the result of `work`, and whether `goes_on` always returned true.
///
/// If `goes_on` unwinds, FAISS is interrupted, the worker is joined, and unwinding continues here. If `work` unwinds,
/// so does this call. A process has one worker at a time: interrupting one would interrupt all. If the system starts no
/// thread, `work` runs on this thread, without OpenMP threads and ticks; FAISS still polls the interrupt callback.
pub fn on_worker_while<T: Send>(
    threads: usize,
    goes_on: &mut dyn FnMut() -> bool,
    work: impl FnOnce() -> T + Send,
) -> (T, bool) {
    let finished = Mutex::new(false);
    let wake = Condvar::new();
    // The work is in a slot, where it still is if no thread starts.
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
                        unsafe { ffi::vekter_lower_priority() };
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

/// For a process that is about to exit with this status without unwinding: interrupts a worker and waits some seconds
/// for it. A decomposition of LAPACK's can take longer. Then the process ends before the library's destructors, which
/// would free memory that the worker's threads use; functions that were registered with atexit(3) earlier do not run.
pub fn stop_worker(status: i32) {
    const LIMIT_MS: u64 = 2000;
    CANCEL.store(true, Ordering::Relaxed);
    for _ in 0..LIMIT_MS / TICK_MS {
        if !RUNNING.load(Ordering::Acquire) {
            return;
        }
        std::thread::sleep(Duration::from_millis(TICK_MS));
    }
    // SAFETY: only registers a destructor of this thread, which is the one that is going to exit.
    unsafe { ffi::vekter_skip_destructors(status) };
}

/// Waits until `finished`, or until `goes_on` returns false. Returns its last result; Err: its panic.
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
