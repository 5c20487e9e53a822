#!/usr/bin/env bash
# Fails where a line of a comment is longer than 120 characters: rustfmt leaves comments as they are.
set -euo pipefail
cd "$(dirname "$0")/.."

! LC_ALL=C.UTF-8 grep -rnP '^(?=.{121})\s*(//|#|-- )' --include={'*.rs','*.cc','*.h','*.py','*.sh','*.sql',Makefile} \
    src tests bench scripts demo sql build.rs Makefile >&2
