"""An imported index knows what its search parameters bring, as one that was built here does.

Its rows are all in the file, so that rows are hidden from its searches to be queries; what is promised by them must hold
for queries that were never in it.
"""

from contextlib import suppress

import numpy as np
import psycopg
import pytest

from data import clustered, copy_vectors, exact_neighbours, recall, to_text, wordnet
from oracle import time_limit

faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed: nothing that could build a file to import")

ROWS, DIMENSIONS, QUERIES = 10_000, 32, 300
VECTORS = clustered(ROWS + QUERIES, DIMENSIONS, seed=504, spread=0.9)
BASE, HELD_OUT = VECTORS[:ROWS], VECTORS[ROWS:]
ASKED = (0.90, 0.99)


@pytest.fixture(scope="module")
def cluster(new_module_cluster):
    return new_module_cluster({"maintenance_work_mem": "512MB", "max_wal_size": "8GB",
                               "max_parallel_maintenance_workers": 1})


@pytest.fixture(scope="module")
def items(cluster):
    with cluster.connect() as conn:
        conn.execute("CREATE EXTENSION vekter")
        table(conn, "items", BASE)
        yield conn


def table(conn, name, rows):
    conn.execute(f"CREATE UNLOGGED TABLE {name} (id bigint PRIMARY KEY, embedding vector({rows.shape[1]}))")
    copy_vectors(conn, name, rows)
    conn.execute(f"VACUUM ANALYZE {name}")


def built_elsewhere(factory, rows, metric="l2"):
    index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    index.train(rows)
    index.add(rows)
    return faiss.serialize_index(index).tobytes()


def import_index(conn, data, metric="l2", name="items"):
    conn.execute("DROP INDEX IF EXISTS imported")
    conn.execute(f"SELECT vekter_import('{name}', 'id', 'embedding', %s::bytea, %s, 'imported')", (data, metric))


def points(conn):
    return conn.execute("SELECT search, recall FROM vekter_operating_points('imported')").fetchall()


def found(conn, queries, **arguments):
    named = "".join(f", {key} => %({key})s" for key in arguments)
    sql = f"SELECT id FROM knn('imported', %(query)s::vector, 10{named})"
    return [[id for id, in conn.execute(sql, {"query": to_text(query), **arguments})] for query in queries]


def assert_recall(conn, queries, exact):
    best = points(conn)[-1][1]
    for asked in ASKED:
        got = recall(found(conn, queries, recall=asked), exact)
        print(f"{asked} asked, {got:.4f} found")
        assert got >= min(asked, best) - 0.02, f"{asked} asked, {got} found"


@pytest.mark.parametrize("factory, metric", (
    ("HNSW32", "l2"), ("HNSW8", "cosine"), ("HNSW16,SQ8", "l2"), ("PCA24,HNSW16,RFlat", "l2"), ("IVF128,Flat", "cosine"),
    ("IVF128,PQ16x4fs,RFlat", "l2"), ("SQ4", "l2")))
def test_held_out_queries_reach_the_recall_that_is_asked_of_an_import(items, factory, metric):
    import_index(items, built_elsewhere(factory, BASE, metric), metric)
    listed = points(items)
    assert listed and [recall for _, recall in listed] == sorted({recall for _, recall in listed})
    assert_recall(items, HELD_OUT, exact_neighbours(BASE, HELD_OUT, 10, metric))
    assert items.execute("SELECT * FROM vekter_check('imported', heap => true)").fetchall() == []


def test_rows_that_hide_for_calibration_are_found_afterwards(items):
    import_index(items, built_elsewhere("HNSW32", BASE))
    assert points(items)
    own = np.arange(0, ROWS, 50)
    nearest = [row[0] for row in found(items, BASE[own], search="efSearch=64")]
    assert np.mean(np.array(nearest) == own) >= 0.99


def test_the_rest_of_the_table_is_compared_too(items):
    """Half of the rows come from the file, and half are added to it."""
    labelled = faiss.IndexIDMap2(faiss.index_factory(DIMENSIONS, "IVF128,Flat"))
    labelled.train(BASE)
    labelled.add_with_ids(BASE[:ROWS // 2], np.arange(ROWS // 2))
    import_index(items, faiss.serialize_index(labelled).tobytes())
    assert_recall(items, HELD_OUT, exact_neighbours(BASE, HELD_OUT, 10))


def test_an_exact_import_has_nothing_to_calibrate(items):
    import_index(items, built_elsewhere("Flat", BASE))
    assert points(items) == []


def test_an_import_can_be_cancelled_at_any_time(items):
    data = built_elsewhere("IVF128,PQ16x4fs,RFlat", BASE)
    for milliseconds in (20, 60, 120, 250):
        items.execute("DROP INDEX IF EXISTS imported")
        is_imported = False
        with time_limit(items, milliseconds), suppress(psycopg.errors.QueryCanceled):
            import_index(items, data)
            is_imported = True
        assert items.execute("SELECT count(*) FROM pg_class WHERE relname = 'imported'").fetchone() == (is_imported,)
    import_index(items, data)
    assert points(items)


# -- real embeddings --------------------------------------------------------------------------------------------------

@pytest.mark.stress
@pytest.mark.parametrize("factory", ("HNSW32", "IVF128,Flat"))
def test_real_embeddings_reach_the_recall_that_is_asked_of_an_import(items, factory):
    base, queries, _ = wordnet()
    base, queries = base[::10], queries[:300]
    items.execute("DROP TABLE IF EXISTS glosses")
    table(items, "glosses", base)
    import_index(items, built_elsewhere(factory, base), name="glosses")
    assert_recall(items, queries, exact_neighbours(base, queries, 10))
