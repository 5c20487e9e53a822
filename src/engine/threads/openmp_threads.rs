//! Starting the OpenMP threads of a worker.
//!
//! libgomp ends the process, and so the user's session, if it cannot start a thread (libgomp/team.c,
//! `gomp_team_start`). So threads of Rust's, which may fail to start, first find out how many the system allows at the
//! moment. That takes 0.07 ms for one thread and 1.1 ms for seven (two cores, busy), and nothing else shows limits of
//! processes (`ulimit -u`, a cgroup's pids.max) and of the address space.

use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::shim::ffi;

/// Threads that are tried for each wanted one: other processes start threads too, and one that has ended counts until
/// the system has reaped it.
const TRIED_FOR_EACH: usize = 2;
/// The default stack of libgomp's threads, so that a limit of the address space shows too.
const STACK_BYTES: usize = 8 << 20;

/// Starts the OpenMP threads of the calling thread: `threads` with itself, or as many as the system allows. They live
/// as long as the caller and inherit its signal mask.
pub(crate) fn start(threads: usize) {
    let threads = 1 + obtainable(threads.saturating_sub(1));
    // SAFETY: sets properties of the calling thread, and no exception leaves it.
    unsafe { ffi::vekter_start_openmp_threads(i32::try_from(threads).unwrap_or(i32::MAX)) };
}

/// The number of threads, up to `wanted`, that the system allows at the same time.
fn obtainable(wanted: usize) -> usize {
    let gate = Mutex::new(());
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        let pass = || drop(gate.lock());
        let start = |_| thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, pass).ok();
        let started = (0..wanted * TRIED_FOR_EACH).map_while(start).count();
        drop(closed);
        started / TRIED_FOR_EACH
    })
}

#[cfg(test)]
mod tests {
    use super::obtainable;

    #[test]
    fn the_threads_that_are_wanted_are_had_where_nothing_limits_them() {
        assert_eq!([0, 1, 7].map(obtainable), [0, 1, 7]);
    }
}
