"""The pages of an index as a test damages them, and databases that have such an index.

Pages are edited in the files of a database that nobody has used yet, so no buffer holds them; checksums of blobs are made
right again where the damage lies behind them. Data checksums, which notice most damage before vekter sees it, are told to
let it pass.
"""

import itertools
import shutil
from contextlib import contextmanager

import psycopg

from cluster import EXTENSION_TEMPLATE

PAGE_BYTES, HEADER_BYTES = 8192, 24
TAG_AT = PAGE_BYTES - 32
META, DELTA, OVERFLOW, BLOB, RETIRED = 1, 2, 3, 4, 5
# Where the fields of `Meta` begin, behind the checksum over them.
META_AT = HEADER_BYTES + 12
CORRUPTED = ("XX001", "XX002", "0A000")
SETTINGS = {"ignore_checksum_failure": "on", "restart_after_crash": "off"}


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


# -- databases with damaged indexes -----------------------------------------------------------------------------------

class Sound:
    """A database whose index `built` is whole, to make damaged copies of. The cluster has been started with SETTINGS."""

    _numbers = itertools.count(1)

    def __init__(self, cluster, prepare):
        """`prepare(conn)` makes the index."""
        self.cluster = cluster
        cluster.execute(f"CREATE DATABASE sound TEMPLATE {EXTENSION_TEMPLATE}")
        with cluster.connect("sound") as conn:
            self.prepared = prepare(conn)
            [[path]] = conn.execute("SELECT pg_relation_filepath('built')").fetchall()
            conn.execute("CHECKPOINT")
        self.path = cluster.data / path
        self.content = self.path.read_bytes()

    @contextmanager
    def damaged(self, content):
        """A connection to a copy whose index has these bytes, and a cache folder without segments; a crash of the server
        fails the test."""
        name = f"damaged_{next(self._numbers)}"
        # Copies files as they are, with the names that they have.
        self.cluster.execute(f"CREATE DATABASE {name} TEMPLATE sound STRATEGY file_copy")
        [[oid]] = self.cluster.execute("SELECT oid::text FROM pg_database WHERE datname = %s", [name])
        (self.path.parent.parent / oid / self.path.name).write_bytes(content)
        shutil.rmtree(self.cluster.data / "pgsql_tmp_vekter", ignore_errors=True)
        with self.cluster.connect(name) as conn:
            yield conn
            assert conn.execute("SELECT 1").fetchone() == (1,)
        assert self.cluster.crashes() == []
        self.cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


def assert_corruption(error):
    assert isinstance(error, psycopg.Error) and error.sqlstate in CORRUPTED, error


def assert_found(findings, place, problem, severity="error"):
    assert any(s == severity and place in at and problem in what for s, at, what in findings), findings
