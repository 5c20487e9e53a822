//! Parts of tests that need a process of their own: because they may kill it, or because its memory is measured.

use std::process::{Command, Output};

const MARK: &str = "VEKTER_TEST_ALONE";

/// What became of the process; nothing in the process itself.
pub struct Outcome(Option<Output>);

impl Outcome {
    /// The end of what it wrote to its standard output.
    pub fn said(&self) -> String {
        self.0.as_ref().map(|output| end_of(&output.stdout)).unwrap_or_default()
    }

    pub fn assert_success(&self) {
        if let Some(output) = &self.0 {
            let (said, complained) = (end_of(&output.stdout), end_of(&output.stderr));
            assert!(output.status.success(), "{}\n{said}\n{complained}", output.status);
            if std::env::var_os("VEKTER_SHOW").is_some() {
                println!("{said}");
            }
        }
    }
}

fn end_of(output: &[u8]) -> String {
    String::from_utf8_lossy(&output[output.len().saturating_sub(1_000)..]).into_owned()
}

/// Whether this is such a process.
pub fn is_alone() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Runs `body` in a second process, which is this test binary asked for just the test named `test` (whose body
/// calls this), with at most `mib` MiB of address space, so that what wants more gets an error and not the machine.
pub fn alone(test: &str, mib: usize, body: impl FnOnce()) -> Outcome {
    alone_with(test, "-", mib, |_| body())
}

/// The same, and `body` is told the `subject`, in case the test does this for several.
pub fn alone_with(test: &str, subject: &str, mib: usize, body: impl FnOnce(&str)) -> Outcome {
    if let Ok(subject) = std::env::var(MARK) {
        body(&subject);
        return Outcome(None);
    }
    let limit = format!("ulimit -v {}; exec \"$0\" \"$@\"", mib * 1024);
    let output = Command::new("sh")
        .args(["-c", &limit])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads", "1"])
        .env(MARK, subject)
        .env("OMP_NUM_THREADS", "2")
        .env("OMP_WAIT_POLICY", "passive")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    Outcome(Some(output))
}
