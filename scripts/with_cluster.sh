#!/usr/bin/env bash
# Runs a command against a throw-away PostgreSQL server that leaves nothing behind.
#   with_cluster.sh COMMAND...
# The command finds the server through PGHOST, PGUSER and PGDATABASE, and its programs first in PATH. The server lives
# in a folder of its own under /tmp, listens on a unix socket there and nowhere else, and runs as a non-root user
# (PostgreSQL refuses root). KEEP=1 leaves it running after a command that succeeded, and says how to reach and end it.
set -euo pipefail

bindir=$("${PG_CONFIG:-pg_config}" --bindir)
# /tmp and not $TMPDIR: the path of a unix socket has at most 107 bytes.
folder=$(mktemp -d /tmp/vekter-XXXXXX)
as_server=()
keep=
started=

# shellcheck disable=SC2317 # reached through the trap
clean_up() {
    local status=$?
    trap '' INT TERM HUP
    if [[ -z $keep ]]; then
        [[ ! -e $folder/data/postmaster.pid ]] || server pg_ctl stop -D "$folder/data" -m immediate -s || true
        if ((status != 0)); then
            # Before the command started: everything. Later: only what tells of a crash.
            if [[ -z $started ]]; then cat "$folder"/*.log; else grep -E 'by signal|PANIC:' "$folder/server.log"; fi >&2 || true
        fi
        rm -rf "$folder"
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# A program of the server, as the server's user, from a folder that this user can enter.
server() {
    local program=$1
    shift
    (cd "$folder" && "${as_server[@]}" "$bindir/$program" "$@")
}

if ((EUID == 0)); then
    user=postgres
    id -u "$user" >/dev/null 2>&1 || user=nobody
    as_server=(runuser -u "$user" --)
    chown "$user" "$folder"
fi

server initdb -D "$folder/data" -U postgres -A trust -E UTF8 --no-locale --no-sync >"$folder/initdb.log" 2>&1
cat >>"$folder/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$folder'
shared_buffers = 256MB
max_wal_size = 4GB
fsync = off # throw-away data
CONF
server pg_ctl start -D "$folder/data" -l "$folder/server.log" -w -s
started=1

export PGHOST=$folder PGPORT=5432 PGUSER=postgres PGDATABASE=postgres PATH=$bindir:$PATH
"$@"

if [[ -n ${KEEP:-} && ${KEEP:-} != 0 ]]; then
    keep=1
    printf '\nThe server keeps running. Talk to it, and when you are done, stop it and remove every trace:\n\n'
    printf '  %s -h %s -U postgres\n' "$bindir/psql" "$folder"
    printf '  %s%s stop -D %s -m fast && rm -rf %s\n' "${as_server[*]:+${as_server[*]} }" "$bindir/pg_ctl" \
        "$folder/data" "$folder"
fi
