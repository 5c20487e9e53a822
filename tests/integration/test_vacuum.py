"""VACUUM: dead rows leave the index, reused line pointers never bring them back, statistics tell the truth."""

import re
import shutil

import pytest

from data import clustered, copy_vectors
from oracle import assert_same_answer, nearest_sql, settings, with_index
from upkeep import vacuum_dead_rows

ROWS, DIMENSIONS = 1_000, 8
VECTORS = clustered(2 * ROWS + 10, DIMENSIONS, seed=41)
BASE, OTHER, QUERIES = VECTORS[:ROWS], VECTORS[ROWS:2 * ROWS], VECTORS[2 * ROWS:]
EVERY_LIST = {"vekter.nprobe": 16, "vekter.ef_search": 2000}

FACTORIES = pytest.mark.parametrize("factory", ("Flat", "HNSW16", "IVF16,Flat", "IVF16,PQ4x4fs,RFlat"))
# Where the rows are when VACUUM comes: in a segment (index built over them) or in the delta (index built before).
PLACES = pytest.mark.parametrize("place", ("segment", "delta"))


def make(db, factory="Flat", place="segment", autovacuum="off"):
    db.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS}), note int DEFAULT 0) "
               f"WITH (autovacuum_enabled = {autovacuum}, fillfactor = 60)")
    index = f"CREATE INDEX built ON items USING faiss (embedding) WITH (factory = '{factory}')"
    if place == "delta":
        db.execute(index)
    copy_vectors(db, "items", BASE)
    if place == "segment":
        db.execute(index)


def stats(db, columns):
    return db.execute(f"SELECT {columns} FROM vekter_index_stats('built')").fetchone()


def all_ids(db, query=QUERIES[0]):
    with settings(db, **EVERY_LIST):
        return sorted(id for id, _ in with_index(db, nearest_sql("items", query, None), "built"))


@FACTORIES
@PLACES
def test_line_pointers_that_the_heap_reuses_never_bring_back_wrong_rows(db, factory, place):
    make(db, factory, place)
    before = set(db.execute("SELECT ctid::text FROM items WHERE id % 2 = 0").fetchall())
    db.execute("DELETE FROM items WHERE id % 2 = 0")
    vacuum_dead_rows(db)
    # The new rows are far from the dead ones, whose places they take: an old entry would come out at the wrong place.
    copy_vectors(db, "items", OTHER[:ROWS // 2] + 50, ids=range(10_000, 10_000 + ROWS // 2))
    reused = before & set(db.execute("SELECT ctid::text FROM items WHERE id >= 10000").fetchall())
    assert len(reused) > 100, "the heap reused too few line pointers for this test to mean anything"
    expected = [i for i in range(ROWS) if i % 2] + list(range(10_000, 10_000 + ROWS // 2))
    assert all_ids(db) == expected
    for query in QUERIES:
        for shifted in (query, query + 50):
            got = with_index(db, nearest_sql("items", shifted, 20), "built")
            assert len(got) == 20
            assert all((id >= 10_000) == (shifted is not query) for id, _ in got), "an old entry led to a new row"
            if factory == "Flat":
                assert_same_answer(db, "items", shifted, limit=20, index="built")


@FACTORIES
@PLACES
def test_vacuum_takes_dead_rows_out_of_the_index(db, factory, place):
    make(db, factory, place)
    db.execute("DELETE FROM items WHERE id < 300")
    vacuum_dead_rows(db)
    # Live rows, wherever they are; those of them in the delta; tombstones in segments.
    assert stats(db, "rows_indexed, delta_rows, dead_rows") == ((700, 0, 300) if place == "segment" else (700, 700, 0))
    assert all_ids(db) == list(range(300, ROWS))


@PLACES
def test_vacuum_reports_what_it_removed_and_what_is_left(db, place):
    make(db, place=place)
    said = []
    db.add_notice_handler(lambda d: said.append(" ".join(filter(None, (d.message_primary, d.message_detail)))))
    db.execute("DELETE FROM items WHERE id < 300")
    vacuum_dead_rows(db, options="(VERBOSE, INDEX_CLEANUP ON)")
    pages = re.search(r'index "built": pages: (\d+) in total, (\d+) newly deleted, (\d+) currently deleted, (\d+) reus',
                      " ".join(said))
    assert pages, said
    assert int(pages[1]) == stats(db, "index_bytes")[0] // 8192
    # The page of the manifest that was replaced.
    assert int(pages[3]) == (1 if place == "segment" else 0), pages[0]
    assert db.execute("SELECT reltuples FROM pg_class WHERE relname = 'built'").fetchone() == (700,)
    assert db.execute("SELECT reltuples FROM pg_class WHERE relname = 'items'").fetchone() == (700,)
    db.execute("DELETE FROM items WHERE id < 400")
    vacuum_dead_rows(db, options="(INDEX_CLEANUP ON)")
    assert db.execute("SELECT reltuples FROM pg_class WHERE relname = 'built'").fetchone() == (600,)


def test_create_index_leaves_right_row_counts_in_the_catalogue(db):
    # Without autovacuum, PostgreSQL 18 leaves the table's count alone.
    make(db, autovacuum="on")
    counts = db.execute("SELECT relname, reltuples FROM pg_class WHERE relname IN ('built', 'items') ORDER BY 1")
    assert counts.fetchall() == [("built", ROWS), ("items", ROWS)]


def test_vacuum_without_dead_rows_changes_nothing(db):
    make(db)
    before = stats(db, "rows_indexed, delta_rows, dead_rows, index_bytes")
    for _ in range(3):
        db.execute("VACUUM (INDEX_CLEANUP ON) items")
    assert stats(db, "rows_indexed, delta_rows, dead_rows, index_bytes") == before
    assert all_ids(db) == list(range(ROWS))


@FACTORIES
@PLACES
def test_vacuum_after_everything_was_deleted(db, factory, place):
    make(db, factory, place)
    db.execute("DELETE FROM items")
    vacuum_dead_rows(db)
    assert all_ids(db) == []
    copy_vectors(db, "items", OTHER)
    assert all_ids(db) == list(range(ROWS))
    with settings(db, **EVERY_LIST):
        if factory != "HNSW16":
            assert_same_answer(db, "items", QUERIES[0], index="built")


@PLACES
def test_hot_updates_leave_one_entry_for_each_row(db, place):
    make(db, place=place)
    for _ in range(5):
        db.execute("UPDATE items SET note = note + 1")
    db.execute("SELECT pg_stat_force_next_flush()")
    hot = db.execute("SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'items'").fetchone()[0]
    assert hot > 500, "too few updates were HOT for this test to mean anything"
    assert all_ids(db) == list(range(ROWS))
    vacuum_dead_rows(db)
    assert all_ids(db) == list(range(ROWS))
    db.execute("UPDATE items SET note = note + 1")
    assert_same_answer(db, "items", QUERIES[0], index="built")


@FACTORIES
def test_many_rounds_of_deleting_vacuuming_and_refilling(db, factory):
    make(db, factory)
    for round in range(6):
        db.execute("DELETE FROM items WHERE id %% 6 = %s", [round])
        vacuum_dead_rows(db)
        copy_vectors(db, "items", OTHER[round::6], ids=range(round, ROWS, 6))
        assert all_ids(db) == list(range(ROWS))
    if factory == "Flat":
        assert_same_answer(db, "items", QUERIES[0], limit=100)


def test_delta_space_of_dead_rows_is_used_again(db):
    """Steady traffic must not let the index grow for ever."""
    make(db, place="delta")
    sizes = []
    for round in range(12):
        db.execute("UPDATE items SET embedding = embedding")
        vacuum_dead_rows(db)
        sizes.append(db.execute("SELECT pg_relation_size('built')").fetchone()[0])
    assert sizes[-1] <= 1.5 * sizes[3], sizes
    assert_same_answer(db, "items", QUERIES[0], limit=None)


def test_vacuum_in_several_index_passes(db):
    """With little memory for dead line pointers, VACUUM calls the index more than once."""
    db.execute("CREATE TABLE items (id bigint, embedding vector(2)) WITH (autovacuum_enabled = off)")
    db.execute("INSERT INTO items SELECT i, ARRAY[i, 0]::vector FROM generate_series(1, 200000) i")
    db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    db.execute("DELETE FROM items WHERE id % 100 <> 0")
    said = []
    db.add_notice_handler(lambda d: said.append(" ".join(filter(None, (d.message_primary, d.message_detail)))))
    # The least there is: PostgreSQL 17 remembers more in less.
    with settings(db, maintenance_work_mem="64kB" if db.info.server_version >= 170000 else "1MB"):
        vacuum_dead_rows(db, options="(VERBOSE)")
    scans = re.search(r"index scans: (\d+)", " ".join(said))
    assert scans and int(scans[1]) > 1, said
    got = with_index(db, nearest_sql("items", [0, 0], None), "built")
    assert [id for id, _ in got] == list(range(100, 200_001, 100))


def test_vacuum_needs_no_cache_file(cluster, db):
    """It reads row pointers from the index's pages: a cold cache costs nothing, and a full disk does not stop it."""
    make(db, "IVF16,Flat")
    db.execute("DELETE FROM items WHERE id < 300")
    folder = cluster.data / "pgsql_tmp_vekter"
    shutil.rmtree(folder)
    folder.write_text("in the way of any cache file")
    try:
        vacuum_dead_rows(db)
    finally:
        folder.unlink()
    assert stats(db, "rows_indexed, dead_rows") == (700, 300)
    assert not folder.exists()
    assert all_ids(db) == list(range(300, ROWS))


def test_vacuum_that_skips_the_index_leaves_it_right(db):
    make(db)
    db.execute("DELETE FROM items WHERE id < 300")
    db.execute("VACUUM (INDEX_CLEANUP OFF) items")
    assert stats(db, "rows_indexed, dead_rows") == (ROWS, 0)
    assert all_ids(db) == list(range(300, ROWS))
    assert db.execute("SELECT * FROM vekter_check('built', true)").fetchall() == []
    vacuum_dead_rows(db, options="(INDEX_CLEANUP ON)")
    assert stats(db, "rows_indexed, dead_rows") == (700, 300)


def test_failsafe_vacuum_leaves_the_index_right(new_cluster):
    """Near transaction id wraparound VACUUM leaves indexes out; dead rows stay in them until the next one."""
    node = new_cluster({"autovacuum_freeze_max_age": 100_000, "vacuum_failsafe_age": 0})
    node.execute("CREATE EXTENSION vekter")
    with node.connect() as db, node.connect() as other:
        make(db)
        db.execute("DELETE FROM items WHERE id < 300")
        # Its lock keeps autovacuum, which comes by itself at this age, away until the failsafe's age is reached.
        with other.transaction():
            other.execute("LOCK TABLE items IN SHARE UPDATE EXCLUSIVE MODE")
            db.execute("DO $$ BEGIN FOR i IN 1..110000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        db.execute("VACUUM items")
        assert "bypassing nonessential maintenance of table \"postgres.public.items\"" in node.log_text()
        assert all_ids(db) == list(range(300, ROWS))
        assert db.execute("SELECT * FROM vekter_check('built', true)").fetchall() == []
        vacuum_dead_rows(db, options="(INDEX_CLEANUP ON)")
        assert stats(db, "rows_indexed, dead_rows") == (700, 300)
        copy_vectors(db, "items", OTHER[:300] + 50, ids=range(20_000, 20_300))
        assert db.execute("SELECT * FROM vekter_check('built', true)").fetchall() == []


def test_old_snapshot_still_sees_rows_deleted_after_it(db, cluster, database):
    make(db)
    with cluster.connect(database, autocommit=False) as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT 1 FROM items LIMIT 1")
        db.execute("DELETE FROM items WHERE id < 500")
        db.execute("VACUUM items")
        assert all_ids(db) == list(range(500, ROWS))
        old.execute("SET enable_seqscan = off")
        old.execute("SET enable_sort = off")
        assert sorted(id for id, _ in old.execute(nearest_sql("items", QUERIES[0], None)).fetchall()
                      ) == list(range(ROWS))


def test_analyze_does_no_work_on_the_index(db):
    make(db)
    before = stats(db, "rows_indexed, delta_rows, dead_rows")
    db.execute("DELETE FROM items WHERE id < 300")
    db.execute("ANALYZE items")
    assert stats(db, "rows_indexed, delta_rows, dead_rows") == before


def test_open_cursor_survives_vacuum_and_reuse(db, cluster, database):
    """A scan that began before VACUUM goes on; rows that took the dead ones' places are not in its snapshot."""
    make(db)
    with cluster.connect(database, autocommit=False) as reader:
        reader.execute("SET enable_seqscan = off")
        reader.execute("SET enable_sort = off")
        reader.execute(f"DECLARE c CURSOR FOR {nearest_sql('items', QUERIES[0], None)}")
        first = reader.execute("FETCH 100 FROM c").fetchall()
        db.execute("DELETE FROM items WHERE id < 500")
        db.execute("VACUUM items")
        copy_vectors(db, "items", OTHER[:500], ids=range(20_000, 20_500))
        rest = reader.execute("FETCH ALL FROM c").fetchall()
    assert sorted(id for id, _ in first + rest) == list(range(ROWS))


@FACTORIES
def test_other_sessions_learn_of_the_dead_rows(db, cluster, database, factory):
    """A session that has the segment open, with no row dead, must not bring back rows by reused line pointers."""
    make(db, factory)
    with cluster.connect(database) as other:
        assert all_ids(other) == list(range(ROWS))
        for round in range(3):
            db.execute("DELETE FROM items WHERE id < %s AND id %% 3 = %s", [ROWS, round])
            vacuum_dead_rows(db)
            copy_vectors(db, "items", OTHER[round::3] + 50, ids=range(20_000 + round, 20_000 + ROWS, 3))
            assert all_ids(other) == [i for i in range(ROWS) if i % 3 > round] + sorted(
                i for i in range(20_000, 20_000 + ROWS) if (i - 20_000) % 3 <= round)
            near = [id for id, _ in with_index(other, nearest_sql("items", QUERIES[0], 100))]
            assert len(near) == 100 and (round == 2 or all(id < 20_000 for id in near))


def test_parallel_vacuum_of_several_indexes(db):
    make(db)
    for number in range(3):
        db.execute(f"CREATE INDEX extra_{number} ON items USING faiss (embedding)")
        db.execute(f"CREATE INDEX btree_{number} ON items (id)")
    db.execute("SET min_parallel_index_scan_size = 0")
    db.execute("SET max_parallel_maintenance_workers = 4")
    db.execute("DELETE FROM items WHERE id < 300")
    vacuum_dead_rows(db, options="(PARALLEL 4)")
    for index in ("built", "extra_0", "extra_1", "extra_2"):
        assert db.execute(f"SELECT rows_indexed FROM vekter_index_stats('{index}')").fetchone() == (700,)


def test_search_writes_no_wal(db):
    """Neither does it on the primary: what a search would repair or note down, it could not on a standby."""
    make(db)
    copy_vectors(db, "items", OTHER[:100], ids=range(5_000, 5_100))
    db.execute("DELETE FROM items WHERE id < 300")
    # VACUUM sets the heap's hint bits, which searches would otherwise set and log.
    vacuum_dead_rows(db)
    with settings(db, enable_seqscan="off", enable_sort="off"):
        explain = "EXPLAIN (ANALYZE, WAL, FORMAT JSON) " + nearest_sql("items", QUERIES[0], None)
        [[[plan]]] = db.execute(explain).fetchall()
        assert plan["Plan"]["Index Name"] == "built" and plan["Plan"]["Actual Rows"] == 800
        assert plan["Plan"]["WAL Records"] == 0
