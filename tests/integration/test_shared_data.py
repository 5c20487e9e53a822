"""Real embeddings, where they are at hand: the default index reaches the recall that the project promises."""

import pytest

from data import copy_vectors, recall, to_text, wordnet
from oracle import indexes_used, nearest_sql

QUERIES = 200


@pytest.fixture(scope="module")
def glosses(new_module_cluster):
    """(connection, queries, exact neighbours): 115,659 sentence embeddings of 384 dimensions, indexed by default."""
    base, queries, neighbours = wordnet()
    cluster = new_module_cluster({"maintenance_work_mem": "2GB", "max_parallel_maintenance_workers": 1,
                                  "max_wal_size": "8GB"})
    with cluster.connect() as conn:
        conn.execute("CREATE EXTENSION vekter")
        conn.execute("CREATE UNLOGGED TABLE glosses (id bigint PRIMARY KEY, embedding vector(384))")
        copy_vectors(conn, "glosses", base)
        conn.execute("VACUUM ANALYZE glosses")
        conn.execute("SELECT vekter_create_index('glosses', 'id', 'embedding', name => 'built')")
        yield conn, queries, neighbours


def test_default_index_reaches_recall_at_10_of_095(glosses):
    conn, queries, neighbours = glosses
    found = [[id for id, in conn.execute(f"SELECT id FROM knn('glosses', '{to_text(q)}', 10)")]
             for q in queries[:QUERIES]]
    assert all(len(ids) == len(set(ids)) == 10 for ids in found)
    assert recall(found, neighbours[:QUERIES, :10]) >= 0.94


def test_order_by_form_uses_the_default_index_and_answers_alike(glosses):
    conn, queries, neighbours = glosses
    sql = [nearest_sql("glosses", q, 10) for q in queries[:QUERIES]]
    assert indexes_used(conn, sql[0]) == {"built"}
    found = [[id for id, _ in conn.execute(statement).fetchall()] for statement in sql]
    assert recall(found, neighbours[:QUERIES, :10]) >= 0.94


def test_every_row_finds_itself(glosses):
    conn, _, _ = glosses
    rows = conn.execute("SELECT id, embedding::text FROM glosses WHERE id % 1171 = 0").fetchall()
    hits = sum(conn.execute(f"SELECT distance FROM knn('glosses', '{text}', 1)").fetchone()[0] < 1e-3
               for _, text in rows)
    assert hits >= 0.95 * len(rows)


def test_lists_of_product_codes_take_less_than_15_megabytes(glosses):
    """Codes of 96 bytes and 8 of position each, and the 512 centroids: the rows themselves would be 178 MB."""
    conn, queries, neighbours = glosses
    conn.execute("DROP INDEX IF EXISTS small")
    conn.execute("CREATE INDEX small ON glosses USING faiss (embedding) INCLUDE (id) WITH (factory = 'IVF512,PQ96')")
    try:
        assert conn.execute("SELECT pg_relation_size('small')").fetchone()[0] < 15_000_000
        found = [[id for id, in conn.execute(f"SELECT id FROM knn('small', '{to_text(q)}', 10)")]
                 for q in queries[:QUERIES]]
        assert recall(found, neighbours[:QUERIES, :10]) >= 0.90
    finally:
        conn.execute("DROP INDEX small")
