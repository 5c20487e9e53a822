"""An index that is kept in shape while a test looks on: its sealing, its merges, and the worker that does them."""

import threading
import time
from contextlib import contextmanager

from oracle import assert_same_answer

WORKER = "vekter compactor"
# A page's 8192 bytes without its headers, and the head of an entry (src/index/format).
DELTA_PAGE_ROOM_BYTES, DELTA_ENTRY_HEAD_BYTES = 8096, 8
# src/index/compact/plan.rs and format/manifest.rs: how many segments of one tier there may be, and where tiers begin.
SEGMENTS_PER_TIER, SMALL_SEGMENT_ROWS, TIER_FACTOR = 3, 4096, 4


def stats(conn, columns="segments, delta_rows, dead_rows, rows_indexed", index="built"):
    """The row of vekter_index_stats, or its only column."""
    row = conn.execute(f"SELECT {columns} FROM vekter_index_stats('{index}')").fetchone()
    return row[0] if len(row) == 1 else row


def rows_within(limit_bytes, dimensions):
    """The most rows of a delta within its limit: the last page is never sealed."""
    per_page = max(1, DELTA_PAGE_ROOM_BYTES // (DELTA_ENTRY_HEAD_BYTES + 4 * dimensions))
    return (limit_bytes // 8192 + 1) * per_page


def most_segments(rows):
    """The most segments of an index of so many rows that has been compacted."""
    tiers, tier_rows = 1, SMALL_SEGMENT_ROWS
    while tier_rows <= rows:
        tiers, tier_rows = tiers + 1, tier_rows * TIER_FACTOR
    return tiers * SEGMENTS_PER_TIER


def wait_until(condition, what, timeout_s=120):
    """Polls until the condition holds; its value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s for {what}")
        time.sleep(0.02)
    return value


def wait_for_end(conn, pid):
    """Waits until a session is over: it has removed its temporary tables by then."""
    wait_until(lambda: not conn.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).rowcount,
               f"process {pid} to end")


# Who is about to connect has a snapshot and no row in pg_stat_activity yet, but a lock on its transaction.
WHO_IS_AS_OLD = """
    SELECT FROM pg_locks LEFT JOIN pg_stat_activity AS a USING (pid) WHERE locktype = 'virtualxid'
    AND pid <> pg_backend_pid()
    AND (a.pid IS NULL OR backend_xid::text::bigint <= %(xid)s OR backend_xmin::text::bigint <= %(xid)s)"""


def vacuum_dead_rows(conn, table="items", options="", timeout_s=60):
    """VACUUM that can remove every row that is dead by now, and retire every page of the index that is garbage.

    PostgreSQL keeps what a snapshot may see, and every process that starts has one for a moment, as has a worker that
    looks something up in the catalogue.
    """
    xid, = conn.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
    wait_until(lambda: not conn.execute(WHO_IS_AS_OLD, {"xid": xid}).rowcount,
               f"transactions up to {xid}, and all who may see them run, to end", timeout_s)
    conn.execute(f"VACUUM {options} {table}")


def workers(conn):
    """(pid, what it says it does) of each worker in this database."""
    return conn.execute("SELECT pid, query FROM pg_stat_activity "
                        f"WHERE backend_type = '{WORKER}' AND datname = current_database()").fetchall()


def wait_for_rest(conn, timeout_s=180):
    """Waits until no worker is at work, nor one on its way: asked for, it takes a moment to show."""
    quiet_looks = 0

    def is_at_rest():
        nonlocal quiet_looks
        quiet_looks = 0 if workers(conn) else quiet_looks + 1
        return quiet_looks > 15

    wait_until(is_at_rest, "the worker to have nothing left to do", timeout_s)


def wait_for_seal(conn, limit_bytes, dimensions, index="built"):
    """Waits until the delta is within its limit."""
    most = rows_within(limit_bytes, dimensions)
    wait_until(lambda: stats(conn, "delta_rows", index) <= most, f"the delta to have at most {most} rows")


def complaints(cluster, since):
    """Lines of the server's log, from a length of it on, in which a worker complains."""
    lines = cluster.log_text()[since:].splitlines()
    return [line for line in lines if f"] {WORKER} " in line
            and any(level in line for level in ("WARNING:", "ERROR:", "FATAL:", "PANIC:"))]


@contextmanager
def meanwhile(cluster, database, *works):
    """Repeats each function in a thread, with a connection of its own, while a block runs; their errors are raised.

    Each has run at least once, start to end, when the block ends.
    """
    stop, failures, rounds = threading.Event(), [], [0] * len(works)

    def repeat(at, work):
        try:
            with cluster.connect(database) as conn:
                while not stop.is_set() or not rounds[at]:
                    work(conn)
                    rounds[at] += 1
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=repeat, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(180)
    assert not any(thread.is_alive() for thread in threads), "a session does not come to an end"
    if failures:
        raise failures[0]


def search_in_one_snapshot(queries, table="items", index="built", metric="l2", limit=20):
    """A function for `meanwhile`: index and sequential scan agree in one snapshot."""
    def search(conn):
        for query in queries:
            conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            assert_same_answer(conn, table, query, limit=limit, index=index, metric=metric)
            conn.execute("COMMIT")
    return search
