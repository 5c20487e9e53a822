#!/usr/bin/env bash
# Builds pgvector, from Debian's newest source that has HNSW, into the test server of scripts/failpoint_server.sh, for
# the tests that need both extensions. Quick where it is there already.
#   pgvector_for_tests.sh PG_CONFIG-OF-THE-TEST-SERVER
# Exit status 3: this machine cannot get the source, or it does not compile for this server; tests that need it are
# skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

server=${1:?usage: pgvector_for_tests.sh PG_CONFIG}
[[ ! -e $("$server" --pkglibdir)/vector.so ]] || exit 0
folder=$(mktemp -d /tmp/vekter-XXXXXX)
trap 'rm -rf "$folder"' EXIT
archive=$(scripts/debian_source.sh pgvector "$folder" stable testing unstable) || exit
tar -xf "$archive" -C "$folder"
source=$(compgen -G "$folder/pgvector-*")
headers=$(command -v "${PG_CONFIG:-pg_config}")
PGVECTOR_SRC=$source PGRX_PG_CONFIG_PATH=$headers PG_CONFIG=$server scripts/install_pgvector.sh >"$folder/log" 2>&1 || {
    tail -n 3 "$folder/log" >&2
    echo "no pgvector for the tests: it does not compile for $("$server" --version)" >&2
    exit 3
}
