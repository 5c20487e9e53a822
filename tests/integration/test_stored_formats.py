"""Formats are read for ever: indexes that earlier versions wrote (formats/) are whole, answer as before, and go on."""

from __future__ import annotations

import re

import psycopg
import pytest

from beside_pgvector import has_pgvector
from damage import PAGE_BYTES, TAG_AT, put
from data import REPOSITORY
from oracle import ONLY_INDEX, apply, assert_clean
from stored_formats import (SERVER, Collection, Questions, StoredIndex, collections, connect, inspect, places, run,
                            show_alone)

# FAISS's sums end in other bits on other processors, so codes may rank rows otherwise that they hardly tell apart.
RECALL_MARGIN = 0.05
# The first segment of WAL whose positions (1/0) no page that is stored has reached.
FIRST_WAL_SEGMENT = "000000010000000100000000"
NEW_IDS = 100_001, 100_040
UNKNOWN_VERSION = 99
# In the meta page's body behind "VKTR" (src/index/format/meta_page.rs), and in the tag of each page (src/page.rs).
META_VERSION_AT, TAG_VERSION_AT = 24 + 4, TAG_AT + 29

COLLECTIONS = collections()
CASES = [pytest.param(collection, index, id=f"{collection.name}-{index.name}")
         for collection in COLLECTIONS for index in collection.indexes]


def database(collection: Collection, state: str = "stored") -> str:
    return f"{state}_{collection.name}"


class Opened:
    """A server whose indexes are the stored ones, in a database for each collection."""

    def __init__(self, cluster):
        self.cluster = cluster
        self._questions: dict[str, Questions] = {}
        self.collections = [one for one in COLLECTIONS if not one.needs_pgvector() or has_pgvector(cluster)]
        files = [file for collection in self.collections for file in self._make(collection)]
        next_xid, = cluster.execute("SELECT txid_snapshot_xmax(txid_current_snapshot())")[0]
        cluster.stop()
        for path, content in files:
            path.write_bytes(content)
            # It tells where the pages of another index have room.
            path.with_name(f"{path.name}_fsm").unlink(missing_ok=True)
        # Transactions that the pages name are over, and the WAL of their changes is past, as in a server of their own.
        next_xid = max(next_xid, *(collection.next_xid for collection in self.collections))
        cluster.tool("pg_resetwal", "-D", cluster.data, "-l", FIRST_WAL_SEGMENT, "-x", next_xid)
        cluster.start()

    def _make(self, collection: Collection):
        """(path, content to have) of each index. Those of an empty table are quickly made."""
        name = database(collection)
        self.cluster.execute(f'CREATE DATABASE "{name}"')
        with connect(self.cluster, name) as conn:
            conn.execute("SET client_min_messages = error")
            run(conn, [*collection.setup, *(index.statement for index in collection.indexes),
                       *collection.built, *collection.later])
            assert places(conn) == collection.places, "rows lie elsewhere than those that the indexes point to"
            for index, content in collection.pages().items():
                [[path]] = conn.execute("SELECT pg_relation_filepath(%s)", [index]).fetchall()
                yield self.cluster.data / path, content

    def connect(self, collection: Collection, state: str = "stored"):
        if collection not in self.collections:
            pytest.skip("pgvector 0.7 or later is not installed in this PostgreSQL (scripts/pgvector_for_tests.sh)")
        return connect(self.cluster, database(collection, state))

    def questions(self, conn, collection: Collection) -> Questions:
        """Those of the database that `conn` is connected to."""
        name = conn.info.dbname
        if name not in self._questions:
            metrics = {index.metric for index in collection.indexes}
            self._questions[name] = Questions(conn, collection.items, metrics)
        return self._questions[name]

    def copy(self, collection: Collection, state: str, strategy: str = "wal_log") -> None:
        self.cluster.execute(f'CREATE DATABASE "{database(collection, state)}" '
                             f'TEMPLATE "{database(collection)}" STRATEGY {strategy}')


@pytest.fixture(scope="module")
def opened(new_module_cluster):
    return Opened(new_module_cluster(SERVER))


@pytest.fixture(scope="module")
def grown(opened):
    """The same with copies in which rows were inserted, and deleted in segments, delta and among the new ones."""
    for collection in opened.collections:
        opened.copy(collection, "grown")
        with opened.connect(collection, "grown") as conn:
            run(conn, [collection.items.insert(*NEW_IDS), "DELETE FROM items WHERE id % 13 = 4", "VACUUM items"])
    return opened


@pytest.mark.parametrize("collection, index", CASES)
def test_index_of_any_version_is_whole_and_answers_as_it_did(opened, collection: Collection, index: StoredIndex):
    with opened.connect(collection) as conn:
        questions = opened.questions(conn, collection)
        show_alone(conn, index)
        assert_clean(conn, index.name)
        assert {**inspect(conn, index), "recall": index.found["recall"]} == index.found
        assert questions.built_recall(conn, index) >= index.found["recall"] - RECALL_MARGIN
        questions.assert_exact_answers(conn, index)


@pytest.mark.parametrize("collection, index", CASES)
def test_index_of_any_version_takes_rows_and_is_merged(grown, collection: Collection, index: StoredIndex):
    with grown.connect(collection, "grown") as conn:
        questions = grown.questions(conn, collection)
        show_alone(conn, index)
        assert_clean(conn, index.name)
        questions.assert_exact_answers(conn, index)
        conn.execute("SELECT vekter_compact(%s)", [index.name])
        [[rows]] = conn.execute("SELECT count(*) FROM items").fetchall()
        merged = inspect(conn, index)
        assert (merged["segments"], merged["delta_rows"]) == ([[index.factory, rows, 0]], 0)
        assert_clean(conn, index.name)
        questions.assert_exact_answers(conn, index)


@pytest.mark.parametrize("collection", COLLECTIONS, ids=lambda collection: collection.name)
def test_index_of_any_version_is_rebuilt(grown, collection: Collection):
    """One of each collection: nothing but its definition is read."""
    index = collection.indexes[-1]
    with grown.connect(collection, "grown") as conn:
        conn.execute(f"REINDEX INDEX {index.name}")
        show_alone(conn, index)
        assert_clean(conn, index.name)
        grown.questions(conn, collection).assert_exact_answers(conn, index)


def test_index_of_an_unknown_version_is_refused_until_it_is_rebuilt(opened):
    collection = opened.collections[0]
    index = collection.indexes[0]
    with opened.connect(collection) as conn:
        path = opened.cluster.data / conn.execute("SELECT pg_relation_filepath(%s)", [index.name]).fetchone()[0]
        questions = opened.questions(conn, collection)
    content = bytearray(collection.pages()[index.name])
    put(content, META_VERSION_AT, UNKNOWN_VERSION, 2)
    for page in range(0, len(content), PAGE_BYTES):
        put(content, page + TAG_VERSION_AT, UNKNOWN_VERSION, 1)
    # Copies the files, under their names; nobody has opened the copy yet.
    opened.copy(collection, "unknown", "file_copy")
    [[oid]] = opened.cluster.execute("SELECT oid::text FROM pg_database WHERE datname = %s",
                                     [database(collection, "unknown")])
    (path.parent.parent / oid / path.name).write_bytes(content)
    with opened.connect(collection, "unknown") as conn:
        apply(conn, {"client_min_messages": "error", "ignore_checksum_failure": "on", **ONLY_INDEX})
        show_alone(conn, index)
        query, _ = questions.by_metric[index.metric][0]
        for statement in (collection.items.nearest_sql(index.metric, query), collection.items.insert(*NEW_IDS),
                          "VACUUM items", f"SELECT vekter_compact('{index.name}')",
                          f"SELECT vekter_index_stats('{index.name}')"):
            with pytest.raises(psycopg.errors.FeatureNotSupported) as refused:
                conn.execute(statement)
            assert f"format version {UNKNOWN_VERSION}" in refused.value.diag.message_primary
            assert "REINDEX" in refused.value.diag.message_hint
        assert conn.execute("SELECT * FROM vekter_check(%s)", [index.name]).fetchall() == [
            ("error", "meta page", f"format version {UNKNOWN_VERSION} is unknown")]
        conn.execute(f"REINDEX INDEX {index.name}")
        assert_clean(conn, index.name)
        questions.assert_exact_answers(conn, index)


def test_format_that_this_version_writes_is_stored(opened):
    """Who changes FORMAT_VERSION runs formats/make_collections.py."""
    with opened.connect(opened.collections[0]) as conn:
        conn.execute("CREATE TABLE new (embedding vector(3)); CREATE INDEX written ON new USING faiss (embedding)")
        [[version]] = conn.execute("SELECT format_version FROM vekter_index_stats('written')").fetchall()
    assert version in {collection.format_version for collection in COLLECTIONS}


def test_every_family_is_stored():
    """Each word of the factory strings that the engine's tests build (tests/engine/families.rs) is in a stored one."""
    def words(text: str) -> set[str]:
        return set(re.findall("[A-Za-z]+", text))

    source = (REPOSITORY / "tests/engine/families.rs").read_text()
    _, _, families = source.partition("FAMILIES: &[Family] = &[")
    built = words(" ".join(re.findall(r'"(.+?)"', families.partition("];")[0])))
    stored = words(" ".join(index.statement for collection in COLLECTIONS for index in collection.indexes))
    assert "Flat" in built and built - stored == set()
