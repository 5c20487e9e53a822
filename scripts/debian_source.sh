#!/usr/bin/env bash
# Downloads the upstream source of a package of Debian's, and says where the archive is.
#   debian_source.sh PACKAGE FOLDER [SUITE...]
# SUITE: Debian's names for its releases, to be tried in this order; by default the longest tested packages first. It
# comes from the mirror that apt uses here: through lists of its own, so that the machine's stay as they are, and with
# apt's signatures. Exit status 3: this machine cannot get it.
set -euo pipefail

package=${1:?usage: debian_source.sh PACKAGE FOLDER}
folder=$(realpath "${2:?usage: debian_source.sh PACKAGE FOLDER}")/apt
suites=("${@:3}")
((${#suites[@]})) || suites=(oldstable stable testing unstable)

cannot() {
    printf 'no source of %s: %s\n' "$package" "$*" >&2
    exit 3
}

command -v apt-get >/dev/null || cannot "there is no apt here"
mkdir -p "$folder"/{state/lists/partial,cache/archives/partial,source}
# apt downloads as a user of its own.
chmod 755 "$folder/.." "$folder"
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
    (cd "$folder/source" && "${private[@]}" source --download-only --tar-only "$package") >"$folder/log" 2>&1 && break
done
compgen -G "$folder/source/*.orig.tar.*" | grep -v '\.asc$' ||
    cannot "it is in none of Debian's ${suites[*]} at $mirror: $(tail -n 1 "$folder/log")"
