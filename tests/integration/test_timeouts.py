"""PostgreSQL's timeouts end a statement in the middle of one long search of FAISS, not behind it."""

import statistics
import time

import psycopg
import pytest

from data import clustered, copy_vectors, to_text

ROWS, DIMENSIONS = 120_000, 8
VECTORS = clustered(ROWS + 1, DIMENSIONS, seed=611)
# A queue that takes every row: one call of FAISS's, of about a tenth of a second.
SEARCH = f"SELECT id FROM knn('items', '{to_text(VECTORS[ROWS])}', 1, search => 'efSearch={ROWS}')"
ATTEMPTS = 10


@pytest.fixture(scope="module")
def library(new_module_cluster):
    cluster = new_module_cluster({"maintenance_work_mem": "256MB", "max_parallel_maintenance_workers": 1})
    with cluster.connect() as conn:
        conn.execute("CREATE EXTENSION vekter")
        conn.execute(f"CREATE UNLOGGED TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}))")
        copy_vectors(conn, "items", VECTORS[:ROWS])
        conn.execute("CREATE INDEX ON items USING faiss (embedding) WITH (factory = 'HNSW8')")
    return cluster


def seconds(work):
    start = time.monotonic()
    work()
    return time.monotonic() - start


@pytest.mark.parametrize("setting, sqlstate", [("statement_timeout", "57014"), ("transaction_timeout", "25P04")])
def test_a_timeout_ends_one_long_search(library, setting, sqlstate):
    """Each attempt may wait for the processor; a search that heeds nothing is never over before its time."""
    with library.connect() as conn:
        if setting == "transaction_timeout" and conn.info.server_version < 170000:
            pytest.skip("PostgreSQL has transaction_timeout since 17")
        conn.execute(SEARCH)
        whole = statistics.median(seconds(lambda: conn.execute(SEARCH)) for _ in range(5))
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
