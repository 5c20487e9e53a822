"""A timeout or a conflict with recovery ends a statement in the middle of one long search of FAISS, not behind it."""

import statistics
import threading
import time

import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from upkeep import wait_until

ROWS, DIMENSIONS = 60_000, 8
VECTORS = clustered(ROWS + 1, DIMENSIONS, seed=611)
# A queue that takes every row: one call of FAISS's, of some tens of milliseconds.
SEARCH = f"SELECT id FROM knn('items', '{to_text(VECTORS[ROWS])}', 1, search => 'efSearch={ROWS}')"
ATTEMPTS = 10


@pytest.fixture(scope="module")
def library(new_module_cluster):
    cluster = new_module_cluster({"maintenance_work_mem": "256MB", "max_parallel_maintenance_workers": 1})
    with cluster.connect() as conn:
        conn.execute("CREATE EXTENSION vekter")
        conn.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}))")
        copy_vectors(conn, "items", VECTORS[:ROWS])
        conn.execute("CREATE INDEX ON items USING faiss (embedding) WITH (factory = 'HNSW8')")
    return cluster


def seconds(work):
    start = time.monotonic()
    work()
    return time.monotonic() - start


def seconds_of_search(conn):
    """As a rule; the first search of a session opens the index too."""
    conn.execute(SEARCH)
    return statistics.median(seconds(lambda: conn.execute(SEARCH)) for _ in range(5))


@pytest.mark.parametrize("setting, sqlstate", [("statement_timeout", "57014"), ("transaction_timeout", "25P04")])
def test_a_timeout_ends_one_long_search(library, setting, sqlstate):
    """Each attempt may wait for the processor; a search that heeds nothing is never over before its time."""
    with library.connect() as conn:
        if setting == "transaction_timeout" and conn.info.server_version < 170000:
            pytest.skip("PostgreSQL has transaction_timeout since 17")
        whole = seconds_of_search(conn)
    taken = []
    for _ in range(ATTEMPTS):
        with library.connect() as conn:
            conn.execute(SEARCH)
            conn.execute(f"SET {setting} = 2")
            start = time.monotonic()
            with pytest.raises(psycopg.Error) as end:
                conn.execute(SEARCH)
            taken.append(time.monotonic() - start)
            assert end.value.sqlstate == sqlstate
    assert min(taken) < whole / 2, (taken, whole)


def test_a_conflict_with_recovery_ends_one_long_search(library, new_cluster):
    """A table is locked on the primary, and its standby replays that while a search is in FAISS."""
    standby = new_cluster.standby_of(library, {"max_standby_streaming_delay": "0"})
    taken = []
    with standby.connect() as replay, library.connect() as writer:
        with standby.connect() as reader:
            whole = seconds_of_search(reader)
        for _ in range(ATTEMPTS):
            # Of its own: a second signal may reach a session after the error of the first, and then ends the session.
            with standby.connect() as reader:
                reader.execute(SEARCH)
                replay.execute("SELECT pg_wal_replay_pause()")
                wait_until(lambda: replay.execute("SELECT pg_get_wal_replay_pause_state()").fetchone() == ("paused",),
                           "replay to pause")
                with writer.transaction():
                    writer.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
                written, = writer.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
                wait_until(lambda: replay.execute("SELECT pg_last_wal_receive_lsn() >= %s", [written]).fetchone()[0],
                           "the lock to arrive")
                later = threading.Timer(whole / 8, lambda: replay.execute("SELECT pg_wal_replay_resume()"))
                later.start()
                start = time.monotonic()
                # None is raised where replay was faster than the statement.
                try:
                    reader.execute(SEARCH)
                except psycopg.errors.SerializationFailure as end:
                    taken.append(time.monotonic() - start)
                    assert end.diag.message_primary == "canceling statement due to conflict with recovery"
                    assert end.diag.message_detail == "User was holding a relation lock for too long."
                finally:
                    later.join()
    assert taken and min(taken) < whole / 2, (taken, whole)
