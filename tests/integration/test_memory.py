"""A backend's private memory does not grow with the index: segments are mapped, not copied."""

import re
import threading
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from data import clustered, copy_vectors
from oracle import ONLY_INDEX, WITHOUT_INDEX, apply, nearest_sql

ROWS, DIMENSIONS = 100_000, 128
# Their floats alone are twice the limit.
FEWER_ROWS = 32_000
LIMIT_KIB = 8 * 1024
VECTORS = clustered(ROWS + 5, DIMENSIONS, seed=141)


@pytest.fixture(scope="module")
def library(new_module_cluster):
    cluster = new_module_cluster({"maintenance_work_mem": "1GB", "max_parallel_maintenance_workers": 1})
    with cluster.connect() as conn:
        conn.execute("CREATE EXTENSION vekter")
        conn.execute(f"CREATE UNLOGGED TABLE items (id bigint, embedding vector({DIMENSIONS}))")
        copy_vectors(conn, "items", VECTORS[:ROWS])
        conn.execute(f"CREATE UNLOGGED TABLE fewer AS SELECT * FROM items LIMIT {FEWER_ROWS}")
        conn.execute("VACUUM ANALYZE items, fewer")
    return cluster


def private_dirty_kib(pid):
    """Memory that only this process holds and has written: Private_Dirty of its private mappings (/proc/PID/smaps).

    Shared mappings are left out: pages of shared buffers that no other process has touched yet count as private to
    Linux, and a search touches many.
    """
    kib, private = 0, False
    with open(f"/proc/{pid}/smaps") as mappings:
        for line in mappings:
            if header := re.match(r"[0-9a-f]+-[0-9a-f]+ (\S{4}) ", line):
                private = header[1][3] == "p"
            elif private and line.startswith("Private_Dirty:"):
                kib += int(line.split()[1])
    return kib


def anonymous_kib(pid):
    """Memory of a process that no file backs (RssAnon of /proc/PID/status)."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))


@contextmanager
def peak_of(conn):
    """A list that holds, after the block, the most memory that the session took at any time in it beside what it had, in
    KiB."""
    pid, finished, samples, peak = conn.info.backend_pid, threading.Event(), [], []
    before = anonymous_kib(pid)

    def watch():
        while not finished.wait(0.002):
            samples.append(anonymous_kib(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        finished.set()
        watcher.join()
    peak.append(max(samples) - before)


def peak_of_build(cluster, settings, factory):
    """Most memory that a build took at any time beside what its backend had, and the size of the index, in KiB."""
    with cluster.connect() as conn:
        apply(conn, settings)
        conn.execute("SELECT '[1]'::vector")
        with peak_of(conn) as peak:
            conn.execute(f"CREATE INDEX built ON items USING faiss (embedding) WITH (factory = '{factory}')")
        index = conn.execute("SELECT pg_relation_size('built') / 1024").fetchone()[0]
        conn.execute("DROP INDEX built")
        return peak[0], index


def memory_after(cluster, rules, queries):
    """Private memory of a new backend after these queries, in KiB."""
    with cluster.connect() as conn:
        apply(conn, rules)
        for query in queries:
            assert len(conn.execute(nearest_sql("fewer", query, 10)).fetchall()) == 10
        return private_dirty_kib(conn.info.backend_pid)


@pytest.mark.parametrize("factory", ("HNSW32", "IVF256,Flat", "IVF256,PQ16x4fs,RFlat"))
def test_second_backend_stays_under_eight_mebibytes(library, factory):
    library.execute(f"CREATE INDEX built ON fewer USING faiss (embedding) WITH (factory = '{factory}')")
    try:
        queries = VECTORS[ROWS:]
        memory_after(library, ONLY_INDEX, queries[:1])
        scan = memory_after(library, WITHOUT_INDEX, queries[:1])
        first = memory_after(library, ONLY_INDEX, queries[:1])
        assert first - scan < LIMIT_KIB, f"{first - scan} KiB more than a backend that scanned the table"
        many = memory_after(library, ONLY_INDEX, list(queries) * 40)
        assert many - first < LIMIT_KIB, f"200 queries hold {many - first} KiB more than one"
    finally:
        library.execute("DROP INDEX built")


@pytest.mark.parametrize("factory", ("Flat", "IVF512,Flat", "IVF512,PQ16", "IVF512,PQ16x4fs,RFlat"))
def test_build_stays_within_maintenance_work_mem_and_the_index(library, factory):
    """512 lists want a sample of 131,072 rows, 67 MB and as much again to train: more than there is."""
    peak, index = peak_of_build(library, {"maintenance_work_mem": "48MB"}, factory)
    assert peak < index + 48 * 1024, f"{peak} KiB for an index of {index} KiB"


def test_build_that_cannot_stay_within_maintenance_work_mem_is_refused_before_it_starts(library):
    with library.connect() as conn:
        conn.execute("SET maintenance_work_mem = '32MB'")
        build = "CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF2048,PQ16')"
        with pytest.raises(psycopg.errors.ConfigurationLimitExceeded, match="maintenance_work_mem") as refusal:
            conn.execute(build)
        assert re.search(r"takes about \d+ MB beside the index itself", refusal.value.diag.message_detail)
        enough = re.search(r"at least (\d+) MB", refusal.value.diag.message_hint)[1]
    peak, index = peak_of_build(library, {"maintenance_work_mem": f"{enough}MB"}, "IVF2048,PQ16")
    assert peak < index + int(enough) * 1024, f"{peak} KiB, and {enough} MB were said to be enough"


def test_the_default_setting_builds_a_factory_that_it_has_little_room_for(db):
    """64 MB are the default of maintenance_work_mem: what a tuned server dumped is restored on one that is not."""
    rows = 5_000
    db.execute("CREATE TABLE wide (id bigint, embedding vector(768)) WITH (autovacuum_enabled = off)")
    copy_vectors(db, "wide", clustered(rows, 768, seed=142))
    db.execute("SET maintenance_work_mem = '64MB'")
    for factory in ("IVF1024,PQ48x4fs,RFlat", "PCA128,IVF128,SQ8", "HNSW32", "IVF1024,PRQ8x4x8_Nqint8"):
        db.execute(f"CREATE INDEX built ON wide USING faiss (embedding) WITH (factory = '{factory}')")
        assert db.execute("SELECT factory, rows FROM vekter_segments('built')").fetchall() == [(factory, rows)]
        db.execute("DROP INDEX built")


def test_a_build_that_learns_from_less_than_it_would_says_so(library):
    notices = []
    with library.connect() as conn:
        conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        conn.execute("CREATE TABLE few AS SELECT * FROM items LIMIT 50000")
        conn.execute("SET maintenance_work_mem = '44MB'")
        conn.execute("CREATE INDEX built ON few USING faiss (embedding) WITH (factory = 'IVF1024,SQ8')")
        said = [notice for notice in notices if "maintenance_work_mem" in notice]
        assert len(said) == 1 and re.search(r"trained on [\d,]+ rows, .*; 39,936 would do better", said[0]), notices
        [(reason,)] = conn.execute("SELECT reason FROM vekter_index_stats('built')")
        assert said[0].endswith(reason)
        notices.clear()
        conn.execute("SET maintenance_work_mem = '1GB'")
        conn.execute("REINDEX INDEX built")
        assert notices == [] and conn.execute("SELECT reason FROM vekter_index_stats('built')").fetchone() == (None,)
        conn.execute("DROP TABLE few")


def test_rescans_hold_no_memory(library):
    """A nested loop searches thousands of times in one statement; the last search needs what the first one did."""
    library.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF256,Flat')")
    sql = ("SELECT count(*) FROM (SELECT * FROM items LIMIT {}) q CROSS JOIN LATERAL (SELECT id FROM items "
           "ORDER BY embedding <-> q.embedding LIMIT 10) n")
    try:
        with library.connect() as conn:
            apply(conn, ONLY_INDEX)
            conn.execute(sql.format(50))
            few = private_dirty_kib(conn.info.backend_pid)
            assert conn.execute(sql.format(3_000)).fetchone() == (30_000,)
            assert private_dirty_kib(conn.info.backend_pid) - few < LIMIT_KIB
    finally:
        library.execute("DROP INDEX built")


def test_many_inserts_and_failed_statements_hold_no_memory(library):
    with library.connect() as conn:
        conn.execute("CREATE TEMP TABLE scratch (id bigint, embedding vector(128))")
        conn.execute("CREATE INDEX ON scratch USING faiss (embedding) WITH (factory = 'Flat')")
        fill = "INSERT INTO scratch SELECT * FROM items LIMIT {}"
        conn.execute(fill.format(500))
        apply(conn, ONLY_INDEX)
        for turn in range(60):
            if turn == 10:
                before = private_dirty_kib(conn.info.backend_pid)
            conn.execute("BEGIN")
            conn.execute(fill.format(100))
            conn.execute(nearest_sql("scratch", VECTORS[turn], 10))
            conn.execute("ROLLBACK")
            conn.execute("DO $$ BEGIN PERFORM id FROM scratch ORDER BY embedding <-> '[1,2]' LIMIT 1; "
                         "EXCEPTION WHEN data_exception THEN NULL; END $$")
        assert private_dirty_kib(conn.info.backend_pid) - before < LIMIT_KIB + temporary_buffers_kib(conn)


def test_hundreds_of_segments_that_come_and_go_hold_no_memory(library):
    """One session opens them, another replaces them: maps, handles and files end with each."""
    with library.connect() as writer, library.connect() as reader:
        writer.execute("CREATE TABLE growing (id bigint, embedding vector(128)) WITH (autovacuum_enabled = off)")
        writer.execute("INSERT INTO growing SELECT * FROM items LIMIT 300")
        writer.execute("CREATE INDEX growing_faiss ON growing USING faiss (embedding) WITH (factory = 'Flat')")
        apply(reader, ONLY_INDEX)
        for turn in range(400):
            writer.execute("INSERT INTO growing SELECT -%s, embedding FROM items LIMIT 1", [turn])
            writer.execute("SELECT vekter_compact('growing_faiss')")
            assert len(reader.execute(nearest_sql("growing", VECTORS[turn], 10)).fetchall()) == 10
            if turn == 100:
                before = [private_dirty_kib(conn.info.backend_pid) for conn in (writer, reader)]
        after = [private_dirty_kib(conn.info.backend_pid) for conn in (writer, reader)]
        for conn in (writer, reader):
            maps = [line for line in open(f"/proc/{conn.info.backend_pid}/maps") if "pgsql_tmp_vekter" in line]
            assert len(maps) <= 2, "segments that are gone are still mapped"
            files = list(Path(f"/proc/{conn.info.backend_pid}/fd").iterdir())
            assert len(files) < 100
        assert max(a - b for a, b in zip(after, before)) < LIMIT_KIB, (before, after)
        folder = library.data / "pgsql_tmp_vekter"
        writer.execute("DROP TABLE growing")
        assert len(list(folder.iterdir())) < 20


def temporary_buffers_kib(conn):
    """A session's own buffers for temporary tables count as private, and rightly so."""
    return conn.execute("SELECT setting::int * 8 FROM pg_settings WHERE name = 'temp_buffers'").fetchone()[0]


@pytest.fixture(scope="module")
def points(library):
    """A table of 300,000 rows."""
    library.execute("CREATE UNLOGGED TABLE points (id bigint, embedding vector(8)) WITH (autovacuum_enabled = off)")
    library.execute("INSERT INTO points SELECT i, ARRAY[i, i % 7, i % 1009, (i::bigint * 7919 % 10007)::int, 1, 2, 3, 4]::vector "
                    "FROM generate_series(1, 300000) i")
    return library


@pytest.mark.parametrize("factory, query", (("Flat", "[50000,3,500,7000,0,0,0,0]"), ("Flat", None),
                                            ("IVF16,SQ8", "[50000,3,500,7000,0,0,0,0]")))
def test_cursor_that_is_read_to_its_end_stays_within_work_mem(points, factory, query):
    with points.connect() as conn:
        conn.execute(f"CREATE INDEX points_faiss ON points USING faiss (embedding) WITH (factory = '{factory}')")
        apply(conn, {**ONLY_INDEX, "work_mem": "1MB", "jit": "off"})
        distance = f"embedding <-> {repr(query) if query else 'NULL::vector'}"
        sql = f"SELECT id, {distance} FROM points ORDER BY {distance}"
        conn.execute(f"{sql} LIMIT 10")
        ids, distances = [], []
        with peak_of(conn) as peak, conn.transaction():
            conn.execute(f"DECLARE found NO SCROLL CURSOR FOR {sql}")
            while rows := conn.execute("FETCH 20000 FROM found").fetchall():
                ids += [id for id, _ in rows]
                distances += [distance for _, distance in rows]
        conn.execute("DROP INDEX points_faiss")
    assert len(ids) == 300_000 and set(ids) == set(range(1, 300_001)), "each row once"
    if factory == "Flat" and query:
        # FAISS's distances are floats.
        assert all(b >= a * (1 - 1e-4) - 0.01 for a, b in zip(distances, distances[1:])), "nearest first"
    assert peak[0] < LIMIT_KIB, f"{peak[0]} KiB"


@pytest.mark.parametrize("factory", ("Flat", "HNSW8", "IVF16,SQ8", "IVF16,PQ1x4fs,RFlat"))
def test_search_that_finds_no_memory_is_an_error_and_the_session_lives(cluster, db, factory):
    """Without LIMIT a search remembers every row that it returned; where memory cannot be had, Rust would end the
    process, and with it the server."""
    db.execute("CREATE TABLE points (id bigint, embedding vector(2))")
    db.execute("INSERT INTO points SELECT i, ARRAY[i, i % 7]::vector FROM generate_series(1, 60000) i")
    db.execute(f"CREATE INDEX ON points USING faiss (embedding) WITH (factory = '{factory}')")
    with cluster.connect(db.info.dbname) as conn:
        apply(conn, ONLY_INDEX)
        conn.execute("SET jit = off")
        count = "SELECT count(*) FROM (SELECT 1 FROM points ORDER BY embedding <-> '[0,0]' OFFSET 0) found"
        conn.execute(nearest_sql("points", [0, 0], 10))
        pid = conn.info.backend_pid
        [pages] = [int(line.split()[0]) for line in open(f"/proc/{pid}/statm")]
        refusals = 0
        for spare_kib in range(0, 2500, 150):
            cluster.limit(pid, "as", pages * 4096 + (spare_kib << 10))
            try:
                assert conn.execute(count).fetchone() == (60_000,)
            except psycopg.errors.OutOfMemory:
                refusals += 1
        assert refusals > 3
        cluster.limit(pid, "as", "unlimited")
        assert conn.execute(count).fetchone() == (60_000,)


def test_search_of_a_graph_among_dead_rows_that_finds_no_memory_is_an_error(cluster, db):
    """They make its queue longer than what was asked for. Nothing may be thrown where FAISS lets no exception out."""
    db.execute("SET vekter.background_compaction = off")
    db.execute("CREATE TABLE points (id bigint, embedding vector(2)) WITH (autovacuum_enabled = off)")
    db.execute("INSERT INTO points SELECT i, ARRAY[i, i % 7]::vector FROM generate_series(1, 60000) i")
    db.execute("CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'HNSW8')")
    db.execute("DELETE FROM points WHERE id % 5 = 0")
    db.execute("VACUUM (INDEX_CLEANUP on) points")
    assert db.execute("SELECT dead_rows FROM vekter_index_stats('points')").fetchone()[0] == 12_000
    with cluster.connect(db.info.dbname) as conn:
        apply(conn, ONLY_INDEX)
        conn.execute("SET vekter.ef_search = 30000")
        query = nearest_sql("points", [0, 0], 10)
        expected = conn.execute(query).fetchall()
        pid, refused = conn.info.backend_pid, 0
        for spare_kib in range(0, 2500, 100):
            [pages] = [int(line.split()[0]) for line in open(f"/proc/{pid}/statm")]
            cluster.limit(pid, "as", pages * 4096 + (spare_kib << 10))
            try:
                assert conn.execute(query).fetchall() == expected
            except psycopg.errors.OutOfMemory:
                refused += 1
            cluster.limit(pid, "as", "unlimited")
        assert refused > 0
        assert conn.execute(query).fetchall() == expected
