"""Copies of a cluster or of its data: backups, point-in-time recovery, dumps, logical replication, pg_upgrade."""

import os
import subprocess
import time

import pytest

from data import clustered, copy_vectors
from oracle import assert_clean, assert_same_answer, settings
from segment_cache import files
from upkeep import vacuum_dead_rows

DIMENSIONS = 16
VECTORS = clustered(6_000, DIMENSIONS, seed=401)
QUERY = VECTORS[-1]
EVERY_LIST = {"vekter.nprobe": 1_000}
FACTORIES = {"flat": "Flat", "lists": "IVF16,Flat"}


def fill(conn):
    """`flat` and `lists`: each a table whose index has segments, tombstones and a delta."""
    conn.execute("CREATE EXTENSION IF NOT EXISTS vekter")
    for table, factory in FACTORIES.items():
        conn.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, embedding vector({DIMENSIONS})) "
                     "WITH (autovacuum_enabled = off)")
        copy_vectors(conn, table, VECTORS[:2_000])
        conn.execute(f"CREATE INDEX {table}_faiss ON {table} USING faiss (embedding) WITH (factory = '{factory}')")
        change(conn, table, 1)


def change(conn, table, turn):
    """More rows, sealed and not, and fewer."""
    with settings(conn, **{"vekter.delta_limit": "64kB"}):
        first = 2_000 + 1_000 * turn
        copy_vectors(conn, table, VECTORS[first:first + 1_000], ids=range(first, first + 1_000))
        conn.execute(f"DELETE FROM {table} WHERE id %% 9 = %s", [turn])
        vacuum_dead_rows(conn, table)
        copy_vectors(conn, table, VECTORS[:20], ids=range(100_000 * turn, 100_000 * turn + 20))


def answers(conn):
    """What the indexes answer, each held against the scan."""
    found = []
    with settings(conn, **EVERY_LIST):
        for table in FACTORIES:
            for limit in (20, None):
                found.append(sorted(assert_same_answer(conn, table, QUERY, limit=limit, index=f"{table}_faiss")))
            if not conn.execute("SELECT pg_is_in_recovery()").fetchone()[0]:
                assert_clean(conn, f"{table}_faiss")
    return found


def assert_works(cluster, expected, dbname="postgres"):
    """The copy answers as the original did, and takes rows, VACUUM and compaction."""
    with cluster.connect(dbname) as conn:
        assert answers(conn) == expected
        for table in FACTORIES:
            change(conn, table, 3)
            conn.execute(f"SELECT vekter_compact('{table}_faiss')")
        answers(conn)


@pytest.fixture
def original(new_cluster):
    """(server, its answers)."""
    node = new_cluster({"wal_level": "logical"})
    with node.connect() as conn:
        fill(conn)
        return node, answers(conn)


def test_base_backup_taken_under_write_load_is_whole(original, new_cluster):
    node, _ = original
    with node.connect() as writer:
        writer.execute("CREATE PROCEDURE churn() LANGUAGE plpgsql AS $$ BEGIN FOR turn IN 1..1000000 LOOP "
                       "INSERT INTO flat SELECT 1000000 + 40 * turn + id, embedding FROM flat WHERE id < 40; "
                       "DELETE FROM flat WHERE id > 1000000 AND id < 1000000 + 40 * turn - 400; COMMIT; "
                       "END LOOP; END $$")
        load = subprocess.Popen([node.bindir / "psql", "-X", "-q", "-h", node.folder, "-U", "postgres", "-c",
                                 "SET vekter.delta_limit = '64kB'", "-c", "CALL churn()"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: writer.execute("SELECT count(*) > 100 FROM flat WHERE id > 1000000").fetchone()[0])
            copy = new_cluster.copy_of(node)
        finally:
            load.terminate()
            load.wait(30)
    assert not files(copy), "the cache is part of no backup"
    copy.start()
    with copy.connect() as conn:
        found = answers(conn)
        assert conn.execute("SELECT count(*) FROM flat WHERE id > 1000000").fetchone()[0] > 100
    assert_works(copy, found)


def test_recovery_to_a_point_in_time_brings_back_the_index_of_then(original, new_cluster):
    node, expected = original
    archive = node.folder / "archive"
    archive.mkdir()
    give(node, archive)
    node.configure(archive_mode="on", archive_command=f"cp %p {archive}/%f").restart()
    copy = new_cluster.copy_of(node)
    for table in FACTORIES:
        node.execute(f"VACUUM {table}")
    with node.connect() as conn:
        for table in FACTORIES:
            change(conn, table, 2)
        then = answers(conn)
        conn.execute("SELECT pg_create_restore_point('then')")
        for table in FACTORIES:
            change(conn, table, 3)
            conn.execute(f"SELECT vekter_compact('{table}_faiss')")
        conn.execute("DROP INDEX flat_faiss")
        conn.execute("SELECT pg_switch_wal()")
        wait_until(lambda: conn.execute("SELECT last_archived_wal >= pg_walfile_name(pg_current_wal_lsn() - 1) "
                                        "FROM pg_stat_archiver").fetchone()[0])
    (copy.data / "recovery.signal").touch()
    give(copy, copy.data / "recovery.signal")
    copy.configure(archive_mode="off", restore_command=f"cp {archive}/%f %p", recovery_target_name="then",
                   recovery_target_action="promote").start()
    wait_until(lambda: not copy.execute("SELECT pg_is_in_recovery()")[0][0])
    assert then != expected
    assert_works(copy, then)


@pytest.mark.parametrize("form", ("plain", "custom", "directory"))
def test_dump_and_restore(original, form):
    node, expected = original
    target = node.folder / "dump"
    node.execute("CREATE DATABASE restored")
    if form == "plain":
        node.psql(node.tool("pg_dump", "-d", "postgres"), "restored")
    else:
        node.tool("pg_dump", "-d", "postgres", "-F", form[0], "-f", target)
        node.tool("pg_restore", "-d", "restored", "-j", "2", "--exit-on-error", target)
    assert_works(node, expected, "restored")
    with node.connect() as conn:
        assert answers(conn) == expected


def test_database_made_from_a_template_is_on_its_own(original):
    node, expected = original
    node.execute("CREATE DATABASE other")
    node.execute("CREATE DATABASE twin TEMPLATE postgres", dbname="other")
    assert_works(node, expected, "twin")
    with node.connect() as conn:
        assert answers(conn) == expected
    node.execute("DROP DATABASE twin")
    node.execute("VACUUM flat")
    with node.connect() as conn:
        assert answers(conn) == expected


def test_logical_replication_feeds_the_subscribers_own_index(original, new_cluster):
    node, _ = original
    other = new_cluster({"wal_level": "logical"}, name="subscriber")
    with other.connect() as conn:
        conn.execute("CREATE EXTENSION vekter")
        for table, factory in {"flat": "IVF16,Flat", "lists": "Flat"}.items():
            conn.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}))")
            conn.execute(f"CREATE INDEX {table}_faiss ON {table} USING faiss (embedding) "
                         f"WITH (factory = '{factory}')")
        node.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        conn.execute(f"CREATE SUBSCRIPTION everything CONNECTION 'host={node.folder} user=postgres dbname=postgres' "
                     "PUBLICATION everything")
        with node.connect() as source:
            wait_until(lambda: conn.execute("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"
                                            ).fetchone()[0])
            for table in FACTORIES:
                change(source, table, 2)
                source.execute(f"UPDATE {table} SET embedding = embedding WHERE id % 5 = 0")
                source.execute(f"UPDATE {table} SET id = id + 10000000 WHERE id % 7 = 0")
            target = source.execute("SELECT pg_current_wal_lsn()").fetchone()[0]
            wait_until(lambda: source.execute("SELECT bool_and(replay_lsn >= %s) FROM pg_stat_replication",
                                              [target]).fetchone()[0])
            assert answers(conn) == answers(source)
        conn.execute("DROP SUBSCRIPTION everything")


@pytest.mark.parametrize("options", ([], ["--link"]), ids=("copying", "linking"))
def test_pg_upgrade_takes_the_index_along(original, new_cluster, options):
    node, expected = original
    new = new_cluster(start=False, bare=True, name="upgraded")
    node.stop()
    # pg_upgrade starts both by itself; it writes where it is called.
    new.tool("pg_upgrade", "-b", node.bindir, "-B", new.bindir, "-d", node.data, "-D", new.data, "-U", "postgres",
             "-s", new.folder, *options)
    assert not files(new), "the old server's cache is of no use to the new one"
    new.start()
    assert_works(new, expected)


def give(cluster, path):
    """Makes a file the server's own, where it runs under another account."""
    if cluster.account:
        os.chown(path, cluster.account.pw_uid, cluster.account.pw_gid)


def wait_until(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
