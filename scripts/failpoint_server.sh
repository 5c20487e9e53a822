#!/usr/bin/env bash
# Builds vekter with failpoints and installs it into a PostgreSQL tree of its own below target/failpoints, made from the
# one of $PG_CONFIG, which stays as it is. Says where the tree's pg_config is. Quick where nothing has changed.
#   failpoint_server.sh [build-folder]
# With an argument it only says where such a build is compiled, and prepares that folder: for other tests to share.
set -euo pipefail
cd "$(dirname "$0")/.."

pg_config=$(command -v "${PG_CONFIG:-pg_config}")
# A tree that was made here has no headers; it names the server that it was made from.
if [[ $pg_config == "$PWD"/target/failpoints/*/pg/* ]]; then
    tree=${pg_config#"$PWD"/target/failpoints/}
    pg_config=$(<"target/failpoints/${tree%%/*}/pg/complete")
fi
export PGRX_PG_CONFIG_PATH=$pg_config
bindir=$("$pg_config" --bindir)
major=$("$pg_config" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
# Folders of its own for each server, as two of the same major can be built differently; and for what is compiled, as
# Cargo gives a library with and without the feature the same file name.
folder=target/failpoints/$major-$(cksum <<<"$bindir" | cut -d ' ' -f 1)
build=$folder/build
tree=$PWD/$folder/pg

# What another build compiled but for the extension itself is copied: FAISS takes minutes. No links: Cargo writes its
# records of what is compiled in place, so a build would take what another compiled for changed, or for its own.
if [[ ! -d $build ]]; then
    for compiled in target/release target/failpoints/*/build/release; do
        [[ -d $compiled ]] || continue
        mkdir -p "$folder"
        rm -rf "$build.new"
        mkdir "$build.new"
        cp -a "$compiled" "$build.new/release"
        find "$build.new" -depth -regextype posix-extended -regex '.*/(lib)?vekter(-[0-9a-f]+)?(\.[^/]*)?' \
            -exec rm -rf {} +
        # CMake refuses its cache in another folder, should FAISS have to be compiled again.
        rm -rf "$build.new"/release/build/*/out/build/CMake{Cache.txt,Files}
        mv "$build.new" "$build"
        break
    done
fi
if [[ ${1:-} == build-folder ]]; then
    printf '%s\n' "$build"
    exit
fi
cargo build --release --locked --config tests/profile.toml --no-default-features --features "pg$major,failpoints" \
    --target-dir "$build" >&2

# A PostgreSQL finds its library and share folders from where its programs are, if they lie to each other as they did
# where they were built (src/port/path.c); so the paths below their common beginning are kept. The programs must be
# real copies for that, everything else may be links.
prefix=$bindir
for other in "$("$pg_config" --pkglibdir)" "$("$pg_config" --sharedir)"; do
    while [[ $other/ != "$prefix"/* ]]; do prefix=$(dirname "$prefix"); done
done
below() { printf '%s\n' "${1#"${prefix%/}"}"; }
copy() { # FOLDER CP-OPTIONS
    local to
    to=$tree$(below "$1")
    mkdir -p "$to"
    cp -R "${@:2}" "$1/." "$to"
}
if [[ ! -e $tree/complete ]] || ! cmp -s "$bindir/postgres" "$tree$(below "$bindir")/postgres"; then
    rm -rf "$tree"
    copy "$bindir" -L
    copy "$("$pg_config" --pkglibdir)" --symbolic-link
    copy "$("$pg_config" --sharedir)" --symbolic-link
    # The installed vekter, if there is one, is not part of the copy.
    rm -f "$tree$(below "$("$pg_config" --pkglibdir)")/vekter.so" \
        "$tree$(below "$("$pg_config" --sharedir)")"/extension/vekter{,_pgvector}{.control,--*.sql}
    printf '%s\n' "$pg_config" >"$tree/complete"
fi
own_pg_config=$tree$(below "$bindir")/pg_config
PG_CONFIG=$own_pg_config LIBRARY=$build/release/libvekter.so scripts/install.sh >&2
printf '%s\n' "$own_pg_config"
