"""FAISS's threads keep out of PostgreSQL's way: none in the postmaster, none in a search, none that takes a signal."""

import os
from pathlib import Path

import pytest

from data import clustered, copy_vectors
from oracle import ONLY_INDEX, apply, nearest_sql

DIMENSIONS = 32
VECTORS = clustered(20_010, DIMENSIONS, seed=161)
# Signals 1 to 31 but SIGKILL (9) and SIGSTOP (19), which nobody can block; faults of the thread's own do not count.
FAULTS = {4, 5, 6, 7, 8, 11, 16}
BLOCKABLE = {n for n in range(1, 32)} - {9, 19} - FAULTS


def threads(pid):
    """Ids of a process's threads other than its main one."""
    return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if int(task.name) != pid]


def blocked_signals(pid, thread):
    status = Path(f"/proc/{pid}/task/{thread}/status").read_text()
    mask = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:")), 16)
    return {n for n in range(1, 32) if mask >> (n - 1) & 1}


@pytest.fixture(scope="module")
def library(new_module_cluster):
    """A server that preloads the library, with a table large enough for threads to be worth it."""
    cluster = new_module_cluster({"shared_preload_libraries": "vekter", "max_parallel_maintenance_workers": 3})
    with cluster.connect() as conn:
        conn.execute("CREATE EXTENSION vekter")
        conn.execute(f"CREATE UNLOGGED TABLE items (id bigint, embedding vector({DIMENSIONS}))")
        copy_vectors(conn, "items", VECTORS[:20_000])
    return cluster


def test_postmaster_that_preloads_the_library_has_one_thread(library):
    assert threads(library.postmaster.pid) == []


@pytest.mark.parametrize("factory", ("HNSW16", "IVF128,Flat", "IVF128,PQ8x4fs,RFlat"))
def test_threads_of_a_build_block_every_signal(library, factory):
    with library.connect() as conn:
        seen = set()
        conn.execute(f"CREATE INDEX built ON items USING faiss (embedding) WITH (factory = '{factory}')")
        pid = conn.info.backend_pid
        for thread in threads(pid):
            seen.add(thread)
            assert BLOCKABLE <= blocked_signals(pid, thread), BLOCKABLE - blocked_signals(pid, thread)
        # The counter-case: the backend's main thread takes them.
        assert not BLOCKABLE <= blocked_signals(pid, pid)
        conn.execute("DROP INDEX built")


def test_searches_start_no_thread(library):
    library.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF128,Flat')")
    with library.connect() as conn:
        apply(conn, ONLY_INDEX)
        conn.execute("SET vekter.nprobe = 128")
        for query in VECTORS[-10:]:
            assert len(conn.execute(nearest_sql("items", query, 500)).fetchall()) == 500
        assert threads(conn.info.backend_pid) == []
    library.execute("DROP INDEX built")


def test_new_backends_work_after_builds_in_others(library):
    """fork() after threads ran elsewhere: a backend that builds, ends, and the next one that builds again."""
    for _ in range(3):
        with library.connect() as conn:
            conn.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF128,Flat')")
            conn.execute("DROP INDEX built")


def tasks(account):
    """Processes and threads of a user, which a limit of one process counts (setrlimit(2), RLIMIT_NPROC)."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found += len(list((process / "task").iterdir())) if process.stat().st_uid == account else 0
        except OSError:
            pass  # Gone.
    return found


@pytest.mark.serial
@pytest.mark.parametrize("spare", (0, 1, 2, 3, 4, 6))
def test_a_build_makes_do_with_the_threads_that_the_system_gives(library, spare):
    """OpenMP's runtime ends a process that it cannot give a thread of a team."""
    account = library.account.pw_uid if library.account else os.getuid()
    with library.connect() as conn:
        library.limit(conn.info.backend_pid, "nproc", tasks(account) + spare)
        for factory in ("IVF128,Flat", "HNSW16"):
            conn.execute(f"CREATE INDEX built ON items USING faiss (embedding) WITH (factory = '{factory}')")
            conn.execute("DROP INDEX built")
