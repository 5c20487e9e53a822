#!/usr/bin/env bash
# Installs what `make build` made into the PostgreSQL of $PG_CONFIG (below $DESTDIR), or removes it: the library, and of
# each extension its control file, its script and the upgrade steps between versions. Asks for sudo only where the
# folders are not writable and something changes.
#   install.sh [install|uninstall]
set -euo pipefail
cd "$(dirname "$0")/.."

action=${1:-install}
pg_config=${PG_CONFIG:-pg_config}
extensions=(vekter vekter_pgvector)
library_folder=${DESTDIR:-}$("$pg_config" --pkglibdir)
extension_folder=${DESTDIR:-}$("$pg_config" --sharedir)/extension
sudo=()

need_write() {
    local folder=$1
    [[ ! -d $folder && -n ${DESTDIR:-} ]] && mkdir -p "$folder"
    [[ -w $folder ]] && return
    if ! command -v sudo >/dev/null; then
        echo "$folder is not writable: run 'make $action' as root, or as the owner of that folder," \
            "or aim at a PostgreSQL of your own with PG_CONFIG=/path/to/pg_config" >&2
        exit 1
    fi
    ((${#sudo[@]})) || echo "$folder is not writable: using sudo" >&2
    sudo=(sudo)
}

# A running server has the library mapped, so it is replaced by name and never written in place.
put() {
    local from=$1 to=$2 mode=$3
    cmp -s "$from" "$to" && return
    need_write "$(dirname "$to")"
    "${sudo[@]}" install -m "$mode" "$from" "$to.new"
    "${sudo[@]}" mv -f "$to.new" "$to"
    echo "installed $to"
}

remove() {
    local file=$1
    [[ -e $file ]] || return 0
    need_write "$(dirname "$file")"
    "${sudo[@]}" rm -f "$file"
    echo "removed $file"
}

if [[ $action == uninstall ]]; then
    remove "$library_folder/vekter.so"
    for extension in "${extensions[@]}"; do
        for file in "$extension_folder/$extension.control" "$extension_folder/$extension"--*.sql; do
            remove "$file"
        done
    done
    exit
fi

put "${LIBRARY:-target/release/libvekter.so}" "$library_folder/vekter.so" 755
for extension in "${extensions[@]}"; do
    version=$(sed -n "s/^default_version *= *'\(.*\)'/\1/p" "$extension.control")
    [[ -n $version ]] || { echo "$extension.control names no default_version" >&2 && exit 1; }
    put "sql/$extension.sql" "$extension_folder/$extension--$version.sql" 644
    for step in "sql/$extension"--*--*.sql; do
        [[ ! -e $step ]] || put "$step" "$extension_folder/$(basename "$step")" 644
    done
    # Last: with the control file in place, the version that it names is there.
    put "$extension.control" "$extension_folder/$extension.control" 644
done
