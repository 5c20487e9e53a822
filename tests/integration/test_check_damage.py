"""vekter_check() names each kind of damage, with its place, and crashes at none."""

import random
import shutil
import struct

import psycopg
import pytest

from damage import (HEADER_BYTES, PAGE_BYTES, RETIRED, SETTINGS, TAG_AT, Pages, Sound, assert_corruption, assert_found,
                    crc32c, integer, lower, put)
from data import clustered, copy_vectors
from upkeep import vacuum_dead_rows

ROWS, DIMENSIONS = 2_000, 16
VECTORS = clustered(ROWS + 60, DIMENSIONS, seed=151)
ENTRY_BYTES = 8 + 4 * DIMENSIONS


# -- a server to damage ---------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def sound(new_module_cluster):
    """An index with a segment, tombstones and a delta of several pages."""
    def prepare(conn):
        conn.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS})) WITH (autovacuum_enabled = off)")
        copy_vectors(conn, "items", VECTORS[:ROWS])
        conn.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF16,Flat')")
        conn.execute("DELETE FROM items WHERE id % 5 = 0 AND id < 1000")
        vacuum_dead_rows(conn)
        for _ in range(6):
            copy_vectors(conn, "items", VECTORS[ROWS:ROWS + 50], ids=range(ROWS, ROWS + 50))

    return Sound(new_module_cluster(SETTINGS), prepare)


@pytest.fixture
def damaged(sound):
    """(function that checks an index of these pages, its pages)."""
    def check(pages, heap=True):
        with sound.damaged(b"".join(pages)) as conn:
            conn.execute("SET statement_timeout = '60s'")
            try:
                return conn.execute("SELECT * FROM vekter_check('built', %s)", [heap]).fetchall()
            except psycopg.Error as error:
                return error

    return check, Pages(sound.content)


def test_sound_pages_are_clean(damaged):
    """The counter-case: neither the file's way nor the parser of this test makes the others fail."""
    check, pages = damaged
    assert len(pages.segment) > 10 and len(pages.delta) > 2
    pages.change_manifest("rows", ROWS)
    pages.seal(pages.segment, "payload_crc")
    pages.seal([pages.tombstones], "tombstones_crc")
    assert check(pages) == []


# -- meta page and manifest -----------------------------------------------------------------------------------------

def test_meta_page_of_zeros(damaged):
    check, pages = damaged
    pages[0][:] = bytes(PAGE_BYTES)
    assert_found(check(pages), "meta page", "not a meta page")


def test_file_without_pages(damaged):
    check, pages = damaged
    assert_found(check([]), "meta page", "no pages")


def test_unknown_format_version(damaged):
    check, pages = damaged
    put(pages[0], HEADER_BYTES + 4, 99, 2)
    assert_found(check(pages), "meta page", "format version 99 is unknown")


def test_unknown_metric(damaged):
    check, pages = damaged
    pages.change_meta("metric", 9, 1)
    assert_found(check(pages), "meta page", "metric 9 is unknown")


def test_flipped_bit_in_the_meta_page(damaged):
    check, pages = damaged
    pages[0][pages.meta["delta_head_chunk"]] ^= 1
    assert_found(check(pages), "meta page", "the meta page's checksum is wrong")


def test_flipped_bit_in_the_manifest(damaged):
    check, pages = damaged
    number, at = pages.manifest
    pages[number][at["rows"]] ^= 1
    assert_found(check(pages), "manifest", "the checksum is wrong")


def test_manifest_page_that_is_another_ones(damaged):
    check, pages = damaged
    number, _ = pages.manifest
    pages[number][TAG_AT] ^= 1
    assert_found(check(pages), "manifest", f"block {number} belongs to something else")


def test_manifest_with_a_checksum_and_without_sense(damaged):
    check, pages = damaged
    number, _ = pages.manifest
    pages.change_manifest("payload", pages.delta[0])
    put(pages[number], HEADER_BYTES, 7, 8)
    pages.change_meta("manifest_crc", crc32c(pages[number][HEADER_BYTES:lower(pages[number])]), 4)
    assert_found(check(pages), "manifest", "cannot be decoded")


# -- segments -------------------------------------------------------------------------------------------------------

def test_flipped_bit_in_a_segment(damaged):
    check, pages = damaged
    pages[pages.segment[5]][3000] ^= 4
    assert_found(check(pages), "segment", "the checksum is wrong")


@pytest.mark.parametrize("damage, problem", [("zeros", "is not a page of a faiss index"),
                                             ("free", "is marked as free"),
                                             ("exchanged", "belongs to something else"),
                                             ("shorter", "bytes are stored")])
def test_page_of_a_segment_that_is_not_what_it_should_be(damaged, damage, problem):
    check, pages = damaged
    one, other = pages.segment[3:5]
    if damage == "zeros":
        pages[one][:] = bytes(PAGE_BYTES)
    elif damage == "free":
        pages[one][TAG_AT + 28] = RETIRED
    elif damage == "exchanged":
        pages[one], pages[other] = pages[other], pages[one]
    else:
        put(pages[one], 12, lower(pages[one]) - 8, 2)
    assert_found(check(pages), "segment", problem)


def test_pages_behind_the_end_of_the_file(damaged):
    check, pages = damaged
    assert_found(check(pages[:10]), "", "lies behind the end of the index")


def test_billions_of_pages_behind_the_end_of_the_file_take_no_time(damaged):
    check, pages = damaged
    _, at = pages.manifest
    pages.change_manifest("extent", (0xFFFF_FFF0 << 32) | 0x10)
    assert_found(check(pages), "segment", "lies behind the end of the index")


def test_row_pointers_that_are_not_those_that_were_sealed(damaged):
    check, pages = damaged
    first = pages.segment[0]
    pages[first][HEADER_BYTES + 4096 + 6 * 50] ^= 1
    pages.seal(pages.segment, "payload_crc")
    assert_found(check(pages), "segment", "the checksum of its row pointers is wrong")


def test_more_rows_than_a_segment_has_bytes_for(damaged):
    check, pages = damaged
    pages.change_manifest("rows", 1 << 50)
    assert_found(check(pages), "segment", f"bytes are too few for {1 << 50} rows")


def test_segment_header_of_another_number_of_rows(damaged):
    check, pages = damaged
    pages.change_manifest("rows", ROWS + 8)
    assert_found(check(pages), "segment", "its header is another segment's")


def test_bytes_that_faiss_does_not_open(damaged):
    check, pages = damaged
    # FAISS's bytes begin behind header and TIDs, with a fourcc.
    place = 4096 + 6 * ROWS
    body = PAGE_BYTES - HEADER_BYTES - 32
    for at in range(place, place + 128):
        pages[pages.segment[at // body]][HEADER_BYTES + at % body] ^= 0x55
    pages.seal(pages.segment, "payload_crc")
    found = check(pages)
    assert [severity for severity, at, _ in found if at.startswith("segment")] == ["error"], found


def test_row_of_an_exact_segment_that_is_not_that_of_the_table(damaged):
    check, pages = damaged
    row = VECTORS[1].tobytes()
    [number] = [number for number in pages.segment if row in pages[number]]
    pages[number][pages[number].index(row) + 2] ^= 0x40
    pages.seal(pages.segment, "payload_crc")
    assert check(pages, heap=False) == []
    assert_found(check(pages), "row (0,2)", "the row in the index is not that of the table")


# -- tombstones -----------------------------------------------------------------------------------------------------

def test_number_of_dead_rows_that_the_bitmap_denies(damaged):
    check, pages = damaged
    pages.change_manifest("dead_rows", 5)
    assert_found(check(pages), "tombstones", "200 rows are dead, 5 by the manifest")


def test_dead_row_that_the_table_still_has(damaged):
    check, pages = damaged
    pages[pages.tombstones][HEADER_BYTES] |= 2
    pages.change_manifest("dead_rows", 201)
    pages.seal([pages.tombstones], "tombstones_crc")
    assert check(pages, heap=False) == []
    found = check(pages)
    # Which row the second position holds is the build's affair.
    assert_found(found, "row (", "the row is not in the index")
    assert len(found) == 1


def test_row_that_vacuum_has_removed_and_the_bitmap_has_not(damaged):
    check, pages = damaged
    pages[pages.tombstones][HEADER_BYTES] &= 0xFE
    pages.change_manifest("dead_rows", 199)
    pages.seal([pages.tombstones], "tombstones_crc")
    # Row 0's line pointer was given to a row that came later, which is in the delta.
    assert_found(check(pages, heap=False), "row (0,1)", "the row is in the index more than once")


def test_flipped_bit_in_the_tombstones(damaged):
    check, pages = damaged
    pages[pages.tombstones][HEADER_BYTES + 7] ^= 1
    assert_found(check(pages), "tombstones", "the checksum is wrong")


def test_bitmap_of_another_length(damaged):
    check, pages = damaged
    page = pages[pages.tombstones]
    put(page, 12, lower(page) - 1, 2)
    assert_found(check(pages), "tombstones", "bytes are stored")


# -- delta ----------------------------------------------------------------------------------------------------------

def entry(pages, number, at=0):
    """The offset of an entry of a delta page."""
    return HEADER_BYTES + 32 + at * ENTRY_BYTES


def test_delta_page_of_zeros(damaged):
    check, pages = damaged
    number = pages.delta[1]
    pages[number][:] = bytes(PAGE_BYTES)
    assert_found(check(pages), f"delta page {number}", "is not a page of a faiss index")


def test_chain_that_links_back(damaged):
    check, pages = damaged
    first, second = pages.delta[:2]
    put(pages[second], HEADER_BYTES, first, 4)
    put(pages[second], HEADER_BYTES + 4, 0, 4)
    assert_found(check(pages), f"delta page {second}", "links back")


def test_chain_that_ends_too_early(damaged):
    check, pages = damaged
    put(pages[pages.delta[0]], HEADER_BYTES, 0xFFFF_FFFF, 4)
    found = check(pages)
    assert_found(found, "delta", f"page {pages.delta[-1]}, where inserts begin, is not in the chain")
    assert_found(found, "row", "the row is not in the index")


def test_chain_number_that_will_come_twice(damaged):
    check, pages = damaged
    pages.change_meta("delta_next_chunk", 1, 4)
    assert_found(check(pages), "delta", "the next page's number, 1, is in use already")


def test_wrong_number_of_entries(damaged):
    check, pages = damaged
    number = pages.delta[0]
    put(pages[number], HEADER_BYTES + 12, 3, 2)
    assert_found(check(pages), f"delta page {number}", "3 entries do not take")


def test_row_of_the_delta_that_is_not_that_of_the_table(damaged):
    check, pages = damaged
    at = entry(pages, pages.delta[0])
    pages[pages.delta[0]][at + 8 + 3] ^= 0x01
    assert check(pages, heap=False) == []
    assert_found(check(pages), "row", "the row in the index is not that of the table")


def test_row_of_the_delta_that_is_not_finite(damaged):
    check, pages = damaged
    number = pages.delta[0]
    at = entry(pages, number)
    pages[number][at + 8:at + 12] = struct.pack("<f", float("nan"))
    assert_found(check(pages), f"delta page {number}", "not finite")


def test_row_that_is_there_twice(damaged):
    check, pages = damaged
    page = pages[pages.delta[0]]
    first, second = entry(pages, pages.delta[0]), entry(pages, pages.delta[0], 1)
    page[second:second + 6] = page[first:first + 6]
    assert_found(check(pages, heap=False), "row", "the row is in the index more than once")
    assert_found(check(pages), "row", "the row is not in the index")


def test_row_pointer_that_no_table_has(damaged):
    check, pages = damaged
    page = pages[pages.delta[0]]
    put(page, entry(pages, pages.delta[0]) + 4, 0, 2)
    assert_found(check(pages, heap=False), ",0)", "no table has such a row")


@pytest.mark.parametrize("block, offset, problem", [(0, 290, "the line pointer is free"),
                                                    (100_000, 1, "the table has no such page")])
def test_row_pointer_to_nothing(damaged, block, offset, problem):
    check, pages = damaged
    page, at = pages[pages.delta[0]], entry(pages, pages.delta[0])
    put(page, at, block, 4)
    put(page, at + 4, offset, 2)
    assert check(pages, heap=False) == []
    assert_found(check(pages), f"row ({block},{offset})", problem)


# -- pages that nothing should reach, or two do ---------------------------------------------------------------------

def test_block_that_two_parts_use(damaged):
    check, pages = damaged
    _, at = pages.manifest
    number, first = pages.manifest[0], pages.segment[0]
    start, blocks = integer(pages[number], at["extent"], 4), integer(pages[number], at["extent"] + 4, 4)
    pages.change_manifest("extent", (blocks << 32) | (start - 1))
    assert_found(check(pages), "delta page", f"block {first - 1} is also used by segment")


def test_page_that_nothing_reaches_is_a_warning(damaged):
    check, pages = damaged
    orphan = bytearray(pages[pages.segment[2]])
    pages.append(orphan)
    [finding] = check(pages)
    assert finding[:2] == ("warning", "free space")
    assert f"block {len(pages) - 1} is reached by nothing" in finding[2]


def test_new_page_is_nothing_to_report(damaged):
    check, pages = damaged
    pages.append(bytearray(PAGE_BYTES))
    assert check(pages) == []


def test_page_without_a_tag_is_an_error(damaged):
    check, pages = damaged
    foreign = bytearray(pages[pages.segment[2]])
    foreign[TAG_AT:] = bytes(32)
    pages.append(foreign)
    assert_found(check(pages), f"block {len(pages) - 1}", "not a page of a faiss index")


# -- the cache file -------------------------------------------------------------------------------------------------

def test_damaged_cache_file_is_a_warning_and_written_again(cluster, db):
    shutil.rmtree(cluster.data / "pgsql_tmp_vekter", ignore_errors=True)
    db.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS}))")
    copy_vectors(db, "items", VECTORS)
    db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    [path] = [p for p in (cluster.data / "pgsql_tmp_vekter").iterdir() if p.suffix != ".verified"]
    content = path.read_bytes()
    path.write_bytes(content[:9000] + b"x" + content[9001:])
    [finding] = db.execute("SELECT * FROM vekter_check('built')").fetchall()
    assert finding[0] == "warning" and "cache file was damaged" in finding[2]
    assert path.read_bytes() == content
    assert db.execute("SELECT * FROM vekter_check('built')").fetchall() == []


# -- anything -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(5))
def test_flipped_bits_anywhere_crash_nothing(damaged, seed):
    """Thousands of them, in each structure by itself, are tried without a server (src/index/format/hostile_tests.rs)."""
    check, pages = damaged
    chance = random.Random(seed)
    heads = [0, pages.manifest[0], *pages.delta]
    for _ in range(1 if seed < 3 else 20):
        number = chance.choice(heads) if seed % 2 else chance.randrange(len(pages))
        at = chance.randrange(HEADER_BYTES, 300) if seed % 2 else chance.randrange(PAGE_BYTES)
        pages[number][at] ^= 1 << chance.randrange(8)
    found = check(pages)
    if isinstance(found, psycopg.Error):
        assert_corruption(found)
