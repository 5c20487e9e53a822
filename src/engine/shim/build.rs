//! Compiles the C++ shim over FAISS's own headers, which faiss-sys installs while it builds the library, and links the
//! flavour of OpenBLAS that a database backend can bear.

use std::env;
use std::path::{Path, PathBuf};

#[path = "constants.rs"]
#[allow(dead_code, reason = "this script only needs the list of the constants")]
mod constants;

/// The folder of the shim in the package's. Cargo runs this script again when a file in it changes.
const SHIM: &str = "shim";

fn main() {
    println!("cargo:rerun-if-changed={SHIM}");
    let sources = sources_of_shim();
    let headers = write_constants();
    // Cargo hands on what the build script of a direct dependency with `links = "faiss_c"` printed as `root`.
    let Some(faiss_root) = env::var_os("DEP_FAISS_C_ROOT").map(PathBuf::from) else {
        panic!("faiss-sys did not say where it installed FAISS's headers; is its feature `static` on?");
    };
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .files(sources)
        .include(headers)
        .flag("-fopenmp")
        // As system headers, so that warnings in FAISS do not become our errors.
        .flag("-isystem")
        .flag(faiss_root.join("include"))
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(true)
        .compile("vekter_engine");
    link_openblas_openmp();
}

/// The C++ files in the shim's folder, in the same order on every machine.
fn sources_of_shim() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(SHIM).unwrap_or_else(|error| panic!("could not list {SHIM}: {error}"));
    let mut sources: Vec<PathBuf> =
        entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cc"));
    sources.sort();
    sources
}

/// Writes the constants that Rust and C++ share as a C++ header, and returns its folder.
fn write_constants() -> PathBuf {
    let mut header = String::from(
        "// Written by shim/build.rs from constants.rs.\n#include <cstddef>\nnamespace vekter::shared {\n",
    );
    for &(rust_type, name, value) in constants::DEFINITIONS {
        let cpp_type = match rust_type {
            "f32" => "float",
            "usize" => "std::size_t",
            other => panic!("no C++ type for {name}: {other}"),
        };
        header += &format!("constexpr {cpp_type} {name} = {value};\n");
    }
    header += "}\n";
    let folder = out_folder();
    write(&folder.join("shared_constants.h"), &header);
    folder
}

fn out_folder() -> PathBuf {
    env::var_os("OUT_DIR").map_or_else(|| panic!("cargo sets OUT_DIR"), PathBuf::from)
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("could not write {}: {error}", path.display()));
}

/// Links OpenBLAS's OpenMP flavour from where Debian keeps it, statically.
///
/// The pthread flavour, which Debian's alternatives prefer as soon as it is installed, starts threads of its own when
/// it is loaded, with signals unblocked. The shared library of either has 16,000 relocations by name, of which a new
/// session's first search would wait 8 ms.
fn link_openblas_openmp() {
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let libraries = PathBuf::from(format!("/usr/lib/{architecture}-linux-gnu"));
    // LAPACK's errors are written by Fortran's library, which Debian installs without its link.
    let [archive, fortran] =
        ["openblas-openmp/libopenblas.a", "libgfortran.so.5"].map(|name| libraries.join(name));
    if !archive.is_file() || !fortran.is_file() {
        return;
    }
    // faiss-sys has the linker look for `-lblas` and `-llapack`: it finds these scripts first.
    let folder = out_folder().join("blas");
    std::fs::create_dir_all(&folder)
        .unwrap_or_else(|error| panic!("could not make {}: {error}", folder.display()));
    let script = format!("INPUT({} AS_NEEDED({}))\n", archive.display(), fortran.display());
    for name in ["libblas.so", "liblapack.so"] {
        write(&folder.join(name), &script);
    }
    println!("cargo:rustc-link-search=native={}", folder.display());
}
