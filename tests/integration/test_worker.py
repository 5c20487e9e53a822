"""The background worker that seals and merges: it dies, fails or is ended at any step, and nothing is lost by it."""

import threading
import time
from contextlib import contextmanager

import psycopg
import pytest

from data import clustered, copy_vectors
from failpoints import arm
from oracle import assert_clean, assert_same_answer
from upkeep import stats, vacuum_dead_rows, wait_for_seal

DIMENSIONS = 16
VECTORS = clustered(4_000, DIMENSIONS, seed=701)
QUERY = VECTORS[-1]
WORKER = "backend_type = 'vekter compactor'"
# Steps that a worker comes to while rows are inserted.
STEPS = ("compact.started", "seal.frozen", "seal.stored", "seal.published", "merge.planned",
         "merge.batch_added", "merge.staged", "merge.stored", "merge.published", "merge.retired")


@pytest.fixture(scope="module")
def cluster(new_module_cluster, failpoint_bindir):
    cluster = new_module_cluster({"vekter.delta_limit": "64kB"}, bindir=failpoint_bindir)
    cluster.crash_expected = True
    return cluster


@pytest.fixture
def items(cluster, database):
    """Name of a database with a table `items`; no worker is armed afterwards."""
    with cluster.connect(database) as db:
        db.execute(f"CREATE TABLE items (id bigserial, embedding vector({DIMENSIONS})) "
                   "WITH (autovacuum_enabled = off)")
        copy_vectors(db, "items", VECTORS[:1_000])
        db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
        db.execute("ALTER SEQUENCE items_id_seq RESTART 1000")
    yield database
    arm_workers(cluster, "")


def arm_workers(cluster, failpoint):
    """Arms every process that starts from now on; sessions of a test disarm themselves."""
    cluster.configure(**{"vekter.failpoint": failpoint})
    cluster.execute("SELECT pg_reload_conf()")


def insert_until(cluster, database, condition, timeout_s=60):
    """Inserts rows, a few at a time, until the condition holds or the server ends the session."""
    deadline = time.monotonic() + timeout_s
    try:
        with cluster.connect(database) as db:
            db.execute("LOAD 'vekter'")
            arm(db, "")
            while not condition(db):
                assert time.monotonic() < deadline, "the worker did not come"
                db.execute("INSERT INTO items (embedding) SELECT embedding FROM items WHERE id < 100")
                # Faster than a worker starts, sessions would seal by themselves.
                time.sleep(0.02)
    except psycopg.OperationalError:
        return False
    return True


def has_sealed(db):
    """There is more than the segment that CREATE INDEX made."""
    return db.execute("SELECT segments > 1 FROM vekter_index_stats('built')").fetchone()[0]


def wait_for_no_worker(db, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while db.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {WORKER}").fetchone()[0]:
        assert time.monotonic() < deadline, "the worker does not end"
        time.sleep(0.02)


def assert_well(cluster, database):
    arm_workers(cluster, "")
    assert insert_until(cluster, database, has_sealed)
    with cluster.connect(database) as db:
        wait_for_no_worker(db)
        assert_same_answer(db, "items", QUERY, limit=None)
        db.execute("VACUUM (INDEX_CLEANUP ON) items")
        assert_clean(db, "built", orphans_allowed=True)


@pytest.mark.parametrize("step", STEPS)
def test_killed_worker_loses_nothing(cluster, items, step):
    starts = cluster.starts()
    arm_workers(cluster, f"{step}=crash")
    assert not insert_until(cluster, items, lambda db: False)
    cluster.wait_for_recovery(starts)
    assert 'background worker "vekter compactor"' in cluster.log_text()
    assert_well(cluster, items)


@pytest.mark.parametrize("step", ("compact.started", "seal.stored", "merge.staged", "merge.published"))
def test_failed_worker_harms_no_session(cluster, items, step):
    """Its error is in the log and nowhere else; sessions insert on, and another worker comes."""
    before = cluster.log_text().count(f"failpoint {step}")
    arm_workers(cluster, f"{step}=error")
    assert insert_until(cluster, items, lambda db: cluster.log_text().count(f"failpoint {step}") > before)
    assert_well(cluster, items)


@contextmanager
def held_worker(cluster, database, step):
    """Inserts rows until a worker has come to a step, where it waits until the block ends."""
    arm_workers(cluster, f"{step}=wait@1")
    waiting = []

    def arrived(db):
        waiting.extend(cluster.data.glob(f"failpoint.{step}.*"))
        return waiting

    assert insert_until(cluster, database, arrived)
    try:
        yield
    finally:
        waiting[0].unlink(missing_ok=True)
        arm_workers(cluster, "")


@pytest.mark.parametrize("step", ("compact.started", "seal.frozen", "merge.batch_added", "merge.staged"))
@pytest.mark.parametrize("command", ("DROP INDEX built", "DROP TABLE items", "TRUNCATE items",
                                     "REINDEX INDEX built", "ALTER TABLE items ADD COLUMN more int",
                                     "VACUUM FULL items"))
def test_worker_makes_room_for_who_changes_the_index(cluster, items, command, step):
    """What it holds up it lets pass when it looks around next; what it did not finish, nobody misses."""
    with cluster.connect(items) as db:
        db.execute("SET statement_timeout = '60s'")
        with held_worker(cluster, items, step):
            change = threading.Thread(target=lambda: db.execute(command))
            change.start()
            change.join(0.2)
        change.join(60)
        assert not change.is_alive()
    with cluster.connect(items) as db:
        wait_for_no_worker(db)
        if db.execute("SELECT to_regclass('built') IS NOT NULL").fetchone()[0]:
            assert_same_answer(db, "items", QUERY, limit=None)
            db.execute("VACUUM (INDEX_CLEANUP ON) items")
            assert_clean(db, "built", orphans_allowed=True)


@pytest.mark.parametrize("step", ("merge.planned", "merge.batch_added", "merge.staged"))
def test_rows_that_die_during_a_merge_stay_dead(cluster, items, step):
    """VACUUM does not wait for a merge. Line pointers that it freed are used again before the merge is published."""
    with cluster.connect(items) as db:
        arm(db, "")
        with held_worker(cluster, items, step):
            # Of all segments that are merged, and of the delta.
            dead = set(db.execute("SELECT ctid::text FROM items WHERE id % 2 = 0").fetchall())
            db.execute("DELETE FROM items WHERE id % 2 = 0")
            vacuum_dead_rows(db)
            copy_vectors(db, "items", VECTORS[2_000:2_800], ids=range(10**6, 10**6 + 800))
            reused = dead & set(db.execute("SELECT ctid::text FROM items WHERE id >= 1000000").fetchall())
            assert len(reused) > 100, "the heap reused too few line pointers for this test to mean anything"
            assert_same_answer(db, "items", QUERY, limit=None)
        wait_for_no_worker(db)
        assert_same_answer(db, "items", QUERY, limit=None)
        assert_clean(db, "built", orphans_allowed=True)


def test_worker_that_is_about_to_end_sees_what_came_last(cluster, items):
    """It has looked for the last time and still holds its lock: an insert takes it for one at work and asks for no other."""
    with cluster.connect(items) as db:
        arm(db, "")
        with held_worker(cluster, items, "worker.idle"):
            db.execute("INSERT INTO items (embedding) SELECT embedding FROM items LIMIT 1500")
            assert stats(db, "delta_rows") > 1_000
        wait_for_seal(db, 64 << 10, DIMENSIONS)
        wait_for_no_worker(db)
        assert_clean(db, "built")


def test_fast_shutdown_does_not_wait_for_a_worker(new_cluster, failpoint_bindir):
    node = new_cluster({"vekter.delta_limit": "64kB"}, bindir=failpoint_bindir)
    node.execute("CREATE EXTENSION vekter")
    with node.connect() as db:
        db.execute(f"CREATE TABLE items (id bigserial, embedding vector({DIMENSIONS}))")
        copy_vectors(db, "items", VECTORS[:1_000])
        db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
        db.execute("ALTER SEQUENCE items_id_seq RESTART 1000")
    arm_workers(node, "merge.batch_added=wait, seal.frozen=wait")
    insert_until(node, "postgres", lambda db: list(node.data.glob("failpoint.*")))
    node.stop("fast")
    node.configure(**{"vekter.failpoint": ""}).start()
    with node.connect() as db:
        assert_same_answer(db, "items", QUERY, limit=None)
        assert_clean(db, "built", orphans_allowed=True)
