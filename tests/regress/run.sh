#!/usr/bin/env bash
# Runs tests/regress/sql/*.sql through PostgreSQL's own pg_regress and compares with expected/*.out; each file runs in
# the database `regression` with the extension loaded. scripts/with_cluster.sh provides the server.
#   run.sh [TEST...]     without names: all of them, in alphabetical order
# EXTENSION=vector runs them with pgvector instead, whose type those of vekter's type are to behave as.
set -euo pipefail
cd "$(dirname "$0")"

pgxs=$("${PG_CONFIG:-pg_config}" --pgxs)
tests=("$@")
if ((${#tests[@]} == 0)); then
    tests=(sql/*.sql)
    tests=("${tests[@]#sql/}")
    tests=("${tests[@]%.sql}")
fi

if ! "${pgxs%/makefiles/*}/test/regress/pg_regress" --bindir="$("${PG_CONFIG:-pg_config}" --bindir)" \
    --inputdir=. --outputdir=. --dbname=regression --load-extension="${EXTENSION:-vekter}" --host="$PGHOST" --user="$PGUSER" \
    "${tests[@]}"; then
    cat regression.diffs >&2 || true
    exit 1
fi
