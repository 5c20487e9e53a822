#!/usr/bin/env bash
# Names what this machine lacks to build (or test, or measure) vekter, and installs it where it can (apt: Debian,
# Ubuntu).
#   setup.sh check|install build|test|bench|assertions|package
# Silent, offline and quick where nothing is missing. Never touches a PostgreSQL cluster, never makes one.
set -euo pipefail
cd "$(dirname "$0")/.."

action=${1:-check}
purpose=${2:-build}
pg_config=${PG_CONFIG:-pg_config}
# The majors vekter is written for, the best tested first; a fresh machine gets the first that its apt knows.
majors=(15 16 17 18)
multiarch=/usr/lib/$(uname -m)-linux-gnu

packages=() # what apt should install
problems=() # what only a person can mend

say() { printf '%s\n' "$@" >&2; }

# Headers, server, client programs and pg_regress of one PostgreSQL, all there?
postgres_is_complete() {
    command -v "$pg_config" >/dev/null || return 1
    local bindir pgxs
    bindir=$("$pg_config" --bindir) pgxs=$("$pg_config" --pgxs)
    [[ -f $("$pg_config" --includedir-server)/postgres.h && -f $pgxs && -x $bindir/postgres && -x $bindir/initdb &&
        -x $bindir/psql && -x $bindir/pg_basebackup && -x ${pgxs%/makefiles/*}/test/regress/pg_regress ]]
}

check_postgres() {
    local major
    if postgres_is_complete; then
        major=$("$pg_config" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
        [[ " ${majors[*]} " == *" $major "* ]] ||
            problems+=("PostgreSQL ${majors[0]} to ${majors[-1]}: $pg_config belongs to $major; name another with PG_CONFIG=...")
        return
    fi
    if [[ $pg_config != pg_config ]]; then
        problems+=("a complete PostgreSQL (server and its headers) at PG_CONFIG=$pg_config")
        return
    fi
    # A server that is installed already gets the headers of its own major.
    for major in "${majors[@]}"; do
        if [[ -x /usr/lib/postgresql/$major/bin/postgres ]]; then
            packages+=("postgresql-$major" "postgresql-server-dev-$major")
            return
        fi
    done
    packages+=(postgresql-NN postgresql-server-dev-NN) # NN: chosen when apt's lists are fresh
}

check_rust() {
    local need have
    need=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    if ! command -v cargo >/dev/null; then
        problems+=("Rust $need or newer: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh
      (if you ran 'sudo make': run make as yourself, it asks for sudo where it must)")
        return
    fi
    have=$(cargo --version | sed -E 's/^cargo ([0-9.]+).*/\1/')
    [[ $(printf '%s\n' "$need" "$have" | sort -V | head -n 1) == "$need" ]] ||
        problems+=("Rust $need or newer ($(command -v cargo) is $have): rustup update, or get it from https://rustup.rs")
}

# The OpenMP flavour of OpenBLAS shares FAISS's thread pool. The pthread flavour starts threads of its own as soon as it
# is loaded, with signals unblocked: inside a PostgreSQL backend they would run its signal handlers. Both can be
# installed: src/engine/shim/build.rs binds vekter to this folder, whatever Debian's alternatives say.
check_blas() {
    local folder=$multiarch/openblas-openmp
    [[ -e $folder/libblas.so && -e $folder/liblapack.so ]] || packages+=(libopenblas-openmp-dev)
}

check_tools() {
    command -v g++ >/dev/null || packages+=(g++)
    command -v cmake >/dev/null || packages+=(cmake)
    command -v clang >/dev/null || packages+=(clang)
    # bindgen loads libclang to read PostgreSQL's headers.
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || [[ -n ${LIBCLANG_PATH:-} ]] || packages+=(libclang-dev)
}

# A PostgreSQL is only built for the tests that want one with assertions.
check_tools_for_postgres() {
    local program
    [[ $purpose == assertions ]] || return 0
    for program in make perl bison flex bzip2; do
        command -v "$program" >/dev/null || packages+=("$program")
    done
}

# dpkg-shlibdeps names the packages that a library needs.
check_packaging() {
    [[ $purpose != package ]] || command -v dpkg-shlibdeps >/dev/null || packages+=(dpkg-dev)
}

# Only the tests and the benchmarks are in Python.
check_python() {
    [[ $purpose != build && $purpose != package ]] || return 0
    python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3 python3-venv)
    ! command -v python3 >/dev/null || python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        problems+=("Python 3.10 or newer ($(command -v python3) is $(python3 --version))")
}

# Nothing to measure with is no reason not to build, and Debian's server package has it.
check_pgbench() {
    [[ $purpose == bench ]] && postgres_is_complete || return 0
    [[ -x $("$pg_config" --bindir)/pgbench ]] || problems+=("pgbench, beside the server in $("$pg_config" --bindir)")
}

# The benchmark runs without pgvector, too: it is added where apt has it for this server and may install it, and missed
# by nobody elsewhere. PGVECTOR_SRC brings its own.
check_pgvector() {
    local bindir package
    [[ $purpose == bench && $action == install && -z ${PGVECTOR_SRC:-} ]] && postgres_is_complete || return 0
    [[ ! -e $("$pg_config" --sharedir)/extension/vector.control ]] || return 0
    bindir=$("$pg_config" --bindir)
    [[ $bindir =~ ^/usr/lib/postgresql/([0-9]+)/bin$ ]] || return 0
    package=postgresql-${BASH_REMATCH[1]}-pgvector
    apt-cache show "$package" >/dev/null 2>&1 || return 0
    ((EUID == 0)) || sudo -n true 2>/dev/null || return 0
    packages+=("$package")
}

check_processor() {
    [[ $(uname -m) == x86_64 ]] || return 0
    { grep -qw avx2 /proc/cpuinfo && grep -qw fma /proc/cpuinfo; } ||
        problems+=("a processor with AVX2 and FMA (x86-64-v3): vekter is compiled for it")
}

check_everything() {
    packages=() problems=()
    check_processor
    check_rust
    check_postgres
    check_blas
    check_tools
    check_tools_for_postgres
    check_packaging
    check_python
    check_pgbench
    check_pgvector
}

report_and_fail() {
    say "vekter cannot be built here yet. Missing:"
    ((${#packages[@]} == 0)) || say "  - packages: ${packages[*]}"
    ((${#problems[@]} == 0)) || say "${problems[@]/#/  - }"
    [[ $action == install ]] || ((${#packages[@]} == 0)) || say "'make setup' installs packages with apt (NN: ${majors[*]}, the first that apt has)."
    exit 1
}

choose_major() {
    local major
    [[ " ${packages[*]} " == *-NN* ]] || return 0
    for major in "${majors[@]}"; do
        if apt-cache show "postgresql-server-dev-$major" >/dev/null 2>&1; then
            packages=("${packages[@]//NN/$major}")
            return
        fi
    done
    say "apt here has no PostgreSQL ${majors[0]} to ${majors[-1]}. The PostgreSQL project's own packages do:" \
        "  apt-get install postgresql-common && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh"
    exit 1
}

# The tests beside pgvector, and the benchmarks, take the real one where apt has it for the server that is being
# installed; elsewhere they say that they do without, so that no machine lacks it.
add_pgvector() {
    local package
    package=$(printf '%s\n' "${packages[@]}" | sed -n 's/^postgresql-[0-9]*$/&-pgvector/p')
    [[ -z $package ]] || ! apt-cache show "$package" >/dev/null 2>&1 || packages+=("$package")
}

install_packages() {
    local sudo=()
    command -v apt-get >/dev/null || { say "(no apt-get here: install them by hand)" && report_and_fail; }
    if ((EUID != 0)); then
        command -v sudo >/dev/null || { say "(not root, and no sudo)" && report_and_fail; }
        [[ -t 0 ]] || sudo -n true 2>/dev/null ||
            { say "(not root, and sudo wants a password, which nobody is here to type)" && report_and_fail; }
        sudo=(sudo)
    fi
    say "reading apt's lists (${sudo[*]:-as root})"
    "${sudo[@]}" apt-get update -qq
    choose_major
    [[ $purpose == build || $purpose == package ]] || add_pgvector
    say "installing: ${packages[*]}"
    # Debian's server package makes and starts a cluster 'main' when it comes first; nobody asked for one. The setting
    # against it lasts as long as this installation.
    "${sudo[@]}" scripts/without_main_cluster.sh \
        env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2
}

check_everything
# Nothing is installed on a machine that would still lack something afterwards.
if [[ $action == install ]] && ((${#packages[@]} && ${#problems[@]} == 0)); then
    install_packages
    check_everything
fi
((${#packages[@]} + ${#problems[@]} == 0)) || report_and_fail
