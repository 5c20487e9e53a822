#!/usr/bin/env bash
# Builds a PostgreSQL with assertions, which no distribution's packages have, and says where its pg_config is.
#   postgres_with_assertions.sh MAJOR
# The source is Debian's, from the mirror that apt uses here: through lists of its own, so that the machine's stay as
# they are, and with apt's signatures. The build, about four minutes of processor time, is kept in a cache folder; with
# that there, nothing is downloaded. Exit status 3: this machine cannot get the source, or lacks what builds it.
set -euo pipefail
cd "$(dirname "$0")/.."

major=${1:?usage: postgres_with_assertions.sh MAJOR}
# Servers run as another user where root runs the tests, and that user may not enter root's home.
cache=${XDG_CACHE_HOME:-$( ((EUID == 0)) && echo /var/cache || echo "$HOME/.cache")}/vekter
prefix=$cache/postgresql-$major-assertions
# The libraries that are left out here need headers, and vekter and its tests none of them.
options=(--enable-cassert --without-icu --without-readline --without-zlib "CFLAGS=-O1")
# Debian's names for its releases, the one with the longest tested packages first.
suites=(oldstable stable testing unstable)

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

command -v apt-get >/dev/null || cannot "there is no apt here"
scripts/setup.sh install assertions >&2 || cannot "it cannot be built here"

folder=$(mktemp -d /tmp/vekter-XXXXXX)
trap 'rm -rf "$folder"' EXIT
# apt downloads as a user of its own.
chmod 755 "$folder"
mkdir -p "$folder"/{state/lists/partial,cache/archives/partial,source}
((EUID != 0)) || chown _apt "$folder/source"

release=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
# shellcheck disable=SC2016 # apt fills these in
mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk -v release="$release" '$1 == release && $2 == "main" && !found++ { print $3 }')
[[ -n $mirror ]] || cannot "apt is told of no mirror with the main packages of $release"

# Check-Valid-Until: a mirror may be days behind; it is still signed.
private=(apt-get -qq -o "Dir::Etc::SourceList=$folder/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State=$folder/state" -o Dir::State::status=/var/lib/dpkg/status -o "Dir::Cache=$folder/cache"
    -o Acquire::Check-Valid-Until=false)
for suite in "${suites[@]}"; do
    echo "deb-src $mirror $suite main" >"$folder/sources.list"
    "${private[@]}" update >"$folder/log" 2>&1 || continue
    (cd "$folder/source" && "${private[@]}" source --download-only --tar-only "postgresql-$major") \
        >"$folder/log" 2>&1 && break
done
archive=$(compgen -G "$folder/source/postgresql-*.orig.tar.*") ||
    cannot "its source is in none of Debian's ${suites[*]} at $mirror: $(tail -n 1 "$folder/log")"

say "building $(basename "$archive") with assertions for $prefix"
tar -xf "$archive" -C "$folder/source"
cd "$folder"/source/postgresql-*/
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
