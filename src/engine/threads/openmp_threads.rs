//! The OpenMP threads of a thread that FAISS works on.
//!
//! libgomp ends the process where it cannot start a thread (libgomp/team.c, `gomp_team_start`). So threads of our own,
//! which may fail to start, find out what the system gives, and FAISS is told of no more.

use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::engine::shim::ffi;

/// Threads that are tried for each one that is wanted: others start some too, and one that has ended counts until the
/// system has put it away.
const TRIED_FOR_EACH: usize = 2;
/// As much as libgomp's have by default, so that a limit of the address space shows too.
const STACK_BYTES: usize = 8 << 20;

/// Starts the team of the calling thread: `threads` with itself, or as many as the system gives. It lives as long as
/// the caller, whose signal mask its threads inherit.
pub(in crate::engine) fn start(threads: usize) {
    let threads = 1 + obtainable(threads.saturating_sub(1));
    // SAFETY: sets properties of the calling thread, and no exception leaves it.
    unsafe { ffi::vekter_start_team(i32::try_from(threads).unwrap_or(i32::MAX)) };
}

/// How many of `wanted` further threads can be had at the same time.
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
