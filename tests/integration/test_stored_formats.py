"""Formats are read for ever: indexes that earlier versions wrote (formats/) are clean, answer, and go on."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import psycopg
import pytest

from oracle import assert_clean
from stored_formats import FOLDER, PAGE_BYTES, SERVER, Stored, file_of, found, make, value

# FAISS's sums differ in their last bits between processors, so that codes that keep little rank a row otherwise.
TOLERANCE = 0.1
# Rows that were in the delta are in codes later.
LATER_PART = 0.7
NEW_ROWS = 40
# The version in the meta page (src/index/format/meta_page.rs): behind PostgreSQL's header and the magic bytes.
VERSION_AT = 24 + 4


def stored_indexes() -> list[tuple[Path, Stored, float]]:
    found_ = []
    for contents in sorted(FOLDER.glob("*/contents.json")):
        for entry in json.loads(contents.read_text())["indexes"]:
            recall = entry.pop("recall")
            found_.append((contents.parent, Stored(**entry), recall))
    return found_


CASES = stored_indexes()
FUTURE = Stored("of_the_future", "Flat", "l2")


@pytest.fixture(scope="module")
def opened(new_module_cluster):
    """A connection to a server with a database for each version of the format: its tables, and under its indexes the
    files that are stored. The index FUTURE has a version that nobody knows."""
    cluster = new_module_cluster(SERVER)
    folders = list(dict.fromkeys(folder for folder, *_ in CASES))
    files: dict[Path, bytes] = {}
    for folder in folders:
        name = f"format_{folder.name}"
        cluster.execute(f"CREATE DATABASE {name}")
        with cluster.connect(name) as conn:
            conn.execute("CREATE EXTENSION vekter")
            for _, stored, _ in (case for case in CASES if case[0] == folder):
                make(conn, stored)
                files[file_of(conn, cluster, stored)] = lzma.decompress(stored.file(folder).read_bytes())
            make(conn, FUTURE)
            path = file_of(conn, cluster, FUTURE)
            pages = bytearray(lzma.decompress((folder / "flat_l2.xz").read_bytes()))
            pages[VERSION_AT:VERSION_AT + 2] = (9_999).to_bytes(2, "little")
            files[path] = bytes(pages)
            spend_transactions(conn, json.loads((folder / "contents.json").read_text())["next_xid"])
    cluster.stop()
    cluster.tool("pg_checksums", "--disable", "-D", cluster.data)
    for path, pages in files.items():
        path.write_bytes(pages)
        # It describes the pages of the index that was there.
        path.with_name(f"{path.name}_fsm").unlink(missing_ok=True)
    cluster.tool("pg_checksums", "--enable", "-D", cluster.data)
    cluster.start()
    return cluster


def spend_transactions(conn, number: int) -> None:
    """Lets transactions pass, so that those of the stored pages are over."""
    conn.execute("CREATE TABLE spent (number integer)")
    conn.execute(f"""DO $$ BEGIN FOR i IN 1..{number} LOOP
        BEGIN INSERT INTO spent VALUES (i); EXCEPTION WHEN division_by_zero THEN END;
    END LOOP; END $$""")


@pytest.mark.parametrize(("folder", "stored", "recall"),
                         [pytest.param(*case, id=f"{case[0].name}-{case[1].name}") for case in CASES])
def test_an_index_of_any_version_is_clean_answers_and_goes_on(opened, folder, stored, recall):
    with opened.connect(f"format_{folder.name}") as conn:
        assert_clean(conn, stored.name)
        assert found(conn, stored) >= recall - (TOLERANCE if recall < 1 else 0)

        first = stored.built_rows + stored.inserted_rows + 1
        conn.execute(f"INSERT INTO {stored.table} SELECT i, {value('i', stored.dimensions)} "
                     f"FROM generate_series({first}, {first + NEW_ROWS}) i")
        conn.execute(f"DELETE FROM {stored.table} WHERE id % 10 = 9")
        conn.execute(f"VACUUM {stored.table}")
        assert_clean(conn, stored.name)
        assert found(conn, stored) >= recall * LATER_PART

        conn.execute("SELECT vekter_compact(%s)", [stored.name])
        assert_clean(conn, stored.name)
        assert found(conn, stored) >= recall * LATER_PART
        segments = conn.execute("SELECT segments, delta_rows FROM vekter_index_stats(%s)", [stored.name]).fetchall()
        assert segments == [(1, 0)]


@pytest.mark.parametrize("folder", sorted({folder for folder, *_ in CASES}), ids=lambda folder: folder.name)
def test_an_index_of_an_unknown_version_is_refused_until_it_is_built_anew(opened, folder):
    with opened.connect(f"format_{folder.name}") as conn:
        conn.execute("SET enable_seqscan = off")
        row = value("0", FUTURE.dimensions)
        for statement in (f"INSERT INTO {FUTURE.table} VALUES (0, {row})",
                          f"SELECT id FROM {FUTURE.table} ORDER BY embedding <-> {row} LIMIT 3",
                          f"VACUUM {FUTURE.table}"):
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="format version 9999") as refused:
                conn.execute(statement)
            assert "REINDEX" in refused.value.diag.message_hint
        conn.execute("RESET enable_seqscan")
        conn.execute(f"REINDEX INDEX {FUTURE.name}")
        assert_clean(conn, FUTURE.name)
        assert found(conn, FUTURE) == 1


def test_the_format_that_this_version_writes_is_stored(opened):
    with opened.connect(f"format_{CASES[-1][0].name}") as conn:
        conn.execute(f"REINDEX INDEX {FUTURE.name}")
        [[written]] = conn.execute("SELECT format_version FROM vekter_index_stats(%s)", [FUTURE.name]).fetchall()
    assert (FOLDER / str(written) / "contents.json").exists()


def test_every_stored_file_is_made_of_whole_pages():
    for folder, stored, _ in CASES:
        assert len(lzma.decompress(stored.file(folder).read_bytes())) % PAGE_BYTES == 0
