"""One session held at a step while others do what could harm it. Each test is a race that chance would seldom lose."""

import threading
import time

import psycopg
import pytest

import segment_cache
from data import clustered, copy_vectors
from failpoints import arm, wait_for_arrival
from oracle import ONLY_INDEX, apply, assert_clean, assert_nearest, assert_same_answer, nearest_sql, without_index
from upkeep import stats, vacuum_dead_rows

DIMENSIONS = 16
VECTORS = clustered(4_000, DIMENSIONS, seed=501)
QUERY = VECTORS[-1]


@pytest.fixture(scope="module")
def cluster(new_module_cluster, failpoint_bindir):
    return new_module_cluster({"vekter.background_compaction": "off", "vekter.delta_limit": "64kB",
                               "max_standby_streaming_delay": "-1"}, bindir=failpoint_bindir)


@pytest.fixture
def items(db):
    """A connection; `items` has an index with a segment, tombstones and a delta."""
    db.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS})) WITH (autovacuum_enabled = off)")
    copy_vectors(db, "items", VECTORS[:1_000])
    db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    db.execute("DELETE FROM items WHERE id % 10 = 0")
    vacuum_dead_rows(db)
    copy_vectors(db, "items", VECTORS[1_000:1_300], ids=range(1_000, 1_300))
    return db


class Held:
    """A statement in a thread, on a connection of its own, that waits at a failpoint until the block ends."""

    def __init__(self, cluster, database, failpoint, statement, rules=(), arrival=1):
        self.cluster, self.failpoint, self.statement = cluster, failpoint, statement
        self.conn = cluster.connect(database)
        apply(self.conn, dict(rules))
        arm(self.conn, f"{failpoint}=wait@{arrival}")
        self.rows, self.failure = None, None
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            cursor = self.conn.execute(self.statement)
            self.rows = cursor.fetchall() if cursor.description else []
        except psycopg.Error as failure:
            self.failure = failure

    def __enter__(self):
        self.thread.start()
        self.file = wait_for_arrival(self.cluster, self.failpoint, self.thread.is_alive)
        return self

    def go_on(self):
        """To its end, before the block ends."""
        self.file.unlink(missing_ok=True)
        self.thread.join(60)
        assert not self.thread.is_alive(), "it did not go on"

    def __exit__(self, *failure):
        self.go_on()
        self.conn.close()
        if failure == (None, None, None) and self.failure:
            raise self.failure


def churn(db, turn):
    """Kills rows, gives their line pointers to new ones unless another session may see them, seals and merges."""
    db.execute("DELETE FROM items WHERE id %% 7 = %s", [turn])
    # To truncate the table VACUUM would wait five seconds for the session that is held.
    db.execute("VACUUM (TRUNCATE off) items")
    first = 10_000 * (turn + 1)
    copy_vectors(db, "items", VECTORS[500:1_700], ids=range(first, first + 1_200))
    db.execute("VACUUM (TRUNCATE off) items")


SEARCH_STEPS = ("search.root_read", "search.segments_opened", "search.delta_read")


@pytest.mark.parametrize("step", SEARCH_STEPS)
def test_search_is_right_though_all_it_reads_is_replaced_meanwhile(items, cluster, database, step):
    """Its snapshot is from before: nothing that came after, everything that was there."""
    before = without_index(items, nearest_sql("items", QUERY, None))
    with Held(cluster, database, step, nearest_sql("items", QUERY, None), ONLY_INDEX) as search:
        for turn in range(3):
            churn(items, turn)
            items.execute("SELECT vekter_compact('built')")
    assert_nearest(search.rows, before)
    assert_same_answer(items, "items", QUERY, limit=None)
    assert_clean(items, "built", orphans_allowed=True)


@pytest.mark.parametrize("dimensions", (DIMENSIONS, 3_000))
def test_insert_finds_the_delta_where_it_is_by_then(db, cluster, database, dimensions):
    """Its row was to go to a page that was sealed and retired meanwhile; the overflow pages of a long row are written
    already and nothing refers to them yet."""
    db.execute(f"CREATE TABLE items (id bigint, embedding vector({dimensions})) WITH (autovacuum_enabled = off)")
    db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    vectors = clustered(60, dimensions, seed=502)
    copy_vectors(db, "items", vectors[:30])
    insert = "INSERT INTO items SELECT -1, embedding FROM items WHERE id = 0"
    with Held(cluster, database, "insert.started", insert):
        db.execute("SELECT vekter_compact('built')")
        for _ in range(2):
            db.execute("SELECT pg_current_xact_id()")
            db.execute("VACUUM (INDEX_CLEANUP ON) items")
        copy_vectors(db, "items", vectors[30:], ids=range(30, 60))
        db.execute("SELECT vekter_compact('built')")
    got = assert_same_answer(db, "items", vectors[0], limit=None)
    assert {id for id, _ in got} == {-1, *range(60)}
    assert_clean(db, "built", orphans_allowed=True)


@pytest.mark.parametrize("step", ("seal.page_closed", "seal.frozen", "seal.stored", "seal.published"))
def test_statement_goes_on_in_other_pages_when_its_own_are_sealed(items, cluster, database, step):
    """A statement of many rows fills pages of its own. They are sealed half full if others have gone on behind them, and
    what it appended to a page of which a seal has taken a copy would be lost."""
    insert = "INSERT INTO items SELECT 50000 + id, embedding FROM items WHERE id > 900 AND id < 1200"
    many = Held(cluster, database, "insert.started", insert, arrival=150)
    with many:
        copy_vectors(items, "items", VECTORS[2_000:2_300], ids=range(20_000, 20_300))
        with Held(cluster, database, step, "SELECT vekter_compact('built')"):
            many.go_on()
            assert_same_answer(items, "items", QUERY, limit=None)
    got = assert_same_answer(items, "items", QUERY, limit=None)
    inserted, = items.execute("SELECT count(*) FROM items WHERE id >= 50000").fetchone()
    assert sum(id >= 50_000 for id, _ in got) == inserted > 200
    assert_clean(items, "built", orphans_allowed=True)


@pytest.mark.parametrize("step", ("merge.staged", "merge.copied"))
def test_sweep_leaves_the_file_of_a_merge_that_is_under_way(items, cluster, database, step):
    with Held(cluster, database, step, "SELECT vekter_compact('built')"):
        files = {path.name: path.stat().st_ino for path in segment_cache.files(cluster)}
        items.execute("VACUUM items")
        items.execute("CREATE TABLE other (embedding vector(2)); CREATE INDEX ON other USING faiss (embedding)")
        items.execute("VACUUM other")
        assert {path.name: path.stat().st_ino for path in segment_cache.files(cluster)} == files
    assert_same_answer(items, "items", QUERY, limit=None)
    [merged] = [path for path in segment_cache.files(cluster) if path.name in files]
    assert merged.stat().st_ino == files[merged.name], "it was written twice"


@pytest.mark.parametrize("step", ("seal.frozen", "seal.stored", "merge.staged", "merge.stored",
                                  "publish.manifest_written"))
def test_sealing_and_merging_block_neither_searches_nor_inserts(items, cluster, database, step):
    items.execute("SET lock_timeout = '5s'")
    items.execute("SET statement_timeout = '30s'")
    with Held(cluster, database, step, "SELECT vekter_compact('built')"):
        for turn in range(3):
            copy_vectors(items, "items", VECTORS[2_000:2_200], ids=range(30_000 + 200 * turn, 30_200 + 200 * turn))
            assert_same_answer(items, "items", QUERY, limit=None)
    assert_same_answer(items, "items", QUERY, limit=None)
    assert_clean(items, "built", orphans_allowed=True)


def test_seal_waits_for_vacuum_and_vacuum_for_a_seal(items, cluster, database):
    """Both change the manifest: what the one does is not lost to the other."""
    with cluster.connect(database) as other:
        vacuum = threading.Thread(target=lambda: other.execute("VACUUM items"))
        # Before the function has a snapshot: what dies later would be left to another VACUUM.
        items.execute("DELETE FROM items WHERE id % 3 = 1")
        with Held(cluster, database, "seal.stored", "SELECT vekter_compact('built')"):
            vacuum.start()
            wait_for_lock(items)
        vacuum.join(60)
        assert not vacuum.is_alive()
        assert_holds_the_tables_rows(items)
        items.execute("DELETE FROM items WHERE id % 3 = 2")
        copy_vectors(items, "items", VECTORS[2_000:2_500], ids=range(40_000, 40_500))
        seal = threading.Thread(target=lambda: other.execute("SELECT vekter_compact('built')"))
        with Held(cluster, database, "vacuum.published", "VACUUM items"):
            seal.start()
            wait_for_lock(items)
        seal.join(60)
        assert not seal.is_alive()
    assert_holds_the_tables_rows(items)
    assert_clean(items, "built", orphans_allowed=True)


def assert_holds_the_tables_rows(items):
    """All of them, and no dead one."""
    got = assert_same_answer(items, "items", QUERY, limit=None)
    assert stats(items, "rows_indexed") == len(got)


def wait_for_lock(conn):
    """Until somebody waits for a heavyweight lock."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if conn.execute("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted").fetchone()[0]:
            return
        time.sleep(0.01)
    raise TimeoutError("nobody waits")


@pytest.mark.parametrize("held", ("materialise.copied", "cache.synced"))
def test_drop_index_while_its_file_is_written(items, cluster, database, held):
    """The search has the index locked; DROP comes after it, and the file is swept by the next VACUUM of another."""
    items.execute("CREATE TABLE other AS SELECT * FROM items")
    items.execute("CREATE INDEX other_faiss ON other USING faiss (embedding) WITH (factory = 'Flat')")
    folder = cluster.data / "pgsql_tmp_vekter"
    for path in folder.iterdir():
        path.unlink()
    with cluster.connect(database) as other:
        drop = threading.Thread(target=lambda: other.execute("DROP INDEX built"))
        with Held(cluster, database, held, nearest_sql("items", QUERY, 10), ONLY_INDEX) as search:
            drop.start()
            wait_for_lock(items)
        drop.join(60)
    assert len(search.rows) == 10
    items.execute("VACUUM other")
    apply(items, ONLY_INDEX)
    items.execute(nearest_sql("other", QUERY, 10))
    assert len([path for path in folder.iterdir() if path.suffix != ".verified"]) == 1


@pytest.mark.parametrize("step", SEARCH_STEPS)
def test_search_on_a_standby_is_right_though_its_pages_are_used_again(new_cluster, failpoint_bindir, step):
    """Without hot_standby_feedback nothing on the primary knows of the search. It starts over, or ends in the conflict
    that PostgreSQL has for it: never wrong."""
    primary = new_cluster({"vekter.background_compaction": "off", "vekter.delta_limit": "64kB",
                           "max_standby_streaming_delay": "0", "hot_standby_feedback": "off"}, bindir=failpoint_bindir)
    primary.execute("CREATE EXTENSION vekter")
    with primary.connect() as db:
        db.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS})) WITH (autovacuum_enabled = off)")
        copy_vectors(db, "items", VECTORS[:1_000])
        db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
        copy_vectors(db, "items", VECTORS[1_000:1_300], ids=range(1_000, 1_300))
        standby = new_cluster.standby_of(primary)
        standby.wait_for_replay(primary)
        before = without_index(db, nearest_sql("items", QUERY, None))
        held = Held(standby, "postgres", step, nearest_sql("items", QUERY, None), ONLY_INDEX)
        try:
            with held:
                for turn in range(3):
                    churn(db, turn)
                    db.execute("SELECT vekter_compact('built')")
                standby.wait_for_replay(primary)
        except psycopg.Error as conflict:
            # Serialization failure: PostgreSQL's "canceling statement due to conflict with recovery".
            assert conflict.sqlstate == "40001", conflict
        else:
            assert_nearest(held.rows, before)
        with standby.connect() as reader:
            standby.wait_for_replay(primary)
            assert_same_answer(reader, "items", QUERY, limit=None)
            assert_clean(reader, "built", orphans_allowed=True)


@pytest.mark.parametrize("step", ("merge.stored", "publish.manifest_written"))
def test_check_on_a_standby_takes_no_page_in_the_making_for_garbage(new_cluster, failpoint_bindir, step):
    """A standby does not know who writes a page, nor that the writer is still there."""
    primary = new_cluster({"vekter.background_compaction": "off"}, bindir=failpoint_bindir)
    primary.execute("CREATE EXTENSION vekter")
    with primary.connect() as db:
        db.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS}))")
        copy_vectors(db, "items", VECTORS[:1_000])
        db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
        copy_vectors(db, "items", VECTORS[1_000:1_300], ids=range(1_000, 1_300))
        standby = new_cluster.standby_of(primary)
        with Held(primary, "postgres", step, "SELECT vekter_compact('built')"):
            db.execute("SELECT pg_current_xact_id()")
            standby.wait_for_replay(primary)
            with standby.connect() as reader:
                assert_clean(reader, "built")
