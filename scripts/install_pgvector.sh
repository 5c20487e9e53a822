#!/usr/bin/env bash
# Compiles pgvector for this machine's processor from the source tree PGVECTOR_SRC (which stays as it is) and installs
# it into the PostgreSQL of $PG_CONFIG. Distributions ship portable builds, which are slower: to compare with those
# would flatter vekter. Quick where nothing has changed.
set -euo pipefail
cd "$(dirname "$0")/.."

source=${PGVECTOR_SRC:?names no source tree of pgvector}
pg_config=$(command -v "${PG_CONFIG:-pg_config}")
# Of its own for each server: headers differ.
build=target/pgvector/$(cksum <<<"${PGRX_PG_CONFIG_PATH:-$pg_config}" | cut -d ' ' -f 1)

[[ -f $source/vector.control ]] || { echo "PGVECTOR_SRC=$source is no source tree of pgvector" >&2 && exit 1; }
mkdir -p "$build"
cp -Ru "$source/." "$build"
# Without bitcode, which wants the clang that PostgreSQL was built with.
flags=(OPTFLAGS=-march=native with_llvm=no)
# The headers may be another tree's of the same major, as in scripts/failpoint_server.sh.
make -C "$build" -s "${flags[@]}" PG_CONFIG="${PGRX_PG_CONFIG_PATH:-$pg_config}" >&2
library=$("$pg_config" --pkglibdir)/vector.so
cmp -s "$build/vector.so" "$library" && exit
sudo=()
[[ -w $(dirname "$library") ]] || { echo "$(dirname "$library") is not writable: using sudo" >&2 && sudo=(sudo); }
"${sudo[@]}" make -C "$build" -s install "${flags[@]}" PG_CONFIG="$pg_config" >&2
echo "installed $library"
