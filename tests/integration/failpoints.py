"""Failpoints (src/failpoint.rs) as tests use them, and a session's life that comes to every one of them."""

from __future__ import annotations

import itertools
import re
import shutil
import threading
import time
from pathlib import Path

import psycopg
import pytest

from data import REPOSITORY, clustered, copy_vectors
from oracle import apply, assert_clean, assert_same_answer, nearest_sql, settings, with_index

DIMENSIONS, LONG_DIMENSIONS = 16, 3_000
VECTORS = clustered(3_000, DIMENSIONS, seed=201)
LONG_VECTORS = clustered(8, LONG_DIMENSIONS, seed=202)
QUERY = VECTORS[-1]
SEALED_ROWS = 1_500
# Ids of rows that other sessions write.
FIRST_FOREIGN_ID = 1_000_000
MOST_ROUNDS = 10
_round_numbers = itertools.count(1)
# Indexes that are there all the time.
FOREVER = ("items_faiss", "long_faiss", "young_faiss")
EVERY_LIST = {"vekter.nprobe": 64, "vekter.ef_search": 5_000}


def names():
    """Every failpoint of the code that a session can come to."""
    [listed] = re.findall(r"pub const NAMES: &\[&str\] = &\[(.*?)\];", (REPOSITORY / "src/failpoint.rs").read_text(),
                          re.DOTALL)
    return [name for name in re.findall(r'"([a-z_.]+)"', listed) if not name.startswith("worker.")]


def arm(conn, failpoint):
    conn.execute("SELECT set_config('vekter.failpoint', %s, false)", [failpoint])


def wait_for_arrival(cluster, name, still_under_way, timeout_s=60):
    """The file by which a process says that it waits at `name`; removed, the process goes on."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and still_under_way():
        if found := list(cluster.data.glob(f"failpoint.{name}.*")):
            return found[0]
        time.sleep(0.005)
    raise AssertionError(f"nothing came to {name}")


# -- a fixture, for the files that import it --------------------------------------------------------------------------

@pytest.fixture
def living(cluster, database):
    """(cluster, database, a connection): tables and indexes are there."""
    with cluster.connect(database) as conn:
        prepare(conn)
        yield cluster, database, conn


# -- a life -----------------------------------------------------------------------------------------------------------

# Sealing and merging are this session's own work, early and often.
OWN_COMPACTION = {"vekter.background_compaction": "off", "vekter.delta_limit": "64kB"}


def prepare(conn):
    """`items` with an exact index of a segment, `long` with rows that overflow a page, `trained` without an index,
    `young` with an index that has yet to be trained."""
    for table, dimensions in (("items", DIMENSIONS), ("long", LONG_DIMENSIONS), ("trained", DIMENSIONS),
                              ("young", DIMENSIONS)):
        conn.execute(f"CREATE TABLE {table} (id bigint, embedding vector({dimensions})) "
                     "WITH (autovacuum_enabled = off)")
    copy_vectors(conn, "items", VECTORS[:SEALED_ROWS])
    copy_vectors(conn, "trained", VECTORS[:500])
    for table, factory in (("items", "Flat"), ("long", "Flat"), ("young", "IVF4,Flat")):
        conn.execute(f"CREATE INDEX {table}_faiss ON {table} USING faiss (embedding) WITH (factory = '{factory}')")
    apply(conn, OWN_COMPACTION)


def live(conn, cluster):
    """One round: insert, build, delete, VACUUM, compact, materialise, sweep. A few rounds reach every failpoint."""
    turn = next(_round_numbers)
    first = 2_000 + 300 * turn
    copy_vectors(conn, "items", VECTORS[:300], ids=range(first, first + 300))
    copy_vectors(conn, "long", LONG_VECTORS, ids=range(first, first + len(LONG_VECTORS)))
    conn.execute("DROP INDEX IF EXISTS trained_faiss")
    conn.execute("CREATE INDEX trained_faiss ON trained USING faiss (embedding) WITH (factory = 'IVF4,Flat')")
    conn.execute("DELETE FROM items WHERE id < %s AND id %% 7 = %s", [SEALED_ROWS, turn % 7])
    conn.execute("DELETE FROM items WHERE id BETWEEN %s AND %s", [first, first + 280])
    conn.execute("DELETE FROM long WHERE id % 2 = 0")
    # To truncate a table VACUUM would wait five seconds for a session that is held in a search.
    for _ in range(3):
        conn.execute("SELECT pg_current_xact_id()")
        conn.execute("VACUUM (INDEX_CLEANUP ON, TRUNCATE OFF) items, long")
    if turn % 2:
        conn.execute("TRUNCATE young")
        copy_vectors(conn, "young", VECTORS[:300])
        conn.execute("SELECT vekter_compact('young_faiss'), vekter_compact('items_faiss'), "
                     "vekter_compact('long_faiss')")
    shutil.rmtree(cluster.data / "pgsql_tmp_vekter", ignore_errors=True)
    for table in ("trained", "items"):
        with_index(conn, nearest_sql(table, QUERY, 10))


def live_until_it_ends(conn, cluster):
    """Rounds until a statement fails; the error, or None if none did."""
    try:
        for _ in range(MOST_ROUNDS):
            live(conn, cluster)
    except psycopg.Error as end:
        return end
    return None


# -- others meanwhile -------------------------------------------------------------------------------------------------

class Others:
    """Two sessions that write to `items` and one that compares searches with the scan, until they are stopped.

    `crash_expected`: the loss of the connection ends a session, and is no failure.
    """

    WRITERS = 2

    def __init__(self, cluster, database, crash_expected=False):
        self.cluster, self.database, self.crash_expected = cluster, database, crash_expected
        self.stop, self.failures, self.searches = threading.Event(), [], 0
        # Rows that the server has acknowledged, and those whose fate a crash left open.
        self.rows, self.open = set(), set()
        works = [lambda conn, n=n: self.write(conn, n) for n in range(self.WRITERS)] + [self.search]
        self.threads = [threading.Thread(target=self.guarded, args=(work,)) for work in works]

    def guarded(self, work):
        try:
            with self.cluster.connect(self.database) as conn:
                work(conn)
        except psycopg.OperationalError as failure:
            if not self.crash_expected or isinstance(failure, psycopg.errors.QueryCanceled):
                self.failures.append(failure)
        except Exception as failure:
            self.failures.append(failure)

    def write(self, conn, number):
        turn = 0
        while not self.stop.is_set():
            first = FIRST_FOREIGN_ID * (number + 1) + 10 * turn
            new, old = set(range(first, first + 5)), set(range(first - 100, first - 97)) & self.rows
            self.open |= new
            copy_vectors(conn, "items", VECTORS[turn % 2_000:][:5], ids=sorted(new))
            self.rows |= new
            self.open -= new
            self.rows -= old
            self.open |= old
            conn.execute("DELETE FROM items WHERE id = ANY(%s)", [sorted(old)])
            self.open -= old
            turn += 1

    def search(self, conn):
        while not self.stop.is_set():
            with conn.transaction():
                conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                assert_same_answer(conn, "items", QUERY, limit=30, index="items_faiss")
            self.searches += 1

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        # Not before they are at work: what follows is to happen in the middle of it.
        while (len(self.rows) < 30 or self.searches < 2) and not self.failures:
            time.sleep(0.005)
        return self

    def __exit__(self, *failure):
        self.stop.set()
        for thread in self.threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self.threads), "a session waits for ever"
        if self.failures:
            raise self.failures[0]


# -- afterwards -------------------------------------------------------------------------------------------------------

def assert_whole(conn, others):
    """Every index holds what its table holds, and no acknowledged row is lost."""
    with settings(conn, **EVERY_LIST):
        found = {id for id, _ in assert_same_answer(conn, "items", QUERY, limit=None, index="items_faiss")}
        foreign = {id for id in found if id >= FIRST_FOREIGN_ID}
        assert others.rows <= foreign <= others.rows | others.open
        assert_same_answer(conn, "items", QUERY, limit=20, index="items_faiss")
        assert_same_answer(conn, "long", LONG_VECTORS[0], limit=None, index="long_faiss")
        assert_same_answer(conn, "young", QUERY, limit=None, index="young_faiss")
        if conn.execute("SELECT to_regclass('trained_faiss') IS NOT NULL").fetchone()[0]:
            assert_same_answer(conn, "trained", QUERY, limit=None, index="trained_faiss")
    for index in FOREVER:
        assert_clean(conn, index, orphans_allowed=True)


def assert_nothing_is_left_over(conn, cluster):
    """VACUUM gives back the pages that nothing refers to and removes the files of those who wrote one and died."""
    for _ in range(2):
        # A page waits for the transactions that were under way when it was written, by number; after a crash the
        # server may give numbers again that it had given to transactions which logged nothing.
        for _ in range(20):
            conn.execute("SELECT pg_current_xact_id()")
        conn.execute("VACUUM (INDEX_CLEANUP ON, TRUNCATE OFF) items, long, young")
    for index in FOREVER:
        assert_clean(conn, index)
    # The number of a process that is no more can be another's by now: then its file stays until that one ends.
    unfinished = (cluster.data / "pgsql_tmp_vekter").glob("*.tmp.*")
    assert not [path.name for path in unfinished if not Path(f"/proc{path.suffix.replace('.', '/')}").exists()]


def assert_well(cluster, database, others):
    with cluster.connect(database) as conn:
        assert_whole(conn, others)
        assert_nothing_is_left_over(conn, cluster)
        live(conn, cluster)
        assert_whole(conn, others)
