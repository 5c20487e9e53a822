"""kill -9 of the whole server in the middle of things: what was committed is there, what was not is not."""

import os
import signal
import threading
import time

import psycopg
import pytest

from data import clustered, copy_vectors
from oracle import assert_same_answer, nearest_sql, settings, with_index
from upkeep import vacuum_dead_rows, wait_until

DIMENSIONS = 16
VECTORS = clustered(20_000, DIMENSIONS, seed=71)
QUERY = VECTORS[-1]


@pytest.fixture
def node(new_cluster):
    """A server that is going to be killed; checkpoints come often, so that recovery starts at many places."""
    cluster = new_cluster({"max_wal_size": "32MB", "min_wal_size": "32MB", "checkpoint_timeout": "30s"})
    cluster.crash_expected = True
    cluster.execute("CREATE EXTENSION vekter")
    cluster.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS})) WITH (autovacuum_enabled = off)")
    return cluster


def kill_while(cluster, works, after_s):
    """Runs each function in a thread with a connection of its own, and kills the server after a while."""
    def guarded(work):
        try:
            with cluster.connect() as conn:
                work(conn)
        except psycopg.Error as end:
            # Only the end of the server may end the work.
            if not isinstance(end, psycopg.OperationalError):
                unexpected.append(end)

    unexpected = []
    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    time.sleep(after_s)
    cluster.kill9()
    for thread in threads:
        thread.join(30)
    assert unexpected == []
    cluster.start()


def assert_whole(cluster, **oracle):
    """The index equals the table, takes rows and VACUUM, and still equals it."""
    with cluster.connect() as conn:
        with settings(conn, **{"vekter.nprobe": 64, "vekter.ef_search": 5000}):
            assert_same_answer(conn, "items", QUERY, limit=50, **oracle)
            assert_same_answer(conn, "items", QUERY, limit=None, **oracle)
            copy_vectors(conn, "items", VECTORS[:10], ids=range(-10, 0))
            conn.execute("DELETE FROM items WHERE id % 11 = 3")
            vacuum_dead_rows(conn)
            assert_same_answer(conn, "items", QUERY, limit=None, **oracle)
            conn.execute("DELETE FROM items WHERE id < 0")


def test_kill_during_inserts_keeps_every_acknowledged_row(node):
    node.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    acknowledged = [set() for _ in range(3)]

    def insert(conn, number, round):
        first = round * 1_000_000 + number * 100_000
        while True:
            vectors = VECTORS[first % 10_000:][:7]
            copy_vectors(conn, "items", vectors, ids=range(first, first + 7))
            acknowledged[number].update(range(first, first + 7))
            first += 7

    for round, after_s in enumerate((0.2, 0.7, 0.4, 1.1)):
        kill_while(node, [lambda c, n=n: insert(c, n, round + 1) for n in range(3)], after_s)
        with node.connect() as conn:
            found = {id for id, _ in with_index(conn, nearest_sql("items", QUERY, None), "built")}
            lost = set.union(*acknowledged) - found
            assert not lost, f"{len(lost)} committed rows are gone"
            assert_same_answer(conn, "items", QUERY, limit=None)
    assert len(set.union(*acknowledged)) > 100
    assert_whole(node)


@pytest.mark.parametrize("factory, after_s", [("HNSW32", 0.15), ("HNSW32", 0.6), ("IVF256,Flat", 0.3), ("Flat", 0.1)])
def test_kill_during_a_build_leaves_a_table_that_can_be_indexed(node, factory, after_s):
    with node.connect() as conn:
        copy_vectors(conn, "items", VECTORS)
    create = f"CREATE INDEX built ON items USING faiss (embedding) WITH (factory = '{factory}')"

    def build(conn):
        while True:
            conn.execute(create)
            conn.execute("DROP INDEX built")

    kill_while(node, [build], after_s)
    node.execute("DROP INDEX IF EXISTS built")
    node.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF64,Flat')")
    assert_whole(node)


@pytest.mark.parametrize("factory", ("Flat", "IVF64,Flat"))
def test_kill_during_vacuum_brings_no_dead_row_back(node, factory):
    with node.connect() as conn:
        copy_vectors(conn, "items", VECTORS[:5_000])
    node.execute(f"CREATE INDEX built ON items USING faiss (embedding) WITH (factory = '{factory}')")

    def churn(conn):
        turn = 0
        while True:
            conn.execute("DELETE FROM items WHERE id %% 13 = %s", [turn % 13])
            conn.execute("VACUUM items")
            copy_vectors(conn, "items", VECTORS[turn % 13:5_000:13], ids=range(turn % 13, 5_000, 13))
            turn += 1

    for after_s in (0.15, 0.5, 0.33, 0.9):
        kill_while(node, [churn], after_s)
        with node.connect() as conn, settings(conn, **{"vekter.nprobe": 64}):
            assert_same_answer(conn, "items", QUERY, limit=None, index="built")
            assert_same_answer(conn, "items", QUERY, limit=20, index="built")
            # Whatever the round was cut off at, the next one starts from full content.
            conn.execute("DELETE FROM items")
            copy_vectors(conn, "items", VECTORS[:5_000])
    assert_whole(node)


def test_unlogged_table_is_empty_after_a_crash_and_whole_after_a_restart(new_cluster):
    node = new_cluster()
    node.crash_expected = True
    node.execute("CREATE EXTENSION vekter")
    node.execute(f"CREATE UNLOGGED TABLE items (id bigint, embedding vector({DIMENSIONS}))")
    for number, factory in enumerate(("Flat", "HNSW16")):
        node.execute(f"CREATE INDEX built{number} ON items USING faiss (embedding) WITH (factory = '{factory}')")
    for expected, stop in ((1_000, node.restart), (0, lambda: (node.kill9(), node.start())), (1_000, node.restart)):
        with node.connect() as conn:
            conn.execute("TRUNCATE items")
            copy_vectors(conn, "items", VECTORS[:1_000])
        stop()
        with node.connect() as conn:
            found = with_index(conn, nearest_sql("items", QUERY, None))
            assert len(found) == expected
            copy_vectors(conn, "items", VECTORS[1_000:1_010], ids=range(1_000, 1_010))
            conn.execute("DROP INDEX IF EXISTS built1")
            assert_same_answer(conn, "items", QUERY, index="built0")
            conn.execute("REINDEX TABLE items")
            assert_same_answer(conn, "items", QUERY, index="built0")


def test_killed_backend_harms_no_other(node):
    """One backend dies, so the postmaster restarts the rest: the segment that it had mapped is as good as before."""
    with node.connect() as conn:
        copy_vectors(conn, "items", VECTORS[:5_000])
    node.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF64,Flat')")
    with node.connect() as victim:
        with_index(victim, nearest_sql("items", QUERY, 100), "built")
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            victim.execute("SELECT 1")
    # A server that is told to stop before it has recovered can hang, as PostgreSQL 15 and 18 do by themselves.
    wait_until(lambda: node.log_text().count("ready to accept connections") == 2, "the server to recover")
    assert_whole(node)


def test_prepared_transaction_survives_a_crash(new_cluster):
    node = new_cluster({"max_prepared_transactions": 5})
    node.crash_expected = True
    node.execute("CREATE EXTENSION vekter")
    node.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS}))")
    node.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    with node.connect() as conn:
        conn.execute("BEGIN")
        copy_vectors(conn, "items", VECTORS[:100])
        conn.execute("PREPARE TRANSACTION 'rows'")
    node.kill9()
    node.start()
    with node.connect() as conn:
        assert with_index(conn, nearest_sql("items", QUERY, None)) == []
        conn.execute("COMMIT PREPARED 'rows'")
        assert len(assert_same_answer(conn, "items", QUERY, limit=None)) == 100
