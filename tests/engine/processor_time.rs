//! Processor time, which measures the same beside other work as without it, or almost.

use std::time::Duration;

/// As `struct timespec` of Linux on 64 bits.
#[repr(C)]
#[derive(Default)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn clock_gettime(clock: std::ffi::c_int, time: *mut Timespec) -> std::ffi::c_int;
}

const CLOCK_PROCESS_CPUTIME_ID: std::ffi::c_int = 2;
const CLOCK_THREAD_CPUTIME_ID: std::ffi::c_int = 3;

/// Of all threads of this process, those that have ended included.
pub fn of_process() -> Duration {
    read(CLOCK_PROCESS_CPUTIME_ID)
}

pub fn of_thread() -> Duration {
    read(CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: std::ffi::c_int) -> Duration {
    let mut time = Timespec::default();
    // SAFETY: the time is one that the call may write.
    assert_eq!(unsafe { clock_gettime(clock, &mut time) }, 0);
    Duration::new(time.seconds as u64, time.nanoseconds as u32)
}
