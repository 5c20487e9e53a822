"""Sealing: a delta past its limit becomes a segment, whoever does it, and no search can tell the difference."""

import time

import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from oracle import assert_same_answer, nearest_sql, settings, with_index
from test_memory import private_dirty_kib
from upkeep import (complaints, meanwhile, most_segments, rows_within, search_in_one_snapshot, stats, vacuum_dead_rows,
                    wait_for_rest, wait_for_seal, wait_until, workers)

DIMENSIONS = 8
LIMIT_BYTES = 64 * 1024
LIMIT_ROWS = rows_within(LIMIT_BYTES, DIMENSIONS)
VECTORS = clustered(20_005, DIMENSIONS, seed=201)
ROWS, QUERIES = VECTORS[:20_000], VECTORS[20_000:]


@pytest.fixture(scope="module")
def cluster(new_module_cluster):
    return new_module_cluster({"vekter.delta_limit": "64kB", "max_worker_processes": 16})


def make(db, kind="", factory="Flat", metric="l2", dimensions=DIMENSIONS):
    db.execute(f"CREATE {kind} TABLE items (id bigint, embedding vector({dimensions})) WITH (autovacuum_enabled = off)")
    db.execute(f"CREATE INDEX built ON items USING faiss (embedding vector_{metric}_ops) "
               f"WITH (factory = '{factory}')")


def fill(db, first, end, piece=500):
    for at in range(first, end, piece):
        last = min(at + piece, end)
        copy_vectors(db, "items", ROWS[at:last], ids=range(at, last))


def all_ids(db, metric="l2"):
    return sorted(id for id, _ in with_index(db, nearest_sql("items", QUERIES[0], None, metric), "built"))


# -- the worker ---------------------------------------------------------------------------------------------------

def test_inserts_beyond_the_limit_are_sealed_in_the_background(db):
    make(db)
    fill(db, 0, 5 * LIMIT_ROWS)
    wait_for_seal(db, LIMIT_BYTES, DIMENSIONS)
    assert stats(db, "segments") >= 1
    assert stats(db, "rows_indexed") == 5 * LIMIT_ROWS
    assert all_ids(db) == list(range(5 * LIMIT_ROWS))
    for query in QUERIES:
        assert_same_answer(db, "items", query, limit=100, index="built")


@pytest.mark.parametrize("begin", ("make", "truncate"))
def test_a_load_in_the_transaction_that_makes_the_index_is_sealed_and_merged(db, begin):
    """Nobody else sees the index before the commit, and nothing happens after it."""
    if begin == "truncate":
        make(db)
        fill(db, 0, 10)
    db.execute("BEGIN")
    make(db) if begin == "make" else db.execute("TRUNCATE items")
    fill(db, 0, LIMIT_ROWS + 100)
    db.execute("COMMIT")
    assert stats(db, "delta_rows") <= LIMIT_ROWS and stats(db, "segments") >= 1
    assert all_ids(db) == list(range(LIMIT_ROWS + 100))
    db.execute("BEGIN")
    db.execute("DROP TABLE items")
    make(db)
    fill(db, 0, 10 * LIMIT_ROWS)
    db.execute("COMMIT")
    wait_until(lambda: stats(db, "segments") <= most_segments(10 * LIMIT_ROWS), "merges")
    assert stats(db, "delta_rows") <= LIMIT_ROWS
    assert all_ids(db) == list(range(10 * LIMIT_ROWS))


def test_a_load_that_is_rolled_back_with_its_index_leaves_no_worker_behind(db):
    db.execute("BEGIN")
    make(db)
    fill(db, 0, 5 * LIMIT_ROWS)
    db.execute("ROLLBACK")
    make(db)
    assert not workers(db)


def test_a_delta_within_its_limit_is_left_alone(db):
    make(db)
    fill(db, 0, LIMIT_ROWS // 2)
    assert not workers(db)
    assert stats(db, "segments, delta_rows") == (0, LIMIT_ROWS // 2)


def test_the_limit_of_an_index_is_its_own_for_sessions_worker_and_vacuum(db, database):
    db.execute(f'ALTER DATABASE "{database}" SET vekter.delta_limit = \'1GB\'')
    db.execute("SET vekter.delta_limit = '1GB'")
    make(db)
    db.execute("ALTER INDEX built SET (delta_limit = 64)")
    # Too few for the session to seal by itself.
    fill(db, 0, 2 * LIMIT_ROWS)
    wait_for_seal(db, LIMIT_BYTES, DIMENSIONS)
    db.execute("ALTER INDEX built SET (delta_limit = 1000000)")
    db.execute("SET vekter.delta_limit = '64kB'")
    before = stats(db, "segments, delta_rows")
    fill(db, 2 * LIMIT_ROWS, 8 * LIMIT_ROWS)
    db.execute("VACUUM (INDEX_CLEANUP ON) items")
    assert stats(db, "segments, delta_rows") == (before[0], before[1] + 6 * LIMIT_ROWS)
    db.execute("ALTER INDEX built RESET (delta_limit)")
    db.execute("VACUUM (INDEX_CLEANUP ON) items")
    assert stats(db, "delta_rows") <= LIMIT_ROWS
    assert all_ids(db) == list(range(8 * LIMIT_ROWS))


def test_the_limit_of_an_index_is_part_of_its_definition_and_has_the_setting_s_bounds(db):
    make(db)
    db.execute("CREATE INDEX other ON items USING faiss (embedding) WITH (delta_limit = 2048)")
    assert "delta_limit='2048'" in db.execute("SELECT pg_get_indexdef('other'::regclass)").fetchone()[0]
    for value in ("0", "63", "-2", "'64kB'", "'lots'", "2147483648"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="delta_limit"):
            db.execute(f"ALTER INDEX other SET (delta_limit = {value})")


def test_searches_agree_with_the_table_at_every_moment(db, cluster, database):
    make(db)
    searches = search_in_one_snapshot(QUERIES[:2])
    with meanwhile(cluster, database, searches, searches):
        fill(db, 0, 10_000, piece=100)
    wait_for_seal(db, LIMIT_BYTES, DIMENSIONS)
    assert all_ids(db) == list(range(10_000))


def test_one_worker_serves_an_index_and_each_index_has_its_own(db, cluster, database):
    make(db)
    db.execute(f"CREATE TABLE others (id bigint, embedding vector({DIMENSIONS}))")
    db.execute("CREATE INDEX other ON others USING faiss (embedding)")
    seen = set()

    def watch(conn):
        # A worker says what it works on when it has the right to: until then a second one may be on its way out. One
        # that has lost the right ends, which may take a moment.
        busy = [worker for worker in workers(conn) if worker[1]]
        seen.update(query for _, query in busy)
        if len(busy) > len({query for _, query in busy}):
            time.sleep(0.5)
            assert not set(busy) <= set(workers(conn)), busy

    def write(table, first):
        def writer(conn):
            copy_vectors(conn, table, ROWS[:300], ids=range(first, first + 300))
        return writer

    with meanwhile(cluster, database, watch, write("items", 10_000), write("items", 20_000), write("others", 0)):
        wait_until(lambda: len(seen) == 2, "a worker for each of two indexes")
    assert seen == {'compacting index "built"', 'compacting index "other"'}
    wait_for_rest(db)


def test_worker_goes_when_there_is_nothing_left_to_do(db):
    make(db)
    fill(db, 0, 2 * LIMIT_ROWS)
    wait_until(lambda: workers(db), "a worker")
    wait_for_rest(db)
    assert stats(db, "delta_rows") <= LIMIT_ROWS


@pytest.mark.serial
def test_merges_wait_until_rows_come_more_slowly(db):
    dimensions, rows = 2_000, 600
    make(db, dimensions=dimensions)
    # The session seals nothing by itself.
    db.execute("ALTER INDEX built SET (delta_limit = 4096)")
    db.execute(f"CREATE TABLE source (id bigint, embedding vector({dimensions}))")
    copy_vectors(db, "source", clustered(rows, dimensions, seed=202))

    def segments():
        return {id for id, in db.execute("SELECT id FROM vekter_segments('built')")}

    def insert_for(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            db.execute("INSERT INTO items SELECT * FROM source")

    def merges_nothing_meanwhile():
        insert_for(1)
        before = segments()
        insert_for(1)
        return len(before) > 4 and before <= segments()

    # Where the inserts pause, a merge begins.
    assert sum(merges_nothing_meanwhile() for _ in range(4)) >= 3
    wait_for_rest(db)
    assert len(segments()) <= most_segments(stats(db, "rows_indexed"))


def test_worker_has_nothing_to_complain_of(db, cluster):
    before = len(cluster.log_text())
    make(db, factory="IVF16,SQ8")
    fill(db, 0, 12_000, piece=1_000)
    db.execute("DELETE FROM items WHERE id % 3 = 0")
    vacuum_dead_rows(db)
    wait_for_rest(db)
    assert complaints(cluster, before) == []


# -- without a worker ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", ("single rows", "one statement"))
def test_inserting_session_seals_by_itself_where_the_background_is_off(db, cluster, how):
    make(db)
    before = len(cluster.log_text())
    with settings(db, **{"vekter.background_compaction": "off"}):
        if how == "one statement":
            copy_vectors(db, "items", ROWS[:10_000])
            assert stats(db, "delta_rows") <= LIMIT_ROWS
        else:
            statement = f"INSERT INTO items SELECT %s + i, '{to_text(ROWS[0])}' FROM generate_series(0, 49) i"
            for at in range(0, 3 * LIMIT_ROWS, 50):
                db.execute(statement, [at])
                assert stats(db, "delta_rows") <= LIMIT_ROWS
        assert not workers(db)
    assert stats(db, "segments") > 1
    assert complaints(cluster, before) == []
    assert_same_answer(db, "items", QUERIES[0], limit=None, index="built")


def test_vacuum_seals_and_merges_where_the_background_is_off(db):
    make(db)
    with settings(db, **{"vekter.background_compaction": "off", "vekter.delta_limit": "16MB"}):
        fill(db, 0, 8_000)
    assert stats(db, "segments, delta_rows") == (0, 8_000)
    with settings(db, **{"vekter.background_compaction": "off"}):
        db.execute("VACUUM items")
        assert stats(db, "delta_rows") <= LIMIT_ROWS
        for first in range(8_000, 20_000, 1_500):
            fill(db, first, min(first + 1_500, 20_000))
        before = stats(db, "segments")
        db.execute("VACUUM items")
        assert stats(db, "segments") < before
        assert not workers(db)
    assert all_ids(db) == list(range(20_000))
    assert_same_answer(db, "items", QUERIES[0], limit=50, index="built")


def test_server_without_workers_seals_in_the_inserting_session_and_in_vacuum(new_cluster):
    cluster = new_cluster({"vekter.delta_limit": "64kB", "max_worker_processes": 0})
    cluster.execute("CREATE EXTENSION vekter")
    with cluster.connect() as db:
        make(db)
        fill(db, 0, 20_000)
        # The session steps in when a worker, had there been one, would be far behind.
        assert stats(db, "delta_rows") <= 5 * LIMIT_ROWS
        before = stats(db, "segments")
        assert before >= 1
        db.execute("VACUUM items")
        assert stats(db, "delta_rows") <= LIMIT_ROWS
        assert all_ids(db) == list(range(20_000))


@pytest.mark.parametrize("kind", ("TEMP", "UNLOGGED"))
def test_tables_without_wal_are_sealed_too(db, kind):
    make(db, kind)
    fill(db, 0, 10_000)
    if kind == "TEMP":
        assert not workers(db), "no other process can read a temporary table"
        assert stats(db, "delta_rows") <= LIMIT_ROWS
    else:
        wait_for_seal(db, LIMIT_BYTES, DIMENSIONS)
    assert stats(db, "segments") >= 1
    db.execute("DELETE FROM items WHERE id % 2 = 0")
    vacuum_dead_rows(db)
    assert all_ids(db) == list(range(1, 10_000, 2))
    assert_same_answer(db, "items", QUERIES[0], limit=50, index="built")


def test_vacuum_without_dead_rows_seals(db):
    make(db)
    with settings(db, **{"vekter.delta_limit": "16MB"}):
        fill(db, 0, 8_000)
    assert stats(db, "delta_rows") == 8_000
    db.execute("VACUUM items")
    assert stats(db, "delta_rows") <= LIMIT_ROWS
    assert all_ids(db) == list(range(8_000))


def test_autovacuum_after_inserts_seals(new_cluster):
    cluster = new_cluster({"vekter.delta_limit": "64kB", "autovacuum_naptime": "1s",
                           "autovacuum_vacuum_insert_threshold": 1000, "autovacuum_vacuum_insert_scale_factor": 0})
    cluster.execute("CREATE EXTENSION vekter")
    with cluster.connect() as db:
        db.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS}))")
        db.execute("CREATE INDEX built ON items USING faiss (embedding)")
        with settings(db, **{"vekter.delta_limit": "16MB"}):
            fill(db, 0, 8_000)
        wait_for_seal(db, LIMIT_BYTES, DIMENSIONS)
        # It counts itself when it is over.
        wait_until(lambda: db.execute("SELECT autovacuum_count FROM pg_stat_user_tables").fetchone()[0], "autovacuum")
        assert_same_answer(db, "items", QUERIES[0], limit=50, index="built")


# -- what is sealed -----------------------------------------------------------------------------------------------

def test_rows_of_aborted_transactions_and_savepoints_never_come_out(db):
    make(db)
    expected = []
    for turn in range(10):
        first = turn * 1_000
        db.execute("BEGIN")
        fill(db, first, first + 500)
        db.execute("SAVEPOINT half")
        fill(db, first + 500, first + 1_000)
        db.execute("ROLLBACK TO half")
        fill(db, first + 500, first + 600)
        db.execute("COMMIT" if turn % 2 else "ROLLBACK")
        expected += range(first, first + 600) if turn % 2 else ()
        assert all_ids(db) == expected
    wait_for_seal(db, LIMIT_BYTES, DIMENSIONS)
    assert all_ids(db) == expected
    db.execute("VACUUM items")
    wait_for_rest(db)
    assert all_ids(db) == expected
    assert stats(db, "rows_indexed") == len(expected)


def test_a_transaction_sees_its_own_rows_while_they_are_sealed(db, cluster, database):
    make(db)
    with cluster.connect(database, autocommit=False) as writer:
        fill(writer, 0, 5_000)
        wait_for_seal(db, LIMIT_BYTES, DIMENSIONS)
        assert stats(db, "segments") >= 1
        assert all_ids(writer) == list(range(5_000))
        assert all_ids(db) == []
        writer.execute("DELETE FROM items WHERE id < 1000")
        assert all_ids(writer) == list(range(1_000, 5_000))
    assert all_ids(db) == list(range(1_000, 5_000))


@pytest.mark.parametrize("kind", ("HOT", "other"))
def test_updates_leave_one_entry_for_each_row(db, kind):
    db.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS}), note int DEFAULT 0) "
               "WITH (autovacuum_enabled = off, fillfactor = 50)")
    db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    copy_vectors(db, "items", ROWS[:3_000])
    change = "note = note + 1" if kind == "HOT" else "embedding = embedding + embedding, note = note + 1"
    for turn in range(8):
        db.execute(f"UPDATE items SET {change} WHERE id % 4 = {turn % 4}")
        if turn % 3 == 2:
            db.execute("VACUUM items")
        assert all_ids(db) == list(range(3_000))
        assert_same_answer(db, "items", QUERIES[turn % 5], limit=50, index="built")
    wait_for_rest(db)
    assert all_ids(db) == list(range(3_000))
    assert_same_answer(db, "items", QUERIES[0], limit=None, index="built")


@pytest.mark.parametrize("metric", ("l2", "ip", "cosine"))
def test_every_metric_is_exact_across_delta_and_segments(db, metric):
    make(db, metric=metric)
    fill(db, 0, 4 * LIMIT_ROWS)
    wait_for_seal(db, LIMIT_BYTES, DIMENSIONS)
    fill(db, 4 * LIMIT_ROWS, 4 * LIMIT_ROWS + 300)
    for query in QUERIES:
        assert_same_answer(db, "items", query, limit=100, index="built", metric=metric)


def test_nulls_and_zero_vectors_stay_where_they_were(db):
    """NULLs have no place in the index, and neither have zero vectors under cosine, whose distance is NaN."""
    make(db, metric="cosine")
    db.execute("INSERT INTO items SELECT -i, NULL FROM generate_series(1, 2000) i")
    db.execute("INSERT INTO items SELECT 100000 + i, '[0,0,0,0,0,0,0,0]' FROM generate_series(1, 2000) i")
    fill(db, 0, 4_000)
    wait_for_seal(db, LIMIT_BYTES, DIMENSIONS)
    assert all_ids(db, "cosine") == list(range(4_000))
    db.execute("SELECT vekter_compact('built')")
    assert all_ids(db, "cosine") == list(range(4_000))


def test_rows_of_sixteen_thousand_dimensions_are_sealed(db):
    """A row of eight pages: its first page holds nothing else, and the limit counts them all."""
    dimensions, rows = 16_000, 40
    vectors = clustered(rows + 1, dimensions, seed=202)
    make(db, dimensions=dimensions)
    copy_vectors(db, "items", vectors[:3])
    wait_until(lambda: stats(db, "delta_rows") == 1, "the delta to be within 64 kB")
    copy_vectors(db, "items", vectors[3:rows], ids=range(3, rows))
    wait_until(lambda: stats(db, "delta_rows") == 1, "the delta to be within 64 kB again")
    assert stats(db, "rows_indexed") == rows
    assert_same_answer(db, "items", vectors[rows], limit=None, index="built")
    db.execute("DELETE FROM items WHERE id % 2 = 0")
    vacuum_dead_rows(db, options="(INDEX_CLEANUP ON)")
    db.execute("SELECT vekter_compact('built')")
    assert stats(db) == (1, 0, 0, rows // 2)
    assert_same_answer(db, "items", vectors[rows], limit=None, index="built")


def test_rows_whose_sums_overflow_are_sealed(db):
    make(db, factory="HNSW32")
    fill(db, 0, 1_000)
    huge = [f"[{i}e15,0,0,0,0,0,0,1]" for i in range(1, 200)]
    with db.cursor() as cursor:
        cursor.executemany("INSERT INTO items VALUES (%s, %s)", [(50_000 + i, v) for i, v in enumerate(huge)])
    fill(db, 1_000, 6_000)
    wait_for_rest(db)
    assert stats(db, "rows_indexed") == 6_199
    assert all_ids(db) == [*range(6_000), *range(50_000, 50_199)]
    found = with_index(db, nearest_sql("items", [199e15] + [0] * 7, 3), "built")
    assert [id for id, _ in found] == [50_198, 50_197, 50_196]


# -- settings -----------------------------------------------------------------------------------------------------

def test_settings_say_what_they_do_and_refuse_what_they_cannot(db):
    db.execute("LOAD 'vekter'")
    found = {name: rest for name, *rest in db.execute(
        "SELECT name, vartype, unit, min_val, max_val, boot_val, context FROM pg_settings WHERE name LIKE 'vekter.%'")}
    assert found["vekter.delta_limit"] == ["integer", "kB", "64", str(2**31 - 1), "4096", "user"]
    assert found["vekter.background_compaction"] == ["bool", None, None, None, "on", "user"]
    assert all(text for text, in db.execute("SELECT short_desc FROM pg_settings WHERE name LIKE 'vekter.%'"))
    for value in ("0", "-1", "63", "63kB", "lots", "3000GB"):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            db.execute("SELECT set_config('vekter.delta_limit', %s, false)", [value])
    db.execute("SET vekter.delta_limit = '1GB'")
    assert db.execute("SHOW vekter.delta_limit").fetchone() == ("1GB",)
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        db.execute("SET vekter.background_compaction = 'sometimes'")


# -- memory -------------------------------------------------------------------------------------------------------

def test_searching_session_does_not_grow_with_what_others_seal(db, cluster, database):
    """Hundreds of publishes, each of which makes the searching session open new segments and close old ones."""
    make(db)
    with cluster.connect(database) as reader, settings(db, **{"vekter.background_compaction": "off"}):
        before = 0
        for turn in range(400):
            db.execute("INSERT INTO items SELECT i, %s FROM generate_series(1, 20) i", [to_text(ROWS[turn])])
            db.execute("SELECT vekter_compact('built')")
            with_index(reader, nearest_sql("items", QUERIES[0], 5), "built")
            if turn == 100:
                before = private_dirty_kib(reader.info.backend_pid), private_dirty_kib(db.info.backend_pid)
            if turn % 50 == 49:
                db.execute("DELETE FROM items")
                vacuum_dead_rows(db)
        after = private_dirty_kib(reader.info.backend_pid), private_dirty_kib(db.info.backend_pid)
        assert after[0] - before[0] < 2048, f"the reader grew from {before[0]} to {after[0]} KiB"
        assert after[1] - before[1] < 4096, f"the writer grew from {before[1]} to {after[1]} KiB"
