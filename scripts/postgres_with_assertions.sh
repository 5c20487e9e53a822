#!/usr/bin/env bash
# Builds a PostgreSQL with assertions, which no distribution's packages have, and says where its pg_config is.
#   postgres_with_assertions.sh MAJOR
# The source is Debian's (scripts/debian_source.sh). The build, about four minutes of processor time, is kept in a cache
# folder; with that there, nothing is downloaded. Exit status 3: this machine cannot get the source, or lacks what
# builds it.
set -euo pipefail
cd "$(dirname "$0")/.."

major=${1:?usage: postgres_with_assertions.sh MAJOR}
# Servers run as another user where root runs the tests, and that user may not enter root's home.
cache=${XDG_CACHE_HOME:-$( ((EUID == 0)) && echo /var/cache || echo "$HOME/.cache")}/vekter
prefix=$cache/postgresql-$major-assertions
# The libraries that are left out here need headers, and vekter and its tests none of them.
options=(--enable-cassert --without-icu --without-readline --without-zlib "CFLAGS=-O1")

say() { printf '%s\n' "$*" >&2; }
cannot() {
    say "no PostgreSQL $major with assertions: $*"
    exit 3
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [[ -e $prefix/complete && $(<"$prefix/complete") == "${options[*]}" ]]; then
    printf '%s\n' "$prefix/bin/pg_config"
    exit
fi

scripts/setup.sh install assertions >&2 || cannot "it cannot be built here"

folder=$(mktemp -d /tmp/vekter-XXXXXX)
trap 'rm -rf "$folder"' EXIT
archive=$(scripts/debian_source.sh "postgresql-$major" "$folder") || exit

say "building $(basename "$archive") with assertions for $prefix"
tar -xf "$archive" -C "$folder"
cd "$folder"/postgresql-*/
{ # In place of an older one.
    rm -rf "$prefix"
    ./configure --quiet --prefix="$prefix" "${options[@]}" &&
        make -s -j"$(nproc)" MAKELEVEL=0 &&
        make -s MAKELEVEL=0 install
} >"$folder/log" 2>&1 || {
    tail -n 30 "$folder/log" >&2
    exit 1
}
printf '%s' "${options[*]}" >"$prefix/complete"
printf '%s\n' "$prefix/bin/pg_config"
