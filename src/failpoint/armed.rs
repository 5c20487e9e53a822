//! The implementation of failpoints in builds that have them.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use super::NAMES;

/// Interval of polling for the removal of a `wait` file, in milliseconds.
const WAIT_STEP_MS: u64 = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Crash,
    Error,
    DiskFull,
    Wait,
}

struct Armed {
    name: &'static str,
    action: Action,
    /// The hit that triggers the action, from 1; None: every hit.
    only: Option<u64>,
    arrivals: u64,
}

/// Callbacks for a waiting failpoint.
struct Process {
    main_thread: ThreadId,
    take_interrupts: fn(),
    is_interrupted: fn() -> bool,
}

/// Limit in milliseconds.
static LONGEST_PAUSE: AtomicU64 = AtomicU64::new(u64::MAX);
static ARMED: Mutex<Vec<Armed>> = Mutex::new(Vec::new());
static PROCESS: OnceLock<Process> = OnceLock::new();

/// Must be called on the main thread. On that thread `take_interrupts` ends a wait by unwinding; on other threads it
/// ends when `is_interrupted` returns true.
pub fn initialise(take_interrupts: fn(), is_interrupted: fn() -> bool) {
    let main_thread = thread::current().id();
    PROCESS.get_or_init(|| Process { main_thread, take_interrupts, is_interrupted });
}

/// Whether `arm` accepts the text.
pub fn is_valid(text: &str) -> bool {
    parse(text).is_some()
}

/// Replaces the armed failpoints; an invalid text arms nothing.
pub fn arm(text: &str) {
    *armed() = parse(text).unwrap_or_default();
}

/// None: no limit.
pub fn set_longest_pause(milliseconds: Option<u64>) {
    LONGEST_PAUSE.store(milliseconds.unwrap_or(u64::MAX), Ordering::Relaxed);
}

pub(super) fn pause(usual: Duration) -> Duration {
    usual.min(Duration::from_millis(LONGEST_PAUSE.load(Ordering::Relaxed)))
}

fn armed() -> MutexGuard<'static, Vec<Armed>> {
    ARMED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parse(text: &str) -> Option<Vec<Armed>> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(parse_one).collect()
}

fn parse_one(text: &str) -> Option<Armed> {
    let (name, rest) = text.split_once('=')?;
    let (action, only) = match rest.split_once('@') {
        Some((action, number)) => (action, Some(number.parse().ok()?)),
        None => (rest, None),
    };
    let action = match action {
        "crash" => Action::Crash,
        "error" => Action::Error,
        "enospc" => Action::DiskFull,
        "wait" => Action::Wait,
        _ => return None,
    };
    let name = NAMES.iter().find(|known| **known == name)?;
    Some(Armed { name, action, only, arrivals: 0 })
}

/// The action to perform at this hit.
fn arrive(name: &str) -> Option<Action> {
    let mut armed = armed();
    let armed = armed.iter_mut().find(|armed| armed.name == name)?;
    armed.arrivals += 1;
    armed.only.is_none_or(|only| only == armed.arrivals).then_some(armed.action)
}

pub(super) fn reach(name: &'static str) {
    match arrive(name) {
        None => {}
        Some(Action::Crash) => crash(),
        // pgrx turns it into an ERROR; the engine passes it from its thread to the main thread.
        Some(Action::Error | Action::DiskFull) => panic!("failpoint {name}"),
        Some(Action::Wait) => wait(name),
    }
}

pub(super) fn reach_io(name: &'static str) -> io::Result<()> {
    match arrive(name) {
        None => {}
        Some(Action::Crash) => crash(),
        Some(Action::Error) => return Err(io::Error::other(format!("failpoint {name}"))),
        Some(Action::DiskFull) => return Err(rustix::io::Errno::NOSPC.into()),
        Some(Action::Wait) => wait(name),
    }
    Ok(())
}

fn crash() {
    let own = rustix::process::getpid();
    loop {
        let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
    }
}

/// Removes the file of a wait that ends by unwinding.
struct Marker(String);

impl Drop for Marker {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn wait(name: &str) {
    let marker = Marker(format!("failpoint.{name}.{}", std::process::id()));
    if std::fs::write(&marker.0, "").is_err() {
        return;
    }
    while std::fs::exists(&marker.0).unwrap_or(false) {
        thread::sleep(Duration::from_millis(WAIT_STEP_MS));
        match PROCESS.get() {
            Some(process) if process.main_thread == thread::current().id() => (process.take_interrupts)(),
            Some(process) if (process.is_interrupted)() => return,
            _ => {}
        }
    }
}
