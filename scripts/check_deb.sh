#!/usr/bin/env bash
# Checks a package of scripts/deb.sh: lintian, then installs it into a fresh Debian or Ubuntu below a temporary folder,
# and builds and searches an index there, with each variant of the library that this processor can run. As root.
#   check_deb.sh PACKAGE.deb [SUITE [MIRROR]]
# SUITE and MIRROR: debootstrap's; by default this machine's release and mirror. Where the release has pgvector, an
# index of pgvector's is replaced, too.
set -euo pipefail

package=$(realpath "${1:?usage: check_deb.sh PACKAGE.deb [SUITE [MIRROR]]}")
suite=${2:-$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")}
mirror=${3:-$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk -v release="$suite" '$1 == release && $2 == "main" && !found++ { print $3 }')}
((EUID == 0)) || { echo "check_deb.sh: debootstrap and chroot need root" >&2 && exit 1; }
for program in lintian debootstrap; do
    command -v $program >/dev/null || { echo "check_deb.sh: $program is not installed" >&2 && exit 1; }
done

# No bug of Debian's asks for the package, and its maintainer is whoever builds it.
lintian --fail-on error,warning --info --suppress-tags \
    initial-upload-closes-no-bugs,bogus-mail-host,bogus-mail-host-in-debian-changelog "$package"

root=$(mktemp -d /tmp/vekter-deb-XXXXXX)
chmod 755 "$root"
clean_up() {
    chroot "$root" pg_ctlcluster "$major" main stop -m immediate 2>/dev/null || true
    for mounted in dev/shm proc; do mountpoint -q "$root/$mounted" && umount "$root/$mounted"; done
    rm -rf "$root"
}
major=$(dpkg-deb --field "$package" Package | sed -E 's/^postgresql-([0-9]+)-vekter$/\1/')
trap clean_up EXIT
# debootstrap's script for Ubuntu serves releases that it does not know yet, too.
[[ $mirror == *ubuntu* ]] && kind=(--components=main,universe "$suite" "$root" "$mirror" gutsy) || kind=("$suite" "$root" "$mirror")
debootstrap --variant=minbase "${kind[@]}" >"$root.log" 2>&1 || { tail "$root.log" >&2 && exit 1; }
rm "$root.log"
mount -t proc proc "$root/proc"
mkdir -p "$root/dev/shm"
mount -t tmpfs tmpfs "$root/dev/shm"
cp "$package" "$root/tmp/"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"

inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }
psql() { inside runuser -u postgres -- psql -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }
inside apt-get update -qq
inside apt-get install -y -qq --no-install-recommends "/tmp/$(basename "$package")" >/dev/null

# Where the loader is told to leave glibc's variants aside, the portable library is used on every processor.
for variant in "" "glibc.cpu.hwcaps=-AVX512F"; do
    printf "GLIBC_TUNABLES = '%s'\n" "$variant" >"$root/etc/postgresql/$major/main/environment"
    inside pg_ctlcluster "$major" main start
    psql <<'SQL'
CREATE EXTENSION vekter;
CREATE TABLE tracks (id bigint PRIMARY KEY, embedding vector(8));
INSERT INTO tracks SELECT i, ARRAY(SELECT sin(i * j) FROM generate_series(1, 8) j) FROM generate_series(1, 20000) i;
SELECT vekter_create_index('tracks', 'id', 'embedding');
SQL
    [[ $(psql -c "SELECT id FROM knn('tracks', (SELECT embedding FROM tracks WHERE id = 77), 1)") == 77 ]]
    [[ -z $(psql -c "SELECT * FROM vekter_check('tracks', true)") ]]
    used=$(psql -c "LOAD 'vekter'" -c "SELECT DISTINCT substring(pg_read_file('/proc/self/maps') FROM '[^ ]*libvekter.so')")
    [[ -z $variant || $used != *glibc-hwcaps* ]]
    echo "$suite, ${variant:-as the loader chooses}: $used"
    psql -c 'DROP TABLE tracks' -c 'DROP EXTENSION vekter'
    inside pg_ctlcluster "$major" main stop
done
# A database with pgvector's columns and index gets vekter's; queries stay as they are.
if inside apt-get install -y -qq --no-install-recommends "postgresql-$major-pgvector" >/dev/null 2>&1; then
    inside pg_ctlcluster "$major" main start
    psql <<'SQL'
CREATE EXTENSION vector;
CREATE TABLE items (id bigserial PRIMARY KEY, embedding vector(8));
INSERT INTO items (embedding)
    SELECT ARRAY(SELECT sin(i * j) FROM generate_series(1, 8) j)::vector FROM generate_series(1, 20000) i;
CREATE INDEX ON items USING hnsw (embedding vector_l2_ops);
CREATE SCHEMA vekter;
CREATE EXTENSION vekter_pgvector SCHEMA vekter CASCADE;
SELECT statement FROM vekter.vekter_replace_pgvector_indexes('items', drop_old => true) \gexec
SQL
    nearest="SELECT id FROM items ORDER BY embedding <-> (SELECT embedding FROM items WHERE id = 77) LIMIT 1"
    [[ $(psql -c "EXPLAIN $nearest") == *"Index Scan using items_embedding_idx"* ]]
    [[ $(psql -c "$nearest") == 77 ]]
    echo "$suite: pgvector's index replaced by a faiss index, which the same query uses"
    inside pg_ctlcluster "$major" main stop
else
    echo "NOT RUN: pgvector's columns: $suite has no postgresql-$major-pgvector" >&2
fi
echo "$(basename "$package"): installed and used on $suite"
