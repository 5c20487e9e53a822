"""vekter_check() names each kind of damage, with its place, and crashes at none.

Pages are edited in the stopped server's files; checksums of blobs are made right again where the damage lies behind
them. Data checksums, which notice most damage before vekter sees it, are told to let it pass here.
"""

import random
import shutil
import struct

import psycopg
import pytest

from data import clustered, copy_vectors
from upkeep import vacuum_dead_rows

ROWS, DIMENSIONS, PAGE_BYTES, HEADER_BYTES = 2_000, 16, 8192, 24
VECTORS = clustered(ROWS + 60, DIMENSIONS, seed=151)
TAG_AT, ENTRY_BYTES = PAGE_BYTES - 32, 8 + 4 * DIMENSIONS
META, DELTA, OVERFLOW, BLOB, RETIRED = 1, 2, 3, 4, 5
# Where the fields of `Meta` begin, behind the checksum over them.
META_AT = HEADER_BYTES + 12
CORRUPTED = ("XX001", "XX002", "0A000")


# -- pages (src/index/format) ------------------------------------------------------------------------------------

def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def crc_of_byte(crc):
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


CRC_TABLE = [crc_of_byte(byte) for byte in range(256)]


def integer(page, at, size):
    return int.from_bytes(page[at:at + size], "little")


def put(page, at, value, size):
    page[at:at + size] = value.to_bytes(size, "little")


def lower(page):
    return integer(page, 12, 2)


def owner(page):
    return integer(page, TAG_AT, 16)


def kind(page):
    return page[TAG_AT + 28]


def chunk(page):
    return integer(page, TAG_AT + 24, 4)


class Pages(list):
    """The pages of an index, each a bytearray, with the places of what is in them."""

    def __init__(self, content):
        super().__init__(bytearray(content[at:at + PAGE_BYTES]) for at in range(0, len(content), PAGE_BYTES))

    @property
    def meta(self):
        """Offsets in the meta page: after magic, version, padding and checksum come the fields of `Meta`, packed."""
        at = META_AT + 16 + 4 + 1
        at += 8 + integer(self[0], at, 8) + 8
        assert self[0][at] == 1, "a manifest is there"
        manifest = at + 1
        extents = integer(self[0], manifest + 28, 8)
        delta = manifest + 36 + 8 * extents
        return {"metric": META_AT + 16 + 4, "manifest": manifest, "manifest_crc": manifest + 24,
                "delta_head": delta, "delta_head_chunk": delta + 4, "delta_tail": delta + 8,
                "delta_next_chunk": delta + 12}

    def of_blob(self, blob):
        """Its pages, by number, in order."""
        found = [(chunk(page), number) for number, page in enumerate(self) if (kind(page), owner(page)) == (BLOB, blob)]
        return [number for _, number in sorted(found)]

    @property
    def manifest(self):
        """The number of the manifest's only page, and offsets in it; it lists one segment with tombstones."""
        [number] = self.of_blob(integer(self[0], self.meta["manifest"], 16))
        page, payload = self[number], HEADER_BYTES + 8
        run = payload + 36 + 8 * integer(page, payload + 28, 8)
        assert page[run] == 0, "it was not sealed"
        rows = run + 1
        assert page[rows + 16] == 1, "tombstones are there"
        return number, {"payload": payload, "payload_bytes": payload + 16, "payload_crc": payload + 24,
                        "extent": payload + 36, "rows": rows, "dead_rows": rows + 8, "tombstones": rows + 17,
                        "tombstones_crc": rows + 17 + 24}

    @property
    def segment(self):
        number, at = self.manifest
        return self.of_blob(integer(self[number], at["payload"], 16))

    @property
    def tombstones(self):
        number, at = self.manifest
        [page] = self.of_blob(integer(self[number], at["tombstones"], 16))
        return page

    @property
    def delta(self):
        found = [(chunk(page), number) for number, page in enumerate(self) if kind(page) == DELTA]
        return [number for _, number in sorted(found)]

    def change_meta(self, field, value, size):
        put(self[0], self.meta[field], value, size)
        put(self[0], META_AT - 4, crc32c(self[0][META_AT:lower(self[0])]), 4)

    def change_manifest(self, field, value, size=8):
        number, at = self.manifest
        put(self[number], at[field], value, size)
        self.change_meta("manifest_crc", crc32c(self[number][HEADER_BYTES:lower(self[number])]), 4)

    def seal(self, numbers, field):
        """Makes the checksum of a blob that the manifest lists right again."""
        content = b"".join(self[number][HEADER_BYTES:lower(self[number])] for number in numbers)
        self.change_manifest(field, crc32c(content), 4)


# -- a server to damage ---------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def library(new_module_cluster):
    """A stopped server whose table has an index with a segment, tombstones and a delta of several pages; its file."""
    cluster = new_module_cluster({"ignore_checksum_failure": "on", "restart_after_crash": "off"})
    with cluster.connect() as conn:
        conn.execute("CREATE EXTENSION vekter")
        conn.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS})) WITH (autovacuum_enabled = off)")
        copy_vectors(conn, "items", VECTORS[:ROWS])
        conn.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF16,Flat')")
        conn.execute("DELETE FROM items WHERE id % 5 = 0 AND id < 1000")
        vacuum_dead_rows(conn)
        for _ in range(6):
            copy_vectors(conn, "items", VECTORS[ROWS:ROWS + 50], ids=range(ROWS, ROWS + 50))
        [[path]] = conn.execute("SELECT pg_relation_filepath('built')").fetchall()
    cluster.stop()
    return cluster, cluster.data / path


@pytest.fixture
def damaged(library):
    """(function that checks an index of these pages, its pages); the sound file is put back afterwards."""
    cluster, path = library
    sound = path.read_bytes()

    def check(pages, heap=True):
        path.write_bytes(b"".join(pages))
        shutil.rmtree(cluster.data / "pgsql_tmp_vekter", ignore_errors=True)
        cluster.start()
        try:
            with cluster.connect() as conn:
                conn.execute("SET statement_timeout = '60s'")
                try:
                    found = conn.execute("SELECT * FROM vekter_check('built', %s)", [heap]).fetchall()
                except psycopg.Error as error:
                    found = error
                assert conn.execute("SELECT 1").fetchone() == (1,)
            assert cluster.crashes() == []
            return found
        finally:
            cluster.stop("immediate")

    yield check, Pages(sound)
    path.write_bytes(sound)


def assert_found(findings, place, problem, severity="error"):
    assert any(s == severity and place in at and problem in what for s, at, what in findings), findings


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

@pytest.mark.parametrize("seed", range(40))
def test_flipped_bits_anywhere_crash_nothing(damaged, seed):
    check, pages = damaged
    chance = random.Random(seed)
    heads = [0, pages.manifest[0], *pages.delta]
    for _ in range(1 if seed < 30 else 20):
        number = chance.choice(heads) if seed % 2 else chance.randrange(len(pages))
        at = chance.randrange(HEADER_BYTES, 300) if seed % 2 else chance.randrange(PAGE_BYTES)
        pages[number][at] ^= 1 << chance.randrange(8)
    found = check(pages)
    if isinstance(found, psycopg.Error):
        assert found.sqlstate in CORRUPTED, found
