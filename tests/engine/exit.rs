//! The end of a process while FAISS is at work.

use super::data::*;
use super::process;
use std::time::{Duration, Instant};
use vekter_engine::{Builder, Metric, initialise, on_worker, stop_worker};

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> i32;
    fn _exit(status: i32) -> !;
}

/// Stands for the destructors of the library and of those that it is linked to.
extern "C" fn destroy() {
    // SAFETY: ends the process, in whatever state.
    unsafe { _exit(3) }
}

/// Stands for what a session keeps open in thread-local variables.
struct Kept;

impl Drop for Kept {
    fn drop(&mut self) {
        destroy();
    }
}

thread_local! {
    static KEPT: Kept = const { Kept };
}

/// LAPACK decomposes a matrix of 2,048 columns in some seconds, and looks at no flag meanwhile.
#[test]
fn a_process_that_exits_while_a_matrix_is_decomposed_destroys_nothing() {
    let test = "exit::a_process_that_exits_while_a_matrix_is_decomposed_destroys_nothing";
    let outcome = process::alone(test, 8_000, || {
        initialise(|| false);
        // SAFETY: the function takes nothing and returns nothing.
        assert_eq!(unsafe { atexit(destroy) }, 0);
        KEPT.with(|_| ());
        let rows = clustered(2_100, 2_048, 1);
        let mut builder = Builder::new("ITQ,LSH", 2_048, Metric::L2).unwrap();
        let start = Instant::now();
        let mut tick = || {
            if start.elapsed() > Duration::from_millis(500) {
                stop_worker(0);
                std::process::exit(0);
            }
        };
        on_worker(2, &mut tick, || builder.train(&rows)).unwrap();
    });
    outcome.assert_success();
}
