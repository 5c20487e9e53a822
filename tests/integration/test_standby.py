"""A streaming standby answers as its primary does, never writes, and becomes a primary that works."""

import threading

import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from oracle import assert_same_answer, nearest_sql, settings, with_index
from upkeep import vacuum_dead_rows, wait_for_rest

DIMENSIONS = 16
VECTORS = clustered(6_000, DIMENSIONS, seed=81)
QUERIES = VECTORS[-5:]
EVERY_LIST = {"vekter.nprobe": 64, "vekter.ef_search": 5000}


@pytest.fixture
def pair(new_cluster):
    """(primary, standby). Replay stops with an error where a page was changed in a way that its WAL does not repeat."""
    primary = new_cluster({"wal_consistency_checking": "all", "max_standby_streaming_delay": "-1"})
    primary.execute("CREATE EXTENSION vekter")
    primary.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS})) "
                    "WITH (autovacuum_enabled = off)")
    with primary.connect() as conn:
        copy_vectors(conn, "items", VECTORS[:3_000])
    return primary, new_cluster.standby_of(primary)


def assert_same_on_both(primary, standby, limit=20):
    standby.wait_for_replay(primary)
    with primary.connect() as one, standby.connect() as other, settings(one, **EVERY_LIST), \
            settings(other, **EVERY_LIST):
        for query in QUERIES:
            sql = nearest_sql("items", query, limit)
            assert_same_answer(other, "items", query, limit=limit, index="built")
            assert with_index(other, sql) == with_index(one, sql)


@pytest.mark.parametrize("factory", ("Flat", "HNSW16", "IVF64,Flat", "IVF64,PQ8x4fs,RFlat"))
def test_standby_answers_the_same(pair, factory):
    primary, standby = pair
    primary.execute(f"CREATE INDEX built ON items USING faiss (embedding) INCLUDE (id) WITH (factory = '{factory}')")
    with primary.connect() as conn:
        assert sorted(with_index(conn, nearest_sql("items", QUERIES[0], None)))
        standby.wait_for_replay(primary)
        copy_vectors(conn, "items", VECTORS[3_000:3_500], ids=range(3_000, 3_500))
        conn.execute("DELETE FROM items WHERE id % 3 = 0")
        vacuum_dead_rows(conn)
        copy_vectors(conn, "items", VECTORS[3_500:4_500], ids=range(3_500, 4_500))
        every_id = sorted(r[0] for r in conn.execute("SELECT id FROM items").fetchall())
        # The worker that VACUUM asked for changes what is compared below.
        wait_for_rest(conn)
        standby.wait_for_replay(primary)
        with standby.connect() as reader:
            found = with_index(reader, nearest_sql("items", QUERIES[0], None), "built")
            assert sorted(id for id, _ in found) == every_id
            query = to_text(QUERIES[0])
            knn = f"SELECT * FROM knn('items', '{query}', 15)"
            assert reader.execute(knn).fetchall() == conn.execute(knn).fetchall()
            stats = "SELECT factory, rows_indexed, delta_rows, dead_rows FROM vekter_index_stats('built')"
            assert reader.execute(stats).fetchone() == conn.execute(stats).fetchone()
    if factory in ("Flat", "IVF64,Flat"):
        assert_same_on_both(primary, standby)


class Load:
    """Deletes, VACUUMs, inserts and updates on `items`, round after round, in a thread; `reindex`: and REINDEX."""

    def __init__(self, primary, reindex):
        self.primary, self.reindex = primary, reindex
        self.stop, self.failures = threading.Event(), []
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            with self.primary.connect() as conn:
                turn = 0
                while not self.stop.is_set():
                    self._round(conn, turn)
                    turn += 1
        except Exception as failure:
            self.failures.append(failure)

    def _round(self, conn, turn):
        conn.execute("DELETE FROM items WHERE id %% 17 = %s", [turn % 17])
        conn.execute("VACUUM items")
        copy_vectors(conn, "items", VECTORS[turn % 17:3_000:17], ids=range(turn % 17, 3_000, 17))
        conn.execute("UPDATE items SET embedding = embedding WHERE id %% 19 = %s", [turn % 19])
        if self.reindex and turn % 3 == 2:
            conn.execute("REINDEX INDEX built")

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *failure):
        self.stop.set()
        self.thread.join(60)
        assert self.failures == []


@pytest.mark.parametrize("feedback", ("off", "on"))
def test_standby_is_right_under_write_load(pair, feedback):
    """Every search on the standby equals the sequential scan of its own snapshot, while replay goes on."""
    primary, standby = pair
    standby.execute(f"ALTER SYSTEM SET hot_standby_feedback = {feedback}")
    standby.execute("SELECT pg_reload_conf()")
    primary.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    standby.wait_for_replay(primary)
    seen = set()
    with Load(primary, reindex=False):
        for turn in range(40):
            with standby.connect(autocommit=False) as reader:
                reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                got = assert_same_answer(reader, "items", QUERIES[turn % 5], limit=20)
                assert_same_answer(reader, "items", QUERIES[turn % 5], limit=None)
                seen.add(tuple(got))
    assert len(seen) > 5, "the standby stood still: nothing was tested"
    assert_same_on_both(primary, standby)


def test_standby_follows_rebuilt_indexes_under_write_load(pair):
    """Index files and segments change under the readers: no search fails, none gives a row twice.

    A snapshot older than a REINDEX may miss rows on a standby, with any kind of index: so no comparison meanwhile.
    """
    primary, standby = pair
    primary.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF16,Flat')")
    standby.wait_for_replay(primary)
    with Load(primary, reindex=True), standby.connect() as reader:
        for turn in range(150):
            found = [id for id, _ in with_index(reader, nearest_sql("items", QUERIES[turn % 5], 50))]
            assert len(found) == len(set(found)) and set(found) <= set(range(3_000))
            assert len(found) > 0 or turn == 0
    assert_same_on_both(primary, standby)


def test_standby_refuses_to_write(pair):
    primary, standby = pair
    primary.execute("CREATE INDEX built ON items USING faiss (embedding)")
    standby.wait_for_replay(primary)
    for statement in ("CREATE INDEX ON items USING faiss (embedding)", "REINDEX INDEX built", "VACUUM items",
                      "SELECT vekter_create_index('items', 'id', 'embedding')",
                      f"INSERT INTO items VALUES (-1, '{to_text(QUERIES[0])}')"):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            standby.execute(statement)
    assert_same_on_both(primary, standby)


def test_searching_a_standby_writes_no_page(pair):
    primary, standby = pair
    primary.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF64,Flat')")
    assert_same_on_both(primary, standby)
    standby.execute("CHECKPOINT")
    [[path]] = standby.execute("SELECT pg_relation_filepath('built')")
    before = (standby.data / path).read_bytes()
    assert_same_on_both(primary, standby)
    standby.execute("CHECKPOINT")
    assert (standby.data / path).read_bytes() == before


def test_promoted_standby_takes_rows_and_vacuum(pair):
    primary, standby = pair
    primary.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF64,Flat')")
    with primary.connect() as conn:
        copy_vectors(conn, "items", VECTORS[3_000:3_500], ids=range(3_000, 3_500))
        conn.execute("DELETE FROM items WHERE id % 3 = 0")
    assert_same_on_both(primary, standby)
    primary.stop("immediate")
    with standby.connect() as reader, settings(reader, **EVERY_LIST):
        # This session opened its segments before the promotion.
        assert_same_answer(reader, "items", QUERIES[0], limit=None)
        standby.promote()
        copy_vectors(reader, "items", VECTORS[3_500:4_000], ids=range(3_500, 4_000))
        assert_same_answer(reader, "items", QUERIES[0], limit=None)
        reader.execute("VACUUM items")
        copy_vectors(reader, "items", VECTORS[4_000:5_000], ids=range(4_000, 5_000))
        assert_same_answer(reader, "items", QUERIES[0], limit=None)
        reader.execute("REINDEX INDEX CONCURRENTLY built")
        assert_same_answer(reader, "items", QUERIES[0], limit=None)
    standby.restart()
    with standby.connect() as reader, settings(reader, **EVERY_LIST):
        assert_same_answer(reader, "items", QUERIES[0], limit=None)


def test_standby_restarts_and_catches_up(pair):
    primary, standby = pair
    primary.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    assert_same_on_both(primary, standby)
    standby.crash_expected = True
    standby.kill9()
    with primary.connect() as conn:
        conn.execute("DELETE FROM items WHERE id % 2 = 0")
        vacuum_dead_rows(conn)
        copy_vectors(conn, "items", VECTORS[4_000:5_000], ids=range(4_000, 5_000))
    standby.start()
    assert_same_on_both(primary, standby)
