"""Long builds: progress that can be watched, cancel in every phase, memory checked before it is spent."""

import shutil
import threading
import time

import psycopg
import pytest

from data import clustered, copy_vectors
from oracle import ONLY_INDEX, apply, assert_same_answer, nearest_sql, time_limit
from upkeep import wait_for_end

ROWS, DIMENSIONS = 170_000, 32
# Generous: the promise is one second, on a machine that does nothing else.
CANCEL_LIMIT_S = 4
# Training takes several seconds for the first, adding for the second.
LONG_TRAINING, LONG_ADDING = "IVF4096,Flat", "HNSW48"


@pytest.fixture(scope="module")
def library(new_module_cluster):
    """A cluster with a table large enough that every phase of a build takes a while."""
    cluster = new_module_cluster({"maintenance_work_mem": "1GB", "max_parallel_maintenance_workers": 1})
    with cluster.connect() as conn:
        conn.execute("CREATE EXTENSION vekter")
        conn.execute(f"CREATE UNLOGGED TABLE items (id bigint, embedding vector({DIMENSIONS}))")
        copy_vectors(conn, "items", clustered(ROWS, DIMENSIONS, seed=61))
        conn.execute("CREATE UNLOGGED TABLE few AS SELECT * FROM items LIMIT 1000")
        conn.execute("ANALYZE")
    return cluster


class Build:
    """CREATE INDEX on `items` in a thread, watched from another connection."""

    def __init__(self, cluster, factory):
        self.builder, self.watcher = cluster.connect(), cluster.connect()
        self.failure, self.progress = None, []
        self.thread = threading.Thread(target=self._run, args=(factory,))
        self.thread.start()

    def _run(self, factory):
        try:
            self.builder.execute(f"CREATE INDEX built ON items USING faiss (embedding) WITH (factory = '{factory}')")
        except psycopg.Error as failure:
            self.failure = failure

    def watch(self, until=None):
        """Notes the progress until the phase whose name holds `until`, or the end; whether that phase came."""
        sql = ("SELECT phase, blocks_done, blocks_total, tuples_done, tuples_total FROM pg_stat_progress_create_index "
               "WHERE pid = %s")
        while self.thread.is_alive():
            row = self.watcher.execute(sql, [self.builder.info.backend_pid]).fetchone()
            if row:
                self.progress.append(row)
                if until and until in row[0]:
                    return True
            time.sleep(0.005)
        return False

    def cancel(self, function="pg_cancel_backend"):
        """Cancels the build; the seconds it took to end."""
        started = time.monotonic()
        self.watcher.execute(f"SELECT {function}(%s)", [self.builder.info.backend_pid])
        self.thread.join(60)
        assert not self.thread.is_alive(), "the build did not end"
        return time.monotonic() - started

    def close(self):
        self.thread.join(120)
        self.builder.close()
        self.watcher.close()

    def phases(self):
        return list(dict.fromkeys(row[0] for row in self.progress))


def remains(cluster):
    """Everything that a build could leave behind: catalogue rows, relation files, temporary and cache files."""
    cluster.execute("CHECKPOINT")
    relations = cluster.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1")
    folder = cluster.execute("SELECT 'base/' || oid FROM pg_database WHERE datname = current_database()")[0][0]
    files = {p.name for p in (cluster.data / folder).iterdir() if p.name.split("_")[0].split(".")[0].isdigit()
             and p.stat().st_size > 0 and int(p.name.split("_")[0].split(".")[0]) >= 16384}
    temporary = {p for p in cluster.data.rglob("pgsql_tmp*/**/*") if p.is_file()}
    return relations, files, temporary


@pytest.fixture
def clean(library):
    """The library, with an empty cache; asserts afterwards that a test left nothing of its indexes but cache files."""
    shutil.rmtree(library.data / "pgsql_tmp_vekter", ignore_errors=True)
    before = remains(library)
    yield library
    shutil.rmtree(library.data / "pgsql_tmp_vekter", ignore_errors=True)
    assert remains(library) == before


@pytest.mark.parametrize("factory, phase", [(LONG_TRAINING, "training"), (LONG_ADDING, "loading tuples")])
def test_cancel_ends_the_build_soon_and_leaves_nothing(clean, factory, phase):
    before = remains(clean)
    build = Build(clean, factory)
    assert build.watch(until=phase), f"no phase '{phase}' among {build.phases()}"
    time.sleep(0.3)
    took = build.cancel()
    assert isinstance(build.failure, psycopg.errors.QueryCanceled), build.failure
    assert took < CANCEL_LIMIT_S
    assert remains(clean) == before
    # The same backend works on: it answers, and builds.
    build.builder.execute("CREATE INDEX small ON few USING faiss (embedding) WITH (factory = 'IVF16,Flat')")
    with build.builder.transaction():
        build.builder.execute("SET LOCAL vekter.nprobe = 16")
        assert_same_answer(build.builder, "few", [0.5] * DIMENSIONS, index="small")
    build.builder.execute("DROP INDEX small")
    build.builder.execute("CREATE INDEX small ON few USING faiss (embedding)")
    build.builder.execute("DROP INDEX small")
    build.close()


def test_terminated_build_leaves_nothing(clean):
    before = remains(clean)
    build = Build(clean, LONG_TRAINING)
    assert build.watch(until="training")
    assert build.cancel("pg_terminate_backend") < CANCEL_LIMIT_S
    assert isinstance(build.failure, psycopg.OperationalError)
    wait_for_end(build.watcher, build.builder.info.backend_pid)
    assert remains(clean) == before
    assert clean.execute("SELECT 1") == [(1,)]
    build.close()


@pytest.mark.parametrize("factory", (LONG_TRAINING, LONG_ADDING))
@pytest.mark.parametrize("timeout_ms", (30, 150, 400, 1100))
def test_statement_timeout_at_any_moment_leaves_nothing(clean, factory, timeout_ms):
    before = remains(clean)
    with clean.connect() as conn:
        started = time.monotonic()
        with time_limit(conn, timeout_ms), pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute(f"CREATE INDEX built ON items USING faiss (embedding) WITH (factory = '{factory}')")
        assert time.monotonic() - started < timeout_ms / 1000 + CANCEL_LIMIT_S
        assert remains(clean) == before
        assert conn.execute("SELECT count(*) FROM few").fetchone() == (1000,)


def test_progress_shows_the_phases_and_how_far_they_are(clean):
    build = Build(clean, "IVF256,Flat")
    build.watch()
    build.close()
    clean.execute("DROP INDEX built")
    assert build.failure is None
    phases = build.phases()
    assert all(p == "initializing" or p.startswith("building index") for p in phases), phases
    for wanted in ("sampling rows", "training", "loading tuples", "writing segment"):
        assert any(p.startswith("building index: ") and wanted in p for p in phases), phases
    done = [row[3] for row in build.progress if "loading" in row[0]]
    assert done == sorted(done) and done[-1] > 0, "tuples_done never goes back and says how far it is"
    beyond = [row for row in build.progress if row[4] and row[3] > row[4]]
    assert not beyond, f"more tuples are done than there are: {beyond[-1]}"


def test_progress_row_is_gone_after_the_build(clean):
    with clean.connect() as conn:
        conn.execute("CREATE INDEX small ON few USING faiss (embedding)")
        assert conn.execute("SELECT count(*) FROM pg_stat_progress_create_index").fetchone() == (0,)
        conn.execute("DROP INDEX small")


def test_long_search_is_cancelled_soon(clean):
    with clean.connect() as conn:
        conn.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
        apply(conn, ONLY_INDEX)
        conn.execute("SET statement_timeout = '500ms'")
        started = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("SELECT count(*) FROM few q CROSS JOIN LATERAL (SELECT id FROM items ORDER BY embedding <-> "
                         "q.embedding LIMIT 100) n")
        assert time.monotonic() - started < 0.5 + CANCEL_LIMIT_S
        conn.execute("RESET statement_timeout")
        assert len(conn.execute(nearest_sql("items", [0] * DIMENSIONS, 10)).fetchall()) == 10
        conn.execute("DROP INDEX built")


def test_scan_of_a_table_under_build_is_possible(clean):
    """CREATE INDEX blocks writers, never readers."""
    build = Build(clean, LONG_TRAINING)
    assert build.watch(until="training")
    build.watcher.execute("SET statement_timeout = '20s'")
    rows = build.watcher.execute(nearest_sql("items", [0] * DIMENSIONS, 3)).fetchall()
    assert len(rows) == 3 and build.thread.is_alive()
    build.cancel()
    build.close()


def test_memory_is_checked_before_it_is_spent(clean):
    """4,000,000 rows of 16,000 dimensions are 256 GB: refused at once, and not after the first hundred of them."""
    with clean.connect() as conn:
        conn.execute("CREATE UNLOGGED TABLE many AS SELECT i FROM generate_series(1, 4000000) i")
        conn.execute("ANALYZE many")
        conn.execute("CREATE FUNCTION wide(i integer) RETURNS vector IMMUTABLE LANGUAGE plpgsql "
                     "SET search_path = public AS $$ BEGIN "
                     "PERFORM pg_sleep(0.001); RETURN array_fill(i::real, ARRAY[16000])::vector; END $$")
        conn.execute("SET statement_timeout = '30s'")
        with pytest.raises(psycopg.Error, match="memory") as refusal:
            conn.execute("CREATE INDEX ON many USING faiss ((wide(i)::vector(16000))) WITH (factory = 'HNSW32')")
        assert refusal.value.sqlstate in ("53200", "53000", "54000"), refusal.value
        assert refusal.value.diag.message_hint
        conn.execute("DROP TABLE many")
        conn.execute("DROP FUNCTION wide")


def test_parallel_maintenance_workers_zero_still_builds(clean):
    with clean.connect() as conn:
        conn.execute("SET max_parallel_maintenance_workers = 0")
        conn.execute("CREATE INDEX small ON few USING faiss (embedding) WITH (factory = 'HNSW16')")
        with conn.transaction():
            conn.execute("SET LOCAL vekter.ef_search = 1000")
            assert_same_answer(conn, "few", [0.5] * DIMENSIONS, index="small")
        conn.execute("DROP INDEX small")


def test_too_few_rows_to_train_are_said_and_the_index_is_exact_until_there_are_enough(db):
    said = []
    db.add_notice_handler(lambda notice: said.append((notice.severity, notice.message_primary, notice.message_detail)))
    vectors = clustered(600, 4, seed=77)

    def reason():
        return db.execute("SELECT factory, reason FROM vekter_index_stats('built')").fetchone()

    def assert_said(rows):
        [(severity, message, detail)] = said
        assert severity == "NOTICE" and message == 'index "built" has too few rows to train "IVF501,Flat"'
        assert detail.startswith(f"Training takes 501 rows, and there are {rows}.") and "REINDEX" in detail
        said.clear()

    db.execute("CREATE TABLE few (id bigint, embedding vector(4)) WITH (autovacuum_enabled = off)")
    db.execute("CREATE INDEX built ON few USING faiss (embedding) WITH (factory = 'IVF501,Flat')")
    assert said == [] and reason() == ("IVF501,Flat", None), "an empty index lacks nothing"
    copy_vectors(db, "few", vectors[:1])
    db.execute("REINDEX INDEX built")
    assert_said(1)
    copy_vectors(db, "few", vectors[1:500], ids=range(1, 500))
    db.execute("REINDEX INDEX built")
    assert_said(500)
    assert reason() == ("Flat", "to train IVF501,Flat takes 501 rows, and there are 500: they are scanned until a merge or "
                                "REINDEX finds enough")
    assert_same_answer(db, "few", vectors[7], limit=50, index="built")
    copy_vectors(db, "few", vectors[500:], ids=range(500, 600))
    assert reason() == ("Flat", "rows are scanned until a merge or REINDEX trains IVF501,Flat")
    db.execute("SELECT vekter_compact('built')")
    assert reason() == ("IVF501,Flat", None)
    db.execute("REINDEX INDEX built")
    assert said == [] and reason() == ("IVF501,Flat", None)
    db.execute("CREATE INDEX graph ON few USING faiss (embedding) WITH (factory = 'HNSW8')")
    db.execute("CREATE INDEX chosen ON few USING faiss (embedding)")
    assert said == []
