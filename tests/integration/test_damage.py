"""Damaged index pages: an error that says REINDEX, or the right answer; never a crash, never FAISS on bad bytes.

Data checksums, which notice most damage before vekter sees it, are told to let it pass here.
"""

import random
import shutil

import psycopg
import pytest

from data import clustered, copy_vectors
from oracle import ONLY_INDEX, apply, assert_same_answer, nearest_sql, settings, without_index
from upkeep import vacuum_dead_rows

ROWS, DIMENSIONS, PAGE_BYTES, PAGE_HEADER_BYTES = 2_000, 16, 8192, 24
VECTORS = clustered(ROWS + 60, DIMENSIONS, seed=151)
QUERY = VECTORS[-1]
# Offset of the kind within a page (src/index/format, `PageTag`) and the kinds.
KIND_AT, META, DELTA, BLOB = 8160 + 28, 1, 2, 4
CORRUPTED = ("XX001", "XX002", "0A000")


@pytest.fixture(scope="module")
def library(new_module_cluster):
    """A stopped server whose table has an index with a segment, tombstones and a delta; its file; the right answer."""
    cluster = new_module_cluster({"ignore_checksum_failure": "on", "restart_after_crash": "off"})
    with cluster.connect() as conn:
        conn.execute("CREATE EXTENSION vekter")
        conn.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS})) WITH (autovacuum_enabled = off)")
        copy_vectors(conn, "items", VECTORS[:ROWS])
        conn.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF16,Flat')")
        conn.execute("DELETE FROM items WHERE id % 5 = 0")
        vacuum_dead_rows(conn)
        copy_vectors(conn, "items", VECTORS[ROWS:ROWS + 50], ids=range(ROWS, ROWS + 50))
        expected = without_index(conn, nearest_sql("items", QUERY, None))
        [[path]] = conn.execute("SELECT pg_relation_filepath('built')").fetchall()
    cluster.stop()
    return cluster, cluster.data / path, expected


@pytest.fixture
def damaged(library):
    """(function that damages the index and searches it, its pages); the sound file is put back afterwards."""
    cluster, path, expected = library
    sound = path.read_bytes()

    def search(content):
        path.write_bytes(content)
        shutil.rmtree(cluster.data / "pgsql_tmp_vekter", ignore_errors=True)
        cluster.start()
        try:
            with cluster.connect() as conn:
                conn.execute("SET statement_timeout = '20s'")
                conn.execute("SET vekter.nprobe = 16")
                apply(conn, ONLY_INDEX)
                try:
                    rows = conn.execute(nearest_sql("items", QUERY, None)).fetchall()
                except psycopg.Error as error:
                    assert error.sqlstate in CORRUPTED, error
                    rows = error
                # Whatever was damaged: the session lives, and VACUUM, INSERT and the statistics crash nothing.
                for sql in ("SELECT * FROM vekter_index_stats('built')", "VACUUM items",
                            "BEGIN; INSERT INTO items SELECT 9999, embedding FROM items LIMIT 1; ROLLBACK"):
                    try:
                        conn.execute(sql)
                    except psycopg.Error as error:
                        assert error.sqlstate in CORRUPTED, error
                        conn.execute("ROLLBACK")
                assert conn.execute("SELECT 1").fetchone() == (1,)
            assert cluster.crashes() == []
            return rows
        finally:
            cluster.stop("immediate")

    yield search, [sound[at:at + PAGE_BYTES] for at in range(0, len(sound), PAGE_BYTES)], expected
    path.write_bytes(sound)


def flipped(page, place):
    return page[:place] + bytes([page[place] ^ 0x10]) + page[place + 1:]


def of_kind(pages, *kinds):
    return [number for number, page in enumerate(pages) if page[KIND_AT] in kinds]


def assert_right_or_refused(answer, expected):
    if isinstance(answer, psycopg.Error):
        assert "REINDEX" in (answer.diag.message_hint or ""), answer
    else:
        assert sorted(answer) == sorted(expected)


def test_sound_file_gives_the_right_answer(damaged):
    """The counter-case: the file, the restarts and the empty cache are not what makes the others fail."""
    search, pages, expected = damaged
    assert sorted(search(b"".join(pages))) == sorted(expected)
    assert len(of_kind(pages, BLOB)) > 10 and of_kind(pages, DELTA)


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bit_in_a_segment_or_the_manifest_is_noticed(damaged, seed):
    search, pages, expected = damaged
    number = random.Random(seed).choice(of_kind(pages, BLOB))
    place = random.Random(seed).randrange(PAGE_HEADER_BYTES, int.from_bytes(pages[number][12:14], "little"))
    pages[number] = flipped(pages[number], place)
    assert_right_or_refused(search(b"".join(pages)), expected)


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bit_anywhere_crashes_nothing(damaged, seed):
    """The delta's rows have no checksum of their own: there, data checksums are what notices."""
    search, pages, _ = damaged
    chance = random.Random(100 + seed)
    number = chance.choice(of_kind(pages, META, DELTA) if seed % 2 else range(len(pages)))
    pages[number] = flipped(pages[number], chance.randrange(PAGE_HEADER_BYTES, 200 if seed % 2 else PAGE_BYTES))
    search(b"".join(pages))


@pytest.mark.parametrize("what", ("first", "middle", "last"))
def test_page_of_zeros_is_noticed(damaged, what):
    search, pages, expected = damaged
    number = {"first": 0, "middle": of_kind(pages, BLOB)[4], "last": of_kind(pages, DELTA)[-1]}[what]
    pages[number] = bytes(PAGE_BYTES)
    answer = search(b"".join(pages))
    assert isinstance(answer, psycopg.Error), "a page is missing, and nobody noticed"
    assert_right_or_refused(answer, expected)


def test_exchanged_pages_are_noticed(damaged):
    search, pages, expected = damaged
    one, other = of_kind(pages, BLOB)[2:4]
    pages[one], pages[other] = pages[other], pages[one]
    assert isinstance(search(b"".join(pages)), psycopg.Error)


@pytest.mark.parametrize("left", (0, 1, 2, 10))
def test_file_that_was_cut_short_is_noticed(damaged, left):
    search, pages, expected = damaged
    answer = search(b"".join(pages[:left]))
    assert isinstance(answer, psycopg.Error)


def test_unknown_format_version_is_refused_with_the_hint_reindex(damaged):
    search, pages, expected = damaged
    # Magic (4 bytes) and version (2 bytes) begin the body of the meta page.
    assert pages[0][24:28] == b"VKTR"
    pages[0] = pages[0][:28] + b"\x63\x00" + pages[0][30:]
    answer = search(b"".join(pages))
    assert isinstance(answer, psycopg.Error) and answer.sqlstate == "0A000"
    assert "99" in str(answer) and "REINDEX" in answer.diag.message_hint


def test_reindex_makes_a_damaged_index_whole(library, damaged):
    cluster, path, expected = library
    search, pages, _ = damaged
    path.write_bytes(bytes(PAGE_BYTES) + b"".join(pages[1:]))
    shutil.rmtree(cluster.data / "pgsql_tmp_vekter", ignore_errors=True)
    cluster.start()
    with cluster.connect() as conn:
        conn.execute("REINDEX INDEX built")
        with settings(conn, **{"vekter.nprobe": 16}):
            assert_same_answer(conn, "items", QUERY, limit=None)
    cluster.stop()
