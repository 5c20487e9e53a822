"""Damaged index pages: an error that says REINDEX, or the right answer; never a crash, never FAISS on bad bytes."""

import random

import psycopg
import pytest

from damage import BLOB, DELTA, HEADER_BYTES, META, PAGE_BYTES, SETTINGS, Sound, assert_corruption, kind
from data import clustered, copy_vectors
from oracle import ONLY_INDEX, apply, assert_same_answer, nearest_sql, settings, without_index
from upkeep import vacuum_dead_rows

ROWS, DIMENSIONS = 2_000, 16
VECTORS = clustered(ROWS + 60, DIMENSIONS, seed=151)
QUERY = VECTORS[-1]


@pytest.fixture(scope="module")
def sound(new_module_cluster):
    """An index with a segment, tombstones and a delta; `prepared` is the right answer."""
    def prepare(conn):
        conn.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS})) WITH (autovacuum_enabled = off)")
        copy_vectors(conn, "items", VECTORS[:ROWS])
        conn.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF16,Flat')")
        conn.execute("DELETE FROM items WHERE id % 5 = 0")
        vacuum_dead_rows(conn)
        copy_vectors(conn, "items", VECTORS[ROWS:ROWS + 50], ids=range(ROWS, ROWS + 50))
        return without_index(conn, nearest_sql("items", QUERY, None))

    return Sound(new_module_cluster(SETTINGS), prepare)


@pytest.fixture
def damaged(sound):
    """(function that searches an index of these pages, the pages, the right answer)."""
    def search(pages):
        with sound.damaged(b"".join(pages)) as conn:
            conn.execute("SET statement_timeout = '20s'")
            conn.execute("SET vekter.nprobe = 16")
            apply(conn, ONLY_INDEX)
            try:
                rows = conn.execute(nearest_sql("items", QUERY, None)).fetchall()
            except psycopg.Error as error:
                assert_corruption(error)
                rows = error
            # Whatever was damaged: the session lives, and VACUUM, INSERT and the statistics crash nothing.
            for sql in ("SELECT * FROM vekter_index_stats('built')", "VACUUM items",
                        "BEGIN; INSERT INTO items SELECT 9999, embedding FROM items LIMIT 1; ROLLBACK"):
                try:
                    conn.execute(sql)
                except psycopg.Error as error:
                    assert_corruption(error)
                    conn.execute("ROLLBACK")
            return rows

    content = sound.content
    return search, [content[at:at + PAGE_BYTES] for at in range(0, len(content), PAGE_BYTES)], sound.prepared


def flipped(page, place):
    return page[:place] + bytes([page[place] ^ 0x10]) + page[place + 1:]


def of_kind(pages, *kinds):
    return [number for number, page in enumerate(pages) if kind(page) in kinds]


def assert_right_or_refused(answer, expected):
    if isinstance(answer, psycopg.Error):
        assert "REINDEX" in (answer.diag.message_hint or ""), answer
    else:
        assert sorted(answer) == sorted(expected)


def test_sound_file_gives_the_right_answer(damaged):
    """The counter-case: the file, the restarts and the empty cache are not what makes the others fail."""
    search, pages, expected = damaged
    assert sorted(search(pages)) == sorted(expected)
    assert len(of_kind(pages, BLOB)) > 10 and of_kind(pages, DELTA)


@pytest.mark.parametrize("seed", range(3))
def test_flipped_bit_in_a_segment_or_the_manifest_is_noticed(damaged, seed):
    search, pages, expected = damaged
    number = random.Random(seed).choice(of_kind(pages, BLOB))
    place = random.Random(seed).randrange(HEADER_BYTES, int.from_bytes(pages[number][12:14], "little"))
    pages[number] = flipped(pages[number], place)
    assert_right_or_refused(search(pages), expected)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bit_anywhere_crashes_nothing(damaged, seed):
    """The delta's rows have no checksum of their own: there, data checksums are what notices."""
    search, pages, _ = damaged
    chance = random.Random(100 + seed)
    number = chance.choice(of_kind(pages, META, DELTA) if seed % 2 else range(len(pages)))
    pages[number] = flipped(pages[number], chance.randrange(HEADER_BYTES, 200 if seed % 2 else PAGE_BYTES))
    search(pages)


@pytest.mark.parametrize("what", ("first", "middle", "last"))
def test_page_of_zeros_is_noticed(damaged, what):
    search, pages, expected = damaged
    number = {"first": 0, "middle": of_kind(pages, BLOB)[4], "last": of_kind(pages, DELTA)[-1]}[what]
    pages[number] = bytes(PAGE_BYTES)
    answer = search(pages)
    assert isinstance(answer, psycopg.Error), "a page is missing, and nobody noticed"
    assert_right_or_refused(answer, expected)


def test_exchanged_pages_are_noticed(damaged):
    search, pages, expected = damaged
    one, other = of_kind(pages, BLOB)[2:4]
    pages[one], pages[other] = pages[other], pages[one]
    assert isinstance(search(pages), psycopg.Error)


@pytest.mark.parametrize("left", (0, 1, 2, 10))
def test_file_that_was_cut_short_is_noticed(damaged, left):
    search, pages, expected = damaged
    answer = search(pages[:left])
    assert isinstance(answer, psycopg.Error)


def test_unknown_format_version_is_refused_with_the_hint_reindex(damaged):
    search, pages, expected = damaged
    # Magic (4 bytes) and version (2 bytes) begin the body of the meta page.
    assert pages[0][24:28] == b"VKTR"
    pages[0] = pages[0][:28] + b"\x63\x00" + pages[0][30:]
    answer = search(pages)
    assert isinstance(answer, psycopg.Error) and answer.sqlstate == "0A000"
    assert "99" in str(answer) and "REINDEX" in answer.diag.message_hint


def test_reindex_makes_a_damaged_index_whole(sound, damaged):
    _, pages, _ = damaged
    with sound.damaged(bytes(PAGE_BYTES) + b"".join(pages[1:])) as conn:
        conn.execute("REINDEX INDEX built")
        with settings(conn, **{"vekter.nprobe": 16}):
            assert_same_answer(conn, "items", QUERY, limit=None)
