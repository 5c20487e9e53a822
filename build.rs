//! Has the linker route PostgreSQL's error functions through ours: `src/pg/report.rs` keeps what pgrx would lose.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for function in ["CopyErrorData", "errfinish"] {
        println!("cargo:rustc-cdylib-link-arg=-Wl,--wrap={function}");
    }
}
