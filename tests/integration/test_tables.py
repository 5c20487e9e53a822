"""Partitioned, temporary, partial and expression indexes, and several indexes on one column."""

import pytest

from data import clustered, copy_vectors
from oracle import assert_same_answer, indexes_used, nearest_sql, settings, with_index
from upkeep import vacuum_dead_rows

ROWS, DIMENSIONS = 2_000, 8
VECTORS = clustered(ROWS + 1_000, DIMENSIONS, seed=21)
BASE, LATER = VECTORS[:ROWS], VECTORS[ROWS:]
QUERY = LATER[-1]
FACTORIES = ("Flat", "HNSW16", "IVF16,Flat")


@pytest.fixture
def items(db):
    """A connection to a database with `items` (2,000 rows, no index)."""
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), genre int DEFAULT 0)")
    copy_vectors(db, "items", BASE)
    return db


def add(db, table="items", first=0, count=50):
    copy_vectors(db, table, LATER[first:first + count], ids=range(ROWS + first, ROWS + first + count))


@pytest.mark.parametrize("factory", FACTORIES)
def test_partitioned_table_merges_its_partitions_in_order(db, factory):
    db.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS})) PARTITION BY RANGE (id)")
    for first in range(0, 2_000, 500):
        db.execute(f"CREATE TABLE items_{first} PARTITION OF items FOR VALUES FROM ({first}) TO ({first + 500})")
    copy_vectors(db, "items", BASE)
    db.execute(f"CREATE INDEX ON items USING faiss (embedding) WITH (factory = '{factory}')")
    # A partition made later gets its index from the parent.
    db.execute("CREATE TABLE items_2000 PARTITION OF items FOR VALUES FROM (2000) TO (3000)")
    add(db)
    sql = nearest_sql("items", QUERY, 30)
    with settings(db, enable_seqscan="off", enable_sort="off"):
        assert len(indexes_used(db, sql)) == 5
        assert "Merge Append" in db.execute(f"EXPLAIN (FORMAT TEXT) {sql}").fetchall().__repr__()
    with settings(db, **{"vekter.nprobe": 16, "vekter.ef_search": 1000}):
        assert_same_answer(db, "items", QUERY, limit=30)


@pytest.mark.parametrize("factory", FACTORIES)
def test_temporary_table(db, factory):
    db.execute(f"CREATE TEMP TABLE scratch (id bigint, embedding vector({DIMENSIONS}))")
    copy_vectors(db, "scratch", BASE)
    db.execute(f"CREATE INDEX ON scratch USING faiss (embedding) WITH (factory = '{factory}')")
    add(db, "scratch")
    db.execute("DELETE FROM scratch WHERE id % 3 = 0")
    vacuum_dead_rows(db, "scratch")
    with settings(db, **{"vekter.nprobe": 16, "vekter.ef_search": 1000}):
        assert_same_answer(db, "scratch", QUERY)


def test_temporary_table_on_commit_delete_rows(db):
    db.execute(f"CREATE TEMP TABLE scratch (id bigint, embedding vector({DIMENSIONS})) ON COMMIT DELETE ROWS")
    db.execute("CREATE INDEX ON scratch USING faiss (embedding)")
    for turn in range(3):
        with db.transaction():
            assert with_index(db, nearest_sql("scratch", QUERY)) == []
            add(db, "scratch", first=turn * 10, count=10)
            assert_same_answer(db, "scratch", QUERY)


def test_partial_index_serves_its_condition_only(items):
    items.execute("UPDATE items SET genre = id % 4")
    items.execute("CREATE INDEX built ON items USING faiss (embedding) WHERE genre = 1")
    assert items.execute("SELECT rows_indexed FROM vekter_index_stats('built')").fetchone() == (ROWS // 4,)
    assert_same_answer(items, "items", QUERY, limit=None, where="genre = 1", index="built")
    with settings(items, enable_seqscan="off"):
        assert indexes_used(items, nearest_sql("items", QUERY)) == set()
    items.execute("UPDATE items SET genre = 1 WHERE id < 40")
    items.execute("UPDATE items SET genre = 2 WHERE id BETWEEN 40 AND 80")
    assert_same_answer(items, "items", QUERY, limit=None, where="genre = 1", index="built")


def test_expression_index_serves_its_expression_only(items):
    # From PostgreSQL 17 on, the body would not find the type by name where an index is built.
    items.execute("CREATE FUNCTION halved(v vector) RETURNS vector IMMUTABLE STRICT "
                  "RETURN (SELECT array_agg(x / 2) FROM unnest(v::real[]) x)::vector")
    expression = f"(halved(embedding)::vector({DIMENSIONS}))"
    items.execute(f"CREATE INDEX built ON items USING faiss (({expression}))")
    add(items)
    assert_same_answer(items, "items", QUERY, vector=expression, index="built")
    with settings(items, enable_seqscan="off"):
        assert indexes_used(items, nearest_sql("items", QUERY)) == set()


def test_two_indexes_on_one_column_each_serve_their_operator(items):
    for metric in ("l2", "ip", "cosine"):
        items.execute(f"CREATE INDEX by_{metric} ON items USING faiss (embedding vector_{metric}_ops)")
    add(items)
    for metric in ("l2", "ip", "cosine"):
        assert_same_answer(items, "items", QUERY, metric=metric, index=f"by_{metric}")
