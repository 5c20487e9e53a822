"""The cache folder is only a cache: whatever happens to it, answers stay right; and it is kept tidy and private."""

import os
import shutil
import stat
import threading
import time

import pytest

from data import copy_vectors
from oracle import assert_same_answer, nearest_sql, settings, with_index
from segment_cache import EVERY_LIST, QUERY, ROWS, VECTORS, files, folder, make, one_file, search  # noqa: F401
from upkeep import vacuum_dead_rows

FACTORIES = ("Flat", "HNSW16", "IVF32,Flat", "IVF32,PQ8x4fs,RFlat")


# -- loss -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("factory", FACTORIES)
def test_deleted_folder_is_made_again(cluster, db, database, factory):
    make(db, factory)
    expected = search(cluster, database)
    assert files(cluster)
    shutil.rmtree(folder(cluster))
    assert search(cluster, database) == expected
    assert files(cluster)


def test_deleting_the_folder_under_load_changes_no_answer(cluster, db, database):
    for number, factory in enumerate(FACTORIES):
        make(db, factory, f"items_{number}")
    expected = [search(cluster, database, f"items_{n}") for n in range(len(FACTORIES))]
    stop, wrong, searches = threading.Event(), [], [0]

    def reader(reconnect):
        try:
            conn = None
            while not stop.is_set():
                conn = conn or cluster.connect(database)
                for number, answer in enumerate(expected):
                    with settings(conn, **EVERY_LIST):
                        got = with_index(conn, nearest_sql(f"items_{number}", QUERY, 30))
                    if got != answer:
                        wrong.append((number, got[:3], answer[:3]))
                    searches[0] += 1
                if reconnect:
                    conn.close()
                    conn = None
        except Exception as failure:
            wrong.append(failure)

    readers = [threading.Thread(target=reader, args=(reconnect,)) for reconnect in (True, True, False)]
    for thread in readers:
        thread.start()
    for _ in range(25):
        shutil.rmtree(folder(cluster), ignore_errors=True)
        time.sleep(0.08)
    stop.set()
    for thread in readers:
        thread.join(60)
    assert wrong == []
    assert searches[0] > 50


def test_open_session_goes_on_while_its_file_is_deleted(cluster, db, database, one_file):
    path, expected = one_file
    with cluster.connect(database) as conn, settings(conn, **EVERY_LIST):
        assert with_index(conn, nearest_sql("items", QUERY, 30)) == expected
        path.unlink()
        assert with_index(conn, nearest_sql("items", QUERY, 30)) == expected


def test_opened_segments_outlive_vacuum_and_analyze(cluster, db, database, one_file):
    """Who opens a file that has no stamp verifies it and leaves one."""
    path, expected = one_file
    stamp = path.with_name(path.name + ".verified")
    make(db, table="other")
    with cluster.connect(database) as conn, settings(conn, **EVERY_LIST):
        assert with_index(conn, nearest_sql("items", QUERY, 30)) == expected
        stamp.unlink()
        for sql in ("ALTER INDEX items_faiss SET (recall = 0.9)", "VACUUM items", "ANALYZE items", "ALTER TABLE items SET (fillfactor = 90)",
                    "CREATE INDEX ON items (id)", "DROP TABLE other", "INSERT INTO items SELECT -1, embedding FROM items "
                    "WHERE id = 1", "DELETE FROM items WHERE id = -1"):
            db.execute(sql)
            assert with_index(conn, nearest_sql("items", QUERY, 30)) == expected
            assert not stamp.exists(), f"{sql}: the segment was opened again"
        db.execute("DELETE FROM items WHERE id = %s", [expected[0][0]])
        vacuum_dead_rows(db)
        assert with_index(conn, nearest_sql("items", QUERY, 29)) == expected[1:]
        assert not stamp.exists(), "a bitmap of dead rows changes no segment"
    search(cluster, database)
    assert stamp.exists(), "the counter-case"


@pytest.mark.parametrize("end", ("DROP INDEX items_faiss", "TRUNCATE items", "REINDEX INDEX items_faiss",
                                 "INSERT INTO items SELECT -1, embedding FROM items LIMIT 1; SELECT vekter_compact('items_faiss')"))
def test_map_of_a_file_that_is_gone_goes_with_the_next_transaction(cluster, db, database, one_file, end):
    """Nothing of that index is searched again; yet the space comes back."""
    path, expected = one_file
    make(db, table="other", rows=50)
    with cluster.connect(database) as conn, settings(conn, **EVERY_LIST):
        assert with_index(conn, nearest_sql("items", QUERY, 30)) == expected
        db.execute(end)
        db.execute("VACUUM other")
        assert not path.exists()
        conn.execute("SELECT count(*) FROM other")
        assert "pgsql_tmp_vekter" not in open(f"/proc/{conn.info.backend_pid}/maps").read()


# -- damage ---------------------------------------------------------------------------------------------------------

def replace(path, content):
    """Puts other bytes in the file's place, as another inode: sessions may have the old one mapped."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    shutil.copystat(path, new)
    os.chown(new, path.stat().st_uid, path.stat().st_gid)
    new.rename(path)


def flip(content, place):
    return content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1:]


DAMAGE = {
    "empty": lambda path, content: replace(path, b""),
    "half": lambda path, content: replace(path, content[:len(content) // 2]),
    "one byte short": lambda path, content: replace(path, content[:-1]),
    "longer": lambda path, content: replace(path, content + bytes(4096)),
    "zeros": lambda path, content: replace(path, bytes(len(content))),
    "first byte": lambda path, content: replace(path, flip(content, 0)),
    "byte 20": lambda path, content: replace(path, flip(content, 20)),
    "early byte": lambda path, content: replace(path, flip(content, len(content) // 50)),
    "middle byte": lambda path, content: replace(path, flip(content, len(content) // 2)),
    "last byte": lambda path, content: replace(path, flip(content, len(content) - 1)),
    "half zeros": lambda path, content: replace(path, content[:len(content) // 2] + bytes((len(content) + 1) // 2)),
    "not readable": lambda path, content: path.chmod(0),
    "a folder": lambda path, content: (path.unlink(), path.mkdir()),
    "a link to nowhere": lambda path, content: (path.unlink(), path.symlink_to("/nonexistent/file")),
    "a link to /dev/zero": lambda path, content: (path.unlink(), path.symlink_to("/dev/zero")),
    "a fifo": lambda path, content: (path.unlink(), os.mkfifo(path, 0o666)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_file_is_noticed_and_replaced(cluster, database, one_file, damage):
    path, expected = one_file
    content = path.read_bytes()
    DAMAGE[damage](path, content)
    with cluster.connect(database) as conn:
        conn.execute("SET statement_timeout = '20s'")
        with settings(conn, **EVERY_LIST):
            assert with_index(conn, nearest_sql("items", QUERY, 30)) == expected
    assert search(cluster, database) == expected
    if damage != "a folder":
        assert path.is_file() and not path.is_symlink() and path.read_bytes() == content, "it was not replaced"


def test_damage_that_nobody_repairs_would_be_seen(cluster, database, one_file):
    """The counter-case: the answers above do come from the file. With a file it trusts, a search reads no page."""
    path, _ = one_file
    inode = path.stat().st_ino
    for _ in range(3):
        search(cluster, database)
    assert path.stat().st_ino == inode, "a sound file must be used, not written again"


def test_link_in_place_of_a_file_is_never_written_through(cluster, database, one_file, tmp_path):
    path, expected = one_file
    victim = cluster.folder / "victim"
    victim.write_text("precious")
    victim.chmod(0o666)
    path.unlink()
    path.symlink_to(victim)
    assert search(cluster, database) == expected
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("place", ("a file", "a link"))
def test_something_else_in_the_folders_place_gives_no_wrong_answer(cluster, db, database, one_file, place):
    _, expected = one_file
    shutil.rmtree(folder(cluster))
    if place == "a file":
        folder(cluster).write_text("")
    else:
        folder(cluster).symlink_to("/nonexistent/folder")
    try:
        assert search(cluster, database) == expected
    except Exception as failure:
        assert "XX000" != getattr(failure, "sqlstate", "XX000"), failure
    finally:
        folder(cluster).unlink(missing_ok=True) if not folder(cluster).is_dir() else None
    assert search(cluster, database) == expected


# -- privacy and sharing --------------------------------------------------------------------------------------------

def test_folders_are_0700_and_files_0600(cluster, one_file):
    assert stat.S_IMODE(folder(cluster).stat().st_mode) == 0o700
    for path in folder(cluster).rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_sessions_share_one_file(cluster, database, one_file):
    path, expected = one_file
    inode = path.stat().st_ino
    with cluster.connect(database) as one, cluster.connect(database) as other:
        for conn in (one, other):
            with settings(conn, **EVERY_LIST):
                assert with_index(conn, nearest_sql("items", QUERY, 30)) == expected
            maps = open(f"/proc/{conn.info.backend_pid}/maps").read()
            assert f" {path}" in maps and str(inode) in maps
    assert files(cluster) == {path}


def test_sessions_that_materialise_at_once_leave_one_file(cluster, database, one_file):
    path, expected = one_file
    for _ in range(5):
        path.unlink()
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(search(cluster, database))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert answers == [expected] * 6
        assert files(cluster) == {path}, "temporary names are left over"


def test_file_outlives_a_restart(new_cluster):
    node = new_cluster()
    node.execute("CREATE EXTENSION vekter")
    with node.connect() as db:
        make(db)
    expected = search(node, "postgres")
    [path] = files(node)
    inode = path.stat().st_ino
    node.restart()
    assert search(node, "postgres") == expected
    assert path.stat().st_ino == inode


# -- copies of the cluster and of the database ----------------------------------------------------------------------

def test_base_backup_leaves_the_folder_out_and_answers_the_same(new_cluster):
    node = new_cluster()
    node.execute("CREATE EXTENSION vekter")
    with node.connect() as db:
        make(db)
    expected = search(node, "postgres")
    copy = new_cluster.copy_of(node)
    assert not files(copy)
    copy.start()
    assert search(copy, "postgres") == expected


def test_copy_of_a_database_shares_nothing_that_changes(cluster, db, database, one_file):
    _, expected = one_file
    db.close()
    cluster.execute(f"CREATE DATABASE twin TEMPLATE {database}")
    try:
        assert search(cluster, "twin") == expected
        with cluster.connect("twin") as twin:
            twin.execute("DELETE FROM items WHERE id % 2 = 0")
            twin.execute("VACUUM items")
            copy_vectors(twin, "items", VECTORS[ROWS:ROWS + 10], ids=range(ROWS, ROWS + 10))
            with settings(twin, **EVERY_LIST):
                assert_same_answer(twin, "items", QUERY, limit=None)
        assert search(cluster, database) == expected
    finally:
        cluster.execute("DROP DATABASE twin")
    cluster.execute("VACUUM items", dbname=database)
    assert search(cluster, database) == expected
