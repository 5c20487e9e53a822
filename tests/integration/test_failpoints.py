"""At every step of building, inserting, VACUUM and materialising: an error, a cancel, the end of the session.

Each failpoint of src/failpoint.rs is a case, while other sessions write and search.
"""

import threading
import time

import psycopg
import pytest

import failpoints
from failpoints import Others, arm, assert_well, live, live_until_it_ends, living  # noqa: F401

CANCEL_LIMIT_S = 10
# Steps under a buffer lock, where PostgreSQL takes no interrupts: they end the statement a little later, if at all.
UNDER_LOCK = {"insert.before_append", "insert.appended", "insert.page_allocated", "insert.before_link",
              "insert.linked", "insert.overflow_page_written", "vacuum.before_unlink", "vacuum.page_unlinked",
              "blob.page_allocated", "blob.page_written", "publish.before_root", "publish.root_written",
              "reclaim.retired"}


@pytest.fixture(scope="module")
def cluster(new_module_cluster, failpoint_bindir):
    return new_module_cluster(bindir=failpoint_bindir)


@pytest.mark.parametrize("name", failpoints.names())
def test_error_cancel_and_end_of_a_session_leave_nothing_and_harm_no_other(living, name):
    cluster, database, conn = living
    with Others(cluster, database) as others:
        fail(cluster, conn, name)
        interrupt(cluster, conn, name, "pg_cancel_backend")
        with cluster.connect(database) as another:
            failpoints.apply(another, failpoints.OWN_COMPACTION)
            interrupt(cluster, another, name, "pg_terminate_backend")
    assert_well(cluster, database, others)


def fail(cluster, conn, name):
    """An error each time that a round comes to the step; the same session goes on afterwards."""
    # Each time: what a statement does for the index's upkeep may fail without it.
    arm(conn, f"{name}=error")
    end = live_until_it_ends(conn, cluster)
    assert "failpoint" in str(end), f"{name}: {end}"
    arm(conn, "")
    live(conn, cluster)


def interrupt(cluster, conn, name, function):
    """A session that waits at the step is cancelled or ended; one that was cancelled goes on afterwards."""
    ends = []
    arm(conn, f"{name}=wait@1")
    thread = threading.Thread(target=lambda: ends.append(live_until_it_ends(conn, cluster)))
    thread.start()
    waiting = failpoints.wait_for_arrival(cluster, name, thread.is_alive)
    cluster.execute(f"SELECT {function}(%s)", [conn.info.backend_pid])
    if name in UNDER_LOCK:
        # Some are reached without a lock too, and the session has ended then.
        waiting.unlink(missing_ok=True)
    started = time.monotonic()
    thread.join(60)
    assert not thread.is_alive(), "the session did not end"
    [end] = ends
    if function == "pg_terminate_backend":
        assert isinstance(end, psycopg.OperationalError), end
    elif name not in UNDER_LOCK:
        assert isinstance(end, psycopg.errors.QueryCanceled), end
        assert time.monotonic() - started < CANCEL_LIMIT_S
    if function == "pg_cancel_backend":
        arm(conn, "")
        live(conn, cluster)


def test_no_error_above_left_a_lock_or_a_buffer_behind(cluster):
    """PostgreSQL's own complaints at the end of a transaction. Runs last in this file."""
    complaints = ("leak", "you don't own a lock", "still referenced", "PANIC")
    assert [line for line in cluster.log_text().splitlines() if any(c in line for c in complaints)] == []
