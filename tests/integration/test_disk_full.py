"""A disk that is full while something is written: an error that says so, nothing lost, the space given back.

Failpoints stand for the disk where a file is written. Pages of relations are PostgreSQL's own business.
"""

import shutil

import psycopg
import pytest

from data import clustered, copy_vectors
from failpoints import arm
from oracle import assert_clean, assert_same_answer, nearest_sql, with_index
from upkeep import vacuum_dead_rows

DIMENSIONS = 16
VECTORS = clustered(3_000, DIMENSIONS, seed=601)
QUERY = VECTORS[-1]
STEPS = ("cache.created", "cache.preallocated", "cache.written", "cache.synced", "cache.renamed")


@pytest.fixture(scope="module")
def cluster(new_module_cluster, failpoint_bindir):
    return new_module_cluster({"vekter.background_compaction": "off"}, bindir=failpoint_bindir)


@pytest.fixture
def items(db, cluster):
    db.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS})) WITH (autovacuum_enabled = off)")
    copy_vectors(db, "items", VECTORS[:2_000])
    shutil.rmtree(cluster.data / "pgsql_tmp_vekter", ignore_errors=True)
    return db


def create(db):
    db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")


def assert_disk_full(cluster, db, step, action):
    """The action says that the disk is full, and leaves no unfinished file."""
    before = names(cluster)
    arm(db, f"{step}=enospc")
    with pytest.raises(psycopg.errors.DiskFull, match="cache file") as refused:
        action()
    assert "pgsql_tmp_vekter" in refused.value.diag.message_hint
    arm(db, "")
    if step != "cache.renamed":
        assert names(cluster) <= before


def names(cluster):
    folder = cluster.data / "pgsql_tmp_vekter"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def assert_right(db):
    assert_same_answer(db, "items", QUERY, limit=None, index="built")
    vacuum_dead_rows(db, options="(INDEX_CLEANUP ON)")
    assert_clean(db, "built")


@pytest.mark.parametrize("step", STEPS)
def test_full_disk_while_building(items, cluster, step):
    assert_disk_full(cluster, items, step, lambda: create(items))
    create(items)
    assert_disk_full(cluster, items, step, lambda: items.execute("REINDEX INDEX built"))
    assert_right(items)


@pytest.mark.parametrize("step", STEPS)
def test_full_disk_while_materialising(items, cluster, database, step):
    create(items)
    shutil.rmtree(cluster.data / "pgsql_tmp_vekter")
    with cluster.connect(database) as other:
        other.execute("SET enable_seqscan = off")
        other.execute("LOAD 'vekter'")
        assert_disk_full(cluster, other, step, lambda: with_index(other, nearest_sql("items", QUERY, 10), "built"))
        other.execute("RESET ALL")
        assert_right(other)
    assert_right(items)


@pytest.mark.parametrize("step", STEPS)
def test_full_disk_while_compacting(items, cluster, step):
    create(items)
    copy_vectors(items, "items", VECTORS[2_000:], ids=range(2_000, 3_000))
    assert_disk_full(cluster, items, step, lambda: items.execute("SELECT vekter_compact('built')"))
    assert_same_answer(items, "items", QUERY, limit=None, index="built")
    items.execute("SELECT vekter_compact('built')")
    assert_right(items)


@pytest.mark.parametrize("step", STEPS)
def test_full_cache_disk_stops_no_insert(items, step):
    """An insert that would seal goes on without; the delta is sealed when there is room again."""
    create(items)
    items.execute("SET vekter.delta_limit = '64kB'")
    arm(items, f"{step}=enospc")
    for turn in range(3):
        copy_vectors(items, "items", VECTORS[2_000:], ids=range(10_000 + 1_000 * turn, 11_000 + 1_000 * turn))
    arm(items, "")
    assert_same_answer(items, "items", QUERY, limit=None, index="built")
    assert_right(items)
    assert items.execute("SELECT delta_rows < 1500 FROM vekter_index_stats('built')").fetchone()[0]
