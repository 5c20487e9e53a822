#!/usr/bin/env bash
# Fails where a folder of src imports another one that the table of layers in src/README.md does not allow it.
set -euo pipefail
cd "$(dirname "$0")/../src"

# The rows of the table: `folder` in its second column, the names that it may import in the third.
layers=$(sed -nE 's/^\|[^|]*\| `([^`]*)` \|([^|]*)\|$/\1:\2/p' README.md | tr -d '`,')
status=0
complain() {
    echo "$1" >&2
    status=1
}

for path in *.rs */; do
    name=${path%.rs}
    [[ $path == lib.rs ]] || grep -qE "^${name%/}(/|\.rs):" <<<"$layers" || complain "src/README.md names no layer for $path"
done

while IFS=: read -r path imports; do
    own=${path%%/*}
    # A package of its own imports none of ours: cargo sees to that.
    [[ ! -e $own/Cargo.toml ]] || continue
    # Comments may name anything; tests of a layer may not.
    while IFS=: read -r file line name; do
        [[ " $imports ${own%.rs} " == *" ${name#*::} "* ]] ||
            complain "src/$file:$line: ${path%/} must not import ${name#*::}"
    done < <(find "$path" "${path%.rs}" -name '*.rs' -exec grep -HnE '\bcrate::' {} + 2>/dev/null | sort -u |
        grep -vE '^[^:]*:[0-9]*: *//' | sed -E 's/^([^:]*:[0-9]*):[^\n]*\b(crate::[a-z_]+).*/\1:\2/')
done <<<"$layers"
exit $status
