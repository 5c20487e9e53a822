"""Lengths and pointers on disk that no index can have: an error that says REINDEX, in a session that goes on.

The pages are those of a stopped server, with checksums that vouch for them: what finds the damage is the reader alone.
Before it was looked at, such a length was allocated, and that ends the process and restarts the server.
"""

import psycopg
import pytest

from damage import HEADER_BYTES, META_AT, OVERFLOW, PAGE_BYTES, SETTINGS, Pages, crc32c, integer, kind, lower, put
from data import clustered, copy_vectors

DIMENSIONS = 3
NO_BLOCK = 0xFFFF_FFFF
FACTORY_AT = META_AT + 16 + 4 + 1


def manifest_at(page):
    return FACTORY_AT + 8 + integer(page, FACTORY_AT, 8) + 8 + 1


def delta_at(page):
    at = manifest_at(page) + 28
    return at + 8 + 8 * integer(page, at, 8)


# What is put where in the meta page, in how many bytes.
DAMAGE = {
    "flipped": None,
    "dimensions": lambda page: (META_AT + 16, 0, 4),
    "factory": lambda page: (FACTORY_AT, 1 << 40, 8),
    "factory_of_all_memory": lambda page: (FACTORY_AT, (1 << 63) - 1, 8),
    "manifest_bytes": lambda page: (manifest_at(page) + 16, 1 << 50, 8),
    "manifest_blocks": lambda page: (manifest_at(page) + 36 + 4, NO_BLOCK, 4),
    "extents": lambda page: (manifest_at(page) + 28, 1 << 40, 8),
    "delta_head": lambda page: (delta_at(page), 1 << 30, 4),
    "delta_head_none": lambda page: (delta_at(page), NO_BLOCK, 4),
    "delta_tail_none": lambda page: (delta_at(page) + 8, NO_BLOCK, 4),
}


@pytest.fixture(scope="module")
def library(new_module_cluster):
    """A server with a table of three rows for each kind of damage, whose index has it, and one of long rows."""
    cluster = new_module_cluster({**SETTINGS, "autovacuum": "off"})
    paths = {}
    with cluster.connect() as conn:
        conn.execute("CREATE EXTENSION vekter")
        for name in DAMAGE:
            conn.execute(f"CREATE TABLE {name} (id bigint, embedding vector({DIMENSIONS}))")
            copy_vectors(conn, name, clustered(3, DIMENSIONS, seed=1))
            conn.execute(f"CREATE INDEX {name}_faiss ON {name} USING faiss (embedding) WITH (factory = 'Flat')")
        conn.execute("CREATE TABLE long (id bigint, embedding vector(3000))")
        conn.execute("CREATE INDEX long_faiss ON long USING faiss (embedding) WITH (factory = 'Flat')")
        copy_vectors(conn, "long", clustered(3, 3_000, seed=1))
        for name in (*DAMAGE, "long"):
            [[path]] = conn.execute("SELECT pg_relation_filepath(%s)", [f"{name}_faiss"]).fetchall()
            paths[name] = cluster.data / path
    cluster.stop()
    for name, damage in DAMAGE.items():
        pages = Pages(paths[name].read_bytes())
        if damage is None:
            pages[0][META_AT] ^= 4
        else:
            put(pages[0], *damage(pages[0]))
            put(pages[0], META_AT - 4, crc32c(pages[0][META_AT:lower(pages[0])]), 4)
        paths[name].write_bytes(b"".join(pages))
    pages = Pages(paths["long"].read_bytes())
    overflow = next(page for page in pages if kind(page) == OVERFLOW)
    put(overflow, 12, HEADER_BYTES + 4, 2)
    paths["long"].write_bytes(b"".join(pages))
    assert len(pages[0]) == PAGE_BYTES
    return cluster.start()


def assert_damaged(conn, sql):
    with pytest.raises(psycopg.errors.IndexCorrupted) as refusal:
        conn.execute(sql)
    assert "REINDEX" in refusal.value.diag.message_hint, sql


def assert_alive(cluster, conn, pid):
    assert conn.execute("SELECT pg_backend_pid()").fetchone() == (pid,)
    assert cluster.crashes() == []


@pytest.mark.parametrize("name", DAMAGE)
def test_root_that_no_index_can_have_is_an_error_with_the_hint_reindex(library, name):
    with library.connect() as conn:
        conn.execute("SET enable_seqscan = off")
        pid, nearest = conn.info.backend_pid, f"SELECT id FROM {name} ORDER BY embedding <-> '[1,2,3]' LIMIT 2"
        # Planning fails no query that may do without the index.
        conn.execute(f"EXPLAIN {nearest}")
        assert_alive(library, conn, pid)
        for sql in (f"EXPLAIN ANALYZE {nearest}", nearest, f"INSERT INTO {name} VALUES (9, '[1,2,3]')", f"VACUUM {name}",
                    f"SELECT vekter_compact('{name}_faiss')"):
            assert_damaged(conn, sql)
            assert_alive(library, conn, pid)
        found = conn.execute(f"SELECT severity, place FROM vekter_check('{name}_faiss')").fetchall()
        assert "error" in {severity for severity, _ in found}, found
        assert_alive(library, conn, pid)
        conn.execute(f"REINDEX INDEX {name}_faiss")
        assert conn.execute(f"SELECT * FROM vekter_check('{name}_faiss')").fetchall() == []
        assert len(conn.execute(nearest).fetchall()) == 2


def test_overflow_page_that_is_cut_short_is_damage(library):
    with library.connect() as conn:
        conn.execute("SET enable_seqscan = off")
        zeros = [0] * 3_000
        assert_damaged(conn, f"SELECT id FROM long ORDER BY embedding <-> '{zeros}' LIMIT 2")
        assert_damaged(conn, "SELECT vekter_compact('long_faiss')")
        assert_alive(library, conn, conn.info.backend_pid)
