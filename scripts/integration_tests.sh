#!/usr/bin/env bash
# Runs the integration tests: first those that can share the machine, in parallel, then those marked `serial`, alone.
#   integration_tests.sh PROCESSES PYTEST-ARGUMENT...
# Fails where one of the two runs fails, or where the arguments choose no test at all.
set -uo pipefail
cd "$(dirname "$0")/.."

processes=${1:?usage: integration_tests.sh PROCESSES PYTEST-ARGUMENT...}
shift
failure=0
chosen=

run() {
    local status=0
    .venv/bin/python -m pytest -r fEs --tb=short "$@" || status=$?
    case $status in
    0) chosen=1 ;;
    5) ;; # No test was chosen.
    1) chosen=1 failure=1 ;;
    *) exit "$status" ;; # Interrupted, or used wrongly.
    esac
}

run -m "not stress and not serial" --numprocesses "$processes" --dist loadfile --no-loadscope-reorder "$@"
run -m "serial and not stress" "$@"
[[ -n $chosen ]] || exit 5
exit "$failure"
