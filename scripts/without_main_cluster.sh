#!/usr/bin/env bash
# Runs a command (an apt-get install) during which Debian's PostgreSQL packages do not create a cluster 'main'.
#   without_main_cluster.sh COMMAND...
# The setting is a file of its own beside the administrator's, removed when the command ends, however it ends.
set -euo pipefail

folder=/etc/postgresql-common/createcluster.d
made=()
for part in /etc/postgresql-common "$folder"; do
    [[ -d $part ]] || { mkdir "$part" && made=("$part" "${made[@]}"); }
done
setting=$(mktemp "$folder/vekter-setup-XXXXXX.conf")

# shellcheck disable=SC2317 # reached through the trap
forget() {
    rm -f "$setting"
    ((${#made[@]} == 0)) || rmdir --ignore-fail-on-non-empty "${made[@]}"
}
trap forget EXIT
trap 'exit 130' INT TERM HUP

echo "create_main_cluster = false" >"$setting"
chmod 644 "$setting"
"$@"
