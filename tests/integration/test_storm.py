"""Everything at once, for a while: eight sessions on one table, and every search equals the scan of its own snapshot.

VEKTER_STORM_S says how long each storm lasts, in seconds (`make stress`: 600).
"""

import collections
import json
import os
import random
import threading
import time

import numpy as np
import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from oracle import ONLY_INDEX, apply, assert_clean, assert_nearest, indexes_used, nearest_sql, without_index
from upkeep import vacuum_dead_rows

STORM_S = float(os.environ.get("VEKTER_STORM_S", "15"))
DIMENSIONS = 16
VECTORS = clustered(5_000, DIMENSIONS, seed=301)
MOST_ROWS = 4_000
# Exact: every list of an IVF index is scanned.
EVERY_LIST = {"vekter.nprobe": 100_000}
# Metric of each index, so that the operator chooses the index. `second` comes and goes.
INDEXES = {"first": ("l2", "Flat"), "second": ("cosine", "IVF8,Flat")}


# What PostgreSQL says of itself where the machine has no time for a new process.
BUSY = ("autovacuum worker took too long to start", "autovacuum worker started without a worker entry")


class Storm:
    """Sessions that each repeat something at random until time is up. An error that is not enumerated ends the storm.

    `done` counts what was done. `ALLOWED`: errors that are right answers to what the others do.
    """

    ALLOWED = {
        # `second` was dropped before the statement or while it waited for the lock, or is still being built; or a
        # concurrent rebuild has the index, which vekter_compact() does not wait for.
        "compact": (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedObject,
                    psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.LockNotAvailable),
    }

    def __init__(self, cluster, seconds):
        self.cluster, self.deadline = cluster, time.monotonic() + seconds
        self.failures, self.done, self.rebuilds = [], collections.Counter(), 0
        self.next_id = 1_000_000
        self.id_lock = threading.Lock()

    def run(self, *sessions):
        threads = [threading.Thread(target=self.session, args=(work, seed)) for seed, work in enumerate(sessions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(STORM_S + 120)
        assert not any(thread.is_alive() for thread in threads), "a session waits for ever"
        if self.failures:
            raise self.failures[0]

    def session(self, work, seed):
        generator = random.Random(seed)
        try:
            with self.cluster.connect() as conn:
                conn.execute("SET lock_timeout = '60s'")
                while time.monotonic() < self.deadline and not self.failures:
                    work(self, conn, generator)
        except Exception as failure:
            self.failures.append(failure)

    def execute(self, conn, what, sql, parameters=None):
        try:
            conn.execute(sql, parameters)
            self.done[what] += 1
        except self.ALLOWED.get(what, ()):
            self.done[f"{what}, refused"] += 1

    def new_ids(self, count):
        with self.id_lock:
            self.next_id += count
            return range(self.next_id - count, self.next_id)


# -- sessions ---------------------------------------------------------------------------------------------------------

def write(storm, conn, generator):
    """Inserts singly and in pieces, updates, deletes, and takes some of it back."""
    keep = generator.random() < 0.8
    conn.execute("BEGIN")
    for _ in range(generator.randint(1, 5)):
        some = generator.randrange(7)
        ids = storm.new_ids(generator.choice((1, 1, 20, 200)))
        at = generator.randrange(len(VECTORS) - len(ids))
        point = to_text(VECTORS[at])
        if some <= 2:
            copy_vectors(conn, "items", VECTORS[at:at + len(ids)], ids=ids)
            storm.done["insert"] += len(ids)
        elif some == 3:
            # Others' rows too; never one that another writer has changed and not committed, so nobody waits.
            storm.execute(conn, "update", "UPDATE items SET embedding = %s WHERE id IN (SELECT id FROM items WHERE "
                          "id %% 50 = %s LIMIT 20 FOR UPDATE SKIP LOCKED)", [point, generator.randrange(50)])
        elif some == 4:
            storm.execute(conn, "hot update", "UPDATE items SET note = note + 1 WHERE id IN (SELECT id FROM items "
                          "WHERE id %% 50 = %s LIMIT 20 FOR UPDATE SKIP LOCKED)", [generator.randrange(50)])
        elif some == 5:
            conn.execute("SAVEPOINT s")
            storm.execute(conn, "insert", "INSERT INTO items VALUES (%s, %s)", [ids[0], point])
            conn.execute("ROLLBACK TO s")
        else:
            storm.execute(conn, "delete", "DELETE FROM items WHERE id IN (SELECT id FROM items WHERE id %% 20 = %s "
                          "LIMIT 150 FOR UPDATE SKIP LOCKED)", [generator.randrange(20)])
    conn.execute("COMMIT" if keep else "ROLLBACK")
    # The scan that judges takes as long as there are rows.
    storm.execute(conn, "delete", "DELETE FROM items WHERE id IN (SELECT id FROM items ORDER BY id OFFSET %s "
                  "FOR UPDATE SKIP LOCKED)", [MOST_ROWS])


def search(storm, conn, generator):
    """Index and scan, in one snapshot."""
    metric = generator.choice([metric for metric, _ in INDEXES.values()])
    limit = generator.choice((1, 10, 50, None))
    query = VECTORS[generator.randrange(len(VECTORS))] + np.float32(generator.choice((0, 0.01, 1)))
    compare(storm, conn, metric, limit, query)


def compare(storm, conn, metric, limit, query):
    sql = nearest_sql("items", query, limit, metric)
    conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    apply(conn, EVERY_LIST | ONLY_INDEX)
    if indexes_used(conn, sql):
        found = conn.execute(sql).fetchall()
        apply(conn, {"enable_seqscan": "on", "enable_sort": "on"})
        every_row = without_index(conn, nearest_sql("items", query, None, metric))
        try:
            assert_nearest(found, every_row, limit)
        except AssertionError as failure:
            failure.add_note(circumstances(conn, sql, metric, found, every_row))
            raise
        storm.done[f"search {metric}"] += 1
    else:
        storm.done[f"search {metric}, no index"] += 1
    conn.execute("COMMIT")


def circumstances(conn, sql, metric, found, every_row):
    """What tells a lost row from one that a search did not reach; in the transaction of the search."""
    index = next(name for name, (its_metric, _) in INDEXES.items() if its_metric == metric)
    farthest, ids = found[-1][1] if found else None, {id for id, _ in found}
    missing = [id for id, distance in every_row if id not in ids and farthest is not None and distance < farthest]
    apply(conn, EVERY_LIST | ONLY_INDEX)
    again = conn.execute(sql).fetchall()
    whole = conn.execute(nearest_sql("items", json.loads(sql.split("'")[1]), None, metric)).fetchall()
    places = conn.execute("SELECT id, ctid, xmin, xmax FROM items WHERE id = ANY (%s)", [missing]).fetchall()
    by_again, by_whole = (sorted(set(missing) & {id for id, _ in rows}) for rows in (again, whole))
    lines = [f"{index}; missing: {places}; found by the same search again: {by_again}, by one of all rows: {by_whole}"]
    for function in ("vekter_segments(%s)", "vekter_check(%s, heap => true)"):
        try:
            with conn.transaction():
                lines += map(str, conn.execute(f"SELECT * FROM {function}", [index]))
        except psycopg.Error as error:
            lines.append(str(error))
    return "\n".join(lines)


def vacuum(storm, conn, generator):
    # Not with ANALYZE, which deadlocks with CREATE INDEX CONCURRENTLY whatever the index is.
    how = generator.choice(("VACUUM items", "VACUUM (INDEX_CLEANUP ON) items", "VACUUM (FREEZE) items"))
    storm.execute(conn, "vacuum", how)
    if generator.random() < 0.5:
        storm.execute(conn, "compact", f"SELECT vekter_compact('{generator.choice(list(INDEXES))}')")


def rebuild(storm, conn, generator):
    """`second` comes and goes, both are rebuilt, with and without CONCURRENTLY. One step at each call, in turn."""
    step = storm.rebuilds % 7
    storm.rebuilds += 1
    if step in (0, 4):
        concurrently = "CONCURRENTLY" if step == 0 else ""
        storm.execute(conn, f"drop {concurrently}", f"DROP INDEX {concurrently} IF EXISTS second")
    elif step in (1, 5):
        create(storm, conn, "second", "CONCURRENTLY" if step == 1 else "")
    else:
        concurrently, index = {2: ("CONCURRENTLY", "first"), 3: ("", "first"), 6: ("CONCURRENTLY", "second")}[step]
        storm.execute(conn, f"reindex {concurrently}", f"REINDEX INDEX {concurrently} {index}")
    # What a concurrent build leaves when it fails, by PostgreSQL's rules.
    for [index] in conn.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid AND indrelid = "
                                "'items'::regclass").fetchall():
        conn.execute(f"DROP INDEX IF EXISTS {index}")
    time.sleep(generator.random() / 5)


def create(storm, conn, index, concurrently=""):
    metric, factory = INDEXES[index]
    storm.execute(conn, f"create {concurrently}", f"CREATE INDEX {concurrently} IF NOT EXISTS {index} ON items "
                  f"USING faiss (embedding vector_{metric}_ops) WITH (factory = '{factory}')")


SESSIONS = (write, write, write, search, search, search, vacuum, rebuild)


# -- before and after -------------------------------------------------------------------------------------------------

def prepare(cluster):
    cluster.execute("CREATE EXTENSION vekter")
    # Autovacuum is left on: it is one of the sessions.
    cluster.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS}), note int DEFAULT 0) "
                    "WITH (fillfactor = 70)")
    storm = Storm(cluster, STORM_S)
    with cluster.connect() as conn:
        copy_vectors(conn, "items", VECTORS[:2_000])
        for index in INDEXES:
            create(storm, conn, index)
    return storm


def assert_all_right(storm):
    with storm.cluster.connect() as conn:
        create(storm, conn, "second")
        for metric, _ in INDEXES.values():
            for limit in (10, None):
                compare(storm, conn, metric, limit, VECTORS[0])
            assert not storm.done[f"search {metric}, no index"] or metric == "cosine"
        for index in INDEXES:
            # A statement that failed leaves pages to VACUUM.
            assert_clean(conn, index, orphans_allowed=True)
        vacuum_dead_rows(conn, options="(INDEX_CLEANUP ON)")
        for index in INDEXES:
            assert_clean(conn, index)
    print(dict(sorted(storm.done.items())))
    assert [line for line in storm.cluster.log_text().splitlines()
            if " WARNING: " in line and not any(known in line for known in BUSY)] == []
    for what in ("insert", "update", "hot update", "delete", "search l2", "search cosine", "vacuum", "compact",
                 "create CONCURRENTLY", "reindex CONCURRENTLY", "reindex ", "drop CONCURRENTLY", "drop "):
        assert storm.done[what] > 0, f"the storm had no '{what}' to speak of"


# -- tests ------------------------------------------------------------------------------------------------------------

@pytest.fixture
def node(new_cluster):
    return new_cluster({"autovacuum_naptime": "1s", "vekter.delta_limit": "64kB", "shared_buffers": "32MB", "max_wal_size": "4GB",
                        "wal_keep_size": "2GB", "wal_consistency_checking": "all",
                        "max_standby_streaming_delay": "-1"})


def test_eight_sessions_at_once_agree_with_the_table(node):
    storm = prepare(node)
    storm.run(*SESSIONS)
    assert_all_right(storm)


def test_standby_of_a_storm_ends_up_the_same(new_cluster, node):
    """Replay stops with an error where a page is not what its WAL makes of it (wal_consistency_checking).

    Readers on the standby go on meanwhile. They compare nothing: a snapshot older than a REINDEX may miss rows on a
    standby, with any kind of index.
    """
    storm = prepare(node)
    standby = new_cluster.standby_of(node)
    # Replay with its checks is slower than writing: a commit waits for it.
    node.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    node.execute("ALTER SYSTEM SET synchronous_commit = 'remote_apply'")
    node.execute("SELECT pg_reload_conf()")

    def read_standby(storm, _, generator):
        with standby.connect() as conn:
            apply(conn, EVERY_LIST | ONLY_INDEX)
            for _ in range(50):
                limit = generator.choice((10, None))
                rows = conn.execute(nearest_sql("items", VECTORS[generator.randrange(2_000)], limit)).fetchall()
                assert len(rows) == len(set(id for id, _ in rows)), "rows came twice"
                storm.done["search on the standby"] += 1

    storm.run(write, write, write, search, read_standby, read_standby, vacuum, rebuild)
    assert_all_right(storm)
    standby.wait_for_replay(node)
    seen = Storm(standby, 0)
    with standby.connect() as reader, node.connect() as conn:
        for metric, _ in INDEXES.values():
            for query in VECTORS[:5]:
                for limit in (10, None):
                    compare(seen, reader, metric, limit, query)
        assert seen.done["search l2"] == seen.done["search cosine"] == 10
        everything = "SELECT id, embedding::text, note FROM items ORDER BY id"
        assert reader.execute(everything).fetchall() == conn.execute(everything).fetchall()
        for index in INDEXES:
            assert_clean(reader, index)
