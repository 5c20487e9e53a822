#!/usr/bin/env bash
# The demo: tracks with embeddings, an index, searches, and what they cost. scripts/with_cluster.sh provides the server.
set -euo pipefail
cd "$(dirname "$0")"

rows=50000
step=5000
bold='' plain=''
[[ ! -t 1 ]] || { bold=$'\e[1m' plain=$'\e[0m'; }

sql() { psql -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { sql -A -t -c "$1"; }
headline() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }

# Shows a statement as one would type it, then runs it.
show() {
    printf '%s\n' "$bold=> ${1//$'\n'/$'\n'   }$plain"
    sql -P pager=off -c "$1"
}

# One line that is written over in a terminal; in a file, a line of its own every time.
progress() { if [[ -t 1 ]]; then printf '\r\e[K  %s' "$1"; else printf '  %s\n' "$1"; fi; }
progress_end() { if [[ -t 1 ]]; then printf '\r\e[K'; fi; }

# Runs a statement in the background and shows what PostgreSQL says about its progress; fails as the statement does.
build_index() {
    local phase
    sql -P pager=off -c "$1" &
    while sleep 1 && kill -0 $! 2>/dev/null; do
        phase=$(value "SELECT phase || coalesce(format(', %s of %s rows', tuples_done, nullif(tuples_total, 0)), '')
            FROM pg_stat_progress_create_index" || true)
        [[ -z $phase ]] || progress "$phase"
    done
    progress_end
    wait $!
}

seconds_since() { awk -v now="$EPOCHREALTIME" -v began="$1" 'BEGIN { printf "%.1f s", now - began }'; }

headline "vekter: FAISS inside PostgreSQL $(value 'SHOW server_version')"
echo "A throw-away server, a table of ${rows} made-up tracks with embeddings of 128 dimensions:"

began=$EPOCHREALTIME
sql -o /dev/null -f tracks.sql
for ((first = 1; first <= rows; first += step)); do
    value "CALL demo.add_tracks($first, $((first + step - 1)))"
    progress "$((first + step - 1)) of $rows rows"
done
progress_end
value 'VACUUM ANALYZE tracks'
echo "  $rows rows made in $(seconds_since "$began")"

headline "1. One call makes an index"
statement="SELECT vekter_create_index('tracks', 'id', 'embedding');"
printf '%s\n' "$bold=> $statement$plain"
began=$EPOCHREALTIME
build_index "$statement"
echo "  built in $(seconds_since "$began")"

headline "2. What sounds like track 4711?"
show "SELECT title, genre FROM tracks WHERE id = 4711;"
show "SELECT * FROM knn('tracks', (SELECT embedding FROM tracks WHERE id = 4711), 5);"

headline "3. The same with titles: a plain join"
show "SELECT t.title, t.genre, round(k.distance::numeric, 3) AS distance
FROM knn('tracks', (SELECT embedding FROM tracks WHERE id = 4711), 5) AS k
JOIN tracks AS t USING (id) ORDER BY k.distance;"

headline "4. Or ordinary SQL, with whatever condition you like"
show "EXPLAIN (ANALYZE, COSTS off) SELECT title FROM tracks
ORDER BY embedding <-> (SELECT embedding FROM tracks WHERE id = 4711) LIMIT 5;"
echo "  (A connection loads FAISS once, in its first planning.)"

headline "5. How right, how fast?"
for ((first = 1; first <= 100; first += 20)); do
    progress "comparing with the exact answer: query $first of 100"
    value "CALL demo.measure($first, $((first + 19)))"
done
progress_end
value "SELECT format(E'  recall@10     %s   (share of the exact ten nearest that the index found, mean of 100 queries)\n'
        '  with index    %s ms   (median)\n  without       %s ms   (median: every row compared, the exact answer)\n'
        '  that is       %s times faster',
    round(avg(found) / 10, 3), round(index_ms.median::numeric, 2), round(exact_ms.median::numeric, 2),
    round((exact_ms.median / index_ms.median)::numeric))
    FROM demo.queries,
        (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY index_ms) AS median FROM demo.queries) AS index_ms,
        (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY exact_ms) AS median FROM demo.queries) AS exact_ms
    GROUP BY index_ms.median, exact_ms.median"

if [[ -z ${KEEP:-} || ${KEEP:-} == 0 ]]; then
    printf '\nThe server and its data are removed now. To keep them and open psql: KEEP=1 make demo\n'
fi
