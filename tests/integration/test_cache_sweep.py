"""Cache files of segments that are gone are swept by a later VACUUM or build, and no others."""

import os
import time

import pytest

from oracle import nearest_sql, settings, with_index
from segment_cache import EVERY_LIST, QUERY, files, make, one_file, search  # noqa: F401


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
    time.sleep(0.2)
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
