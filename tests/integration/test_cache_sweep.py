"""Cache files of segments that are gone are swept by a later VACUUM or build, and no others."""

import os
import time

import psycopg
import pytest

from oracle import nearest_sql, settings, with_index, without_index
from segment_cache import EVERY_LIST, QUERY, files, make, one_file, search  # noqa: F401
from upkeep import wait_for_end


@pytest.mark.parametrize("sweeper", ("VACUUM other", "REINDEX INDEX other_faiss"))
@pytest.mark.parametrize("end", ("DROP INDEX items_faiss", "DROP TABLE items", "TRUNCATE items",
                                 "REINDEX INDEX items_faiss", "VACUUM FULL items"))
def test_file_of_a_segment_that_is_gone_is_swept(cluster, db, database, one_file, end, sweeper):
    path, _ = one_file
    make(db, table="other")
    db.execute(end)
    db.execute(sweeper)
    assert not path.exists()
    assert search(cluster, database, "other")


def test_file_in_use_is_not_swept(cluster, db, database, one_file):
    path, expected = one_file
    make(db, table="other")
    inode = path.stat().st_ino
    db.execute("VACUUM other")
    db.execute("VACUUM items")
    db.execute("REINDEX INDEX other_faiss")
    assert path.exists() and path.stat().st_ino == inode
    assert search(cluster, database) == expected


def test_file_of_a_build_that_rolled_back_is_swept(cluster, db, database, one_file):
    path, _ = one_file
    with db.transaction(force_rollback=True):
        make(db, table="gone")
        with settings(db, **EVERY_LIST):
            assert with_index(db, nearest_sql("gone", QUERY, 30))
    make(db, table="other")
    search(cluster, database, "other")
    db.execute("VACUUM other")
    assert len(files(cluster)) == 2


@pytest.mark.parametrize("sweeper", ("VACUUM other", "REINDEX INDEX other_faiss", "SELECT vekter_compact('other_faiss')"))
def test_file_of_a_build_that_is_not_committed_yet_is_left_alone(cluster, db, database, one_file, sweeper):
    make(db, table="other")
    with cluster.connect(database) as creator:
        before = files(cluster)
        creator.execute("BEGIN")
        make(creator, table="fresh")
        [path] = files(cluster) - before
        inode = path.stat().st_ino
        db.execute(sweeper)
        assert path.exists(), "the first search would have to write it again"
        creator.execute("COMMIT")
    db.execute("VACUUM other")
    search(cluster, database, "fresh")
    assert path.stat().st_ino == inode


def test_rolled_back_drop_index_harms_nothing(cluster, db, database, one_file):
    _, expected = one_file
    with db.transaction(force_rollback=True):
        db.execute("DROP INDEX items_faiss")
    assert search(cluster, database) == expected


def test_file_of_a_dropped_database_is_swept(cluster, db, database, one_file):
    path, expected = one_file
    cluster.execute("CREATE DATABASE short_lived")
    with cluster.connect("short_lived") as conn:
        conn.execute("CREATE EXTENSION vekter")
        make(conn)
    search(cluster, "short_lived")
    assert len(files(cluster)) == 2
    db.execute("VACUUM items")
    assert len(files(cluster)) == 2, "another database's file is not for this one to sweep"
    cluster.execute("DROP DATABASE short_lived")
    db.execute("VACUUM items")
    assert files(cluster) == {path}
    assert search(cluster, database) == expected


def test_file_of_a_closed_sessions_temporary_table_is_swept(cluster, db, database, one_file):
    path, _ = one_file
    with cluster.connect(database) as conn:
        conn.execute("CREATE TEMP TABLE scratch AS SELECT * FROM items")
        conn.execute("CREATE INDEX scratch_faiss ON scratch USING faiss (embedding) WITH (factory = 'IVF32,Flat')")
        assert len(with_index(conn, nearest_sql("scratch", QUERY, 5))) == 5
        pid = conn.info.backend_pid
    wait_for_end(db, pid)
    db.execute("VACUUM items")
    assert files(cluster) == {path}


def test_leftover_temporary_file_of_a_crash_is_swept(cluster, db, one_file):
    """A backend that dies while it materialises leaves a file under a temporary name."""
    path, _ = one_file
    leftover = path.with_name(path.name + ".tmp.99999999")
    leftover.write_bytes(b"half a segment")
    os.chown(leftover, path.stat().st_uid, path.stat().st_gid)
    os.utime(leftover, (0, 0))
    db.execute("VACUUM items")
    assert not leftover.exists() and path.exists()


def test_writing_a_file_sweeps_those_of_dropped_indexes(cluster, db, database, one_file):
    """A server where nobody builds or vacuums, such as a standby, gives space back too. Young files are left alone:
    their index may not be committed yet."""
    path, _ = one_file
    make(db, table="other")
    search(cluster, database, "other")
    [other] = files(cluster) - {path}
    db.execute("DROP TABLE items")
    other.unlink()
    search(cluster, database, "other")
    assert path.exists()
    for file in (path, path.with_name(path.name + ".verified")):
        os.utime(file, (0, 0))
    other.unlink()
    search(cluster, database, "other")
    assert files(cluster) == {other} and not path.with_name(path.name + ".verified").exists()


# -- the limit ------------------------------------------------------------------------------------------------------

def test_cache_stays_within_its_limit_and_answers_stay_right(new_cluster):
    # Three segments of 0.7 MB; one fits.
    node = new_cluster({"vekter.cache_limit": "1MB"})
    node.execute("CREATE EXTENSION vekter")
    with node.connect() as db:
        for table in ("one", "two", "three"):
            make(db, table=table)
        expected = {table: without_index(db, nearest_sql(table, QUERY, 30)) for table in ("one", "two", "three")}
        with settings(db, **EVERY_LIST):
            for _ in range(2):
                for table in ("one", "two", "three"):
                    assert search(node, "postgres", table) == expected[table]
                    assert sum(path.stat().st_size for path in files(node)) <= 1 << 20
                    # This session has mapped files that are gone by now.
                    assert with_index(db, nearest_sql(table, QUERY, 30)) == expected[table]


def test_the_file_that_was_used_last_stays(new_cluster):
    node = new_cluster({"vekter.cache_limit": "2MB"})
    node.execute("CREATE EXTENSION vekter")
    with node.connect() as db:
        make(db, table="one")
        [one] = files(node)
        make(db, table="two")
        [two] = files(node) - {one}
        # As if "two" had been used before "one".
        for path, when in ((two, 1_000_000_000), (one, 1_100_000_000)):
            os.utime(path.with_name(path.name + ".verified"), (when, when))
        search(node, "postgres", "two")
        make(db, table="three")
    assert two.exists() and not one.exists()


def test_limit_can_be_lowered_and_is_kept_at_the_next_vacuum(cluster, db, one_file):
    for table in ("two", "three"):
        make(db, table=table)
    assert len(files(cluster)) == 3
    db.execute("SET vekter.cache_limit = '1MB'")
    db.execute("VACUUM items")
    assert len(files(cluster)) == 1


def test_only_a_superuser_sets_the_limit(db):
    db.execute("LOAD 'vekter'")
    db.execute("DO $$ BEGIN CREATE ROLE nobody; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    db.execute("SET ROLE nobody")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.execute("SET vekter.cache_limit = 0")
    db.execute("RESET ROLE")
