#!/usr/bin/env bash
# Builds vekter with failpoints and installs it into a PostgreSQL tree of its own, target/failpoints/pg, made from the
# one of $PG_CONFIG, which stays as it is. Says where the tree's pg_config is. Quick where nothing has changed.
set -euo pipefail
cd "$(dirname "$0")/.."

pg_config=${PG_CONFIG:-pg_config}
export PGRX_PG_CONFIG_PATH=${PGRX_PG_CONFIG_PATH:-$(command -v "$pg_config")}
major=$("$pg_config" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
# A folder of its own for what is compiled: Cargo gives a library with and without the feature the same file name.
build=target/failpoints/build
tree=$PWD/target/failpoints/pg

# What the normal build compiled but for vekter itself is shared, by links: FAISS takes five minutes.
if [[ ! -d $build && -d target/release ]]; then
    mkdir -p target/failpoints
    rm -rf "$build.new"
    mkdir "$build.new"
    cp -al target/release "$build.new/release"
    find "$build.new" -depth -path '*vekter*' ! -path '*vekter*/*' -exec rm -rf {} +
    mv "$build.new" "$build"
fi
cargo build --release --locked --no-default-features --features "pg$major,failpoints" --target-dir "$build" >&2

# A PostgreSQL finds its library and share folders from where its programs are, if they lie to each other as they did
# where they were built (src/port/path.c); so the paths below their common beginning are kept. The programs must be
# real copies for that, everything else may be links.
prefix=$("$pg_config" --bindir)
for folder in --pkglibdir --sharedir; do
    other=$("$pg_config" "$folder")
    while [[ $other/ != "$prefix"/* ]]; do prefix=$(dirname "$prefix"); done
done
below() { printf '%s\n' "${1#"${prefix%/}"}"; }
copy() { # FOLDER CP-OPTIONS
    local to
    to=$tree$(below "$1")
    mkdir -p "$to"
    cp -R "${@:2}" "$1/." "$to"
}
if [[ ! -e $tree/complete || $("$pg_config" --bindir)/postgres -nt $tree/complete ]]; then
    rm -rf "$tree"
    copy "$("$pg_config" --bindir)" -L
    copy "$("$pg_config" --pkglibdir)" --symbolic-link
    copy "$("$pg_config" --sharedir)" --symbolic-link
    # The installed vekter, if there is one, is not part of the copy.
    rm -f "$tree$(below "$("$pg_config" --pkglibdir)")/vekter.so" \
        "$tree$(below "$("$pg_config" --sharedir)")"/extension/vekter{.control,--*.sql}
    touch "$tree/complete"
fi
own_pg_config=$tree$(below "$("$pg_config" --bindir)")/pg_config
PG_CONFIG=$own_pg_config LIBRARY=$build/release/libvekter.so scripts/install.sh >&2
printf '%s\n' "$own_pg_config"
