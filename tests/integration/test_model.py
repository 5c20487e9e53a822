"""A Flat index equals the sequential scan at every search of a random workload, whatever happens to the server."""

import random

import pytest

from oracle import assert_nearest, nearest_sql, with_index, without_index
from upkeep import vacuum_dead_rows
from workload import Workload


@pytest.mark.parametrize("seed, metric", [(1, "l2"), (2, "l2"), (3, "cosine"), (4, "ip"), (7, "l1")])
def test_random_workload_equals_the_sequential_scan_at_every_search(db, seed, metric):
    load = Workload(db, seed, dimensions=8, metric=metric)
    load.create()
    load.run(1_000)
    assert load.searches > 150


@pytest.mark.parametrize("seed", (5,))
def test_random_workload_after_a_build_over_rows(db, seed):
    """The index starts with a segment, so that VACUUM meets positions and not only delta entries."""
    load = Workload(db, seed, dimensions=8, most_rows=1_500)
    load.create()
    load.insert(1_000)
    db.execute("REINDEX INDEX items_faiss")
    assert db.execute("SELECT rows_indexed, delta_rows FROM vekter_index_stats('items_faiss')").fetchone() == (1000, 0)
    load.run(400)
    load.delete(800)
    load.commit()
    vacuum_dead_rows(db)
    load.run(200)


@pytest.mark.parametrize("kind", ("UNLOGGED", "TEMP"))
def test_random_workload_on_a_table_without_wal(db, kind):
    load = Workload(db, 6, dimensions=8)
    load.create(kind=kind)
    load.run(600)


@pytest.mark.parametrize("dimensions, steps, most_rows", [(3_000, 250, 60), (16_000, 60, 12)])
def test_random_workload_with_vectors_larger_than_a_page(db, dimensions, steps, most_rows):
    load = Workload(db, 7, dimensions=dimensions, most_rows=most_rows, batch=5)
    load.create()
    load.run(steps)


@pytest.mark.parametrize("factory", ("HNSW16", "IVF8,Flat", "IVF8,PQ4x4fs,RFlat", "SQ8"))
def test_random_workload_sees_exactly_the_visible_rows_with_any_factory(db, factory):
    """Where neighbours are approximate, visibility is not: a full scan gives every visible row once and no other."""
    load = Workload(db, 8, dimensions=8, most_rows=1_500)
    load.create(factory)
    load.insert(1_000)
    db.execute("REINDEX INDEX items_faiss")

    def check():
        query = load.points[load.random.randrange(len(load.points))]
        found = with_index(db, nearest_sql("items", query, None), "items_faiss")
        assert sorted(id for id, _ in found) == sorted(load.rows)
        load.searches += 1

    load.search = load.search_all = check
    load.run(250)
    assert load.searches > 25


@pytest.mark.parametrize("seed", (9, 10))
def test_killed_server_loses_nothing_that_was_committed(new_cluster, seed):
    cluster = new_cluster({"max_wal_size": "64MB"})
    cluster.crash_expected = True
    cluster.execute("CREATE EXTENSION vekter")
    load = Workload(cluster.connect(), seed, dimensions=8)
    load.create()
    chance = random.Random(seed)
    for _ in range(5):
        load.run(chance.randrange(20, 180))
        if chance.random() < 0.3:
            load.conn.execute("CHECKPOINT")
        cluster.kill9()
        load.conn.close()
        cluster.start()
        load.conn = cluster.connect()
        load.forget_transaction()
        load.search_all()
        load.search()


def test_killed_server_keeps_vectors_that_span_pages(new_cluster):
    cluster = new_cluster()
    cluster.crash_expected = True
    cluster.execute("CREATE EXTENSION vekter")
    load = Workload(cluster.connect(), 11, dimensions=3_000, most_rows=60, batch=5)
    load.create()
    for _ in range(4):
        load.run(60)
        cluster.kill9()
        load.conn.close()
        cluster.start()
        load.conn = cluster.connect()
        load.forget_transaction()
        load.search_all()


def test_the_oracle_notices_a_missing_row(db):
    """The counter-case of this file: a comparison that cannot fail proves nothing."""
    load = Workload(db, 12, dimensions=8)
    load.create()
    load.insert(50)
    sql = nearest_sql("items", load.points[0], None)
    rows = without_index(db, sql)
    with pytest.raises(AssertionError, match="rows instead of"):
        assert_nearest(rows[:20] + rows[21:], rows)
    with pytest.raises(AssertionError, match="nearest left"):
        assert_nearest(rows[1:11], rows, 10)
    with pytest.raises(AssertionError, match="came twice"):
        assert_nearest(rows[:5] + rows[:5], rows, 10)
    with pytest.raises(AssertionError, match="does not see"):
        assert_nearest([(-5, rows[0][1])], rows, 1)
    assert_nearest(rows[:10], rows, 10)


def test_model_notices_a_row_that_the_table_lost(db):
    load = Workload(db, 13, dimensions=8)
    load.create()
    load.insert(50)
    db.execute("DELETE FROM items WHERE id = 7")
    with pytest.raises(AssertionError, match="differs from the model"):
        load.search()
