"""The throw-away server: databases with a table, an index and queries in them, copies of those, pgbench, settling."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg

import data
from cluster import Cluster
from dataset import K, Dataset
from systems import PGVECTOR, Variant

# Checkpoints come when a copy of a database is made, so that no run meets one by chance
# and every run pays for full-page images.
SETTINGS = {
    "shared_buffers": "1GB",
    "maintenance_work_mem": "1GB",
    "checkpoint_timeout": "1h",
    "max_wal_size": "16GB",
    "autovacuum": "off",
    "jit": "off",
    "track_io_timing": "off",
    "max_parallel_workers_per_gather": "0",
}
SETTLE_TIMEOUT_S = 300
SETTLE_LOOK_S = 0.05
# A worker that was asked for is not seen until it has started, and another may follow it.
SETTLE_QUIET_S = 3

# The planner is told only what the benchmark is about: an exact sort may be cheaper for tables as small as some here.
SEARCH_SETTINGS = {"enable_seqscan": "off", "enable_sort": "off"}
NEAREST = f"SELECT id FROM items ORDER BY embedding <-> (SELECT embedding FROM queries WHERE id = :query) LIMIT {K}"


class Server:
    def __init__(self, dataset: Dataset, *, alone: bool = False, durable: bool = True):
        """`alone`: leave pgvector out, even where it is installed. `durable`: wait for the disk (fsync)."""
        self.dataset = dataset
        self.alone = alone
        self.cluster = Cluster(SETTINGS, name="bench", fsync=durable).init().start()
        self.templates: dict[tuple, str] = {}
        self.names = itertools.count(1)

    def close(self) -> None:
        self.cluster.destroy()

    def has_pgvector(self) -> bool:
        return not self.alone and self.version(PGVECTOR) is not None

    def version(self, extension: str) -> str | None:
        found = self.cluster.execute("SELECT default_version FROM pg_available_extensions WHERE name = %s", [extension])
        return found[0][0] if found else None

    # -- databases ----------------------------------------------------------------------------------------------

    def template(self, variant: Variant, rows: int, *, to_come: int = 0) -> str:
        """A database with `items` (the first `rows` rows and the index), `queries`, and `source`: the `to_come` rows
        after those, which inserts read, so that no client's work is in their time. Made once; to be copied."""
        key = (variant.extension, variant.index, rows, to_come)
        if key not in self.templates:
            name = f"template_{next(self.names)}"
            self.cluster.execute(f"CREATE DATABASE {name}")
            with self.connect(name, variant) as db:
                self._fill(db, variant, rows, to_come)
            self.templates[key] = name
        return self.templates[key]

    def _fill(self, db: psycopg.Connection, variant: Variant, rows: int, to_come: int) -> None:
        base, type_ = self.dataset.base, f"vector({self.dataset.dimensions})"
        db.execute(f"CREATE EXTENSION {variant.extension}")
        for table, first, vectors in (("items", 0, base[:rows]), ("queries", 0, self.dataset.queries),
                                      ("source", rows, base[rows:rows + to_come])):
            db.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, embedding {type_} NOT NULL)")
            data.copy_vectors(db, table, vectors, ids=np.arange(first, first + len(vectors)))
        if variant.index:
            db.execute(f"CREATE INDEX items_index ON items {variant.index}")
        db.execute("VACUUM (ANALYZE)")

    @contextmanager
    def copy(self, template: str) -> Iterator[str]:
        """Name of a fresh copy of a template; dropped afterwards."""
        name = f"run_{next(self.names)}"
        self.cluster.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        try:
            yield name
        finally:
            self.cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def connect(self, database: str, variant: Variant, **settings: object) -> psycopg.Connection:
        """An autocommit connection under the variant's settings and these."""
        return self.cluster.connect(database, options=options({**variant.settings, **settings}))

    def drop_templates(self) -> None:
        while self.templates:
            self.cluster.execute(f"DROP DATABASE {self.templates.popitem()[1]} WITH (FORCE)")

    # -- load ---------------------------------------------------------------------------------------------------

    def pgbench(self, database: str, variant: Variant, script: str, *arguments: object,
                **settings: object) -> float:
        """Run a script of prepared statements under the variant's settings and these; transactions per second."""
        path = self.script(script)
        output = self.cluster.tool("pgbench", "-n", "-M", "prepared", "-f", path, *arguments,
                                   self.address(database, variant, **settings))
        failed = re.search(r"number of failed transactions: ([1-9]\d*)", output)
        assert not failed, output
        # pgbench writes no rate where no transaction ended within its time.
        rate = re.search(r"tps = ([\d.]+)", output)
        return float(rate[1]) if rate else 0.0

    def script(self, text: str) -> Path:
        path = self.cluster.folder / f"script_{next(self.names)}.sql"
        path.write_text(text)
        path.chmod(0o644)
        return path

    def address(self, database: str, variant: Variant, **settings: object) -> str:
        return f"dbname={database} options='{options({**variant.settings, **settings})}'"

    def search_script(self) -> str:
        return f"\\set query random(0, {len(self.dataset.queries) - 1})\n{NEAREST};\n"

    # -- what came of it ----------------------------------------------------------------------------------------

    def recall(self, db: psycopg.Connection) -> float:
        """recall@K of all queries, by the index; wants `items` to be the whole base."""
        for name, value in SEARCH_SETTINGS.items():
            db.execute(f"SET {name} = {value}")
        found = db.execute(
            "SELECT array(SELECT i.id FROM items i ORDER BY i.embedding <-> q.embedding "
            f"LIMIT {K}) FROM queries q ORDER BY q.id").fetchall()
        return data.recall([ids for ids, in found], self.dataset.nearest)

    def settle(self, db: psycopg.Connection, variant: Variant) -> float:
        """Wait until vekter's worker has been away for some time; when the index changed last (time.monotonic())."""
        started = changed = seen = time.monotonic()
        if not variant.has_worker:
            return started
        before = self.shape(db)
        while time.monotonic() < started + SETTLE_TIMEOUT_S:
            working = db.execute("SELECT FROM pg_stat_activity WHERE datname = current_database() "
                                 "AND backend_type = 'vekter compactor'").rowcount
            now = self.shape(db)
            if now != before:
                before, changed = now, time.monotonic()
            if working or changed > seen:
                seen = time.monotonic()
            elif time.monotonic() > seen + SETTLE_QUIET_S:
                return changed
            time.sleep(SETTLE_LOOK_S)
        raise TimeoutError(f"vekter's worker did not come to an end within {SETTLE_TIMEOUT_S} s")

    def shape(self, db: psycopg.Connection) -> tuple[int, int, list[int]]:
        """(segments, rows in the delta, rows of each segment) of a faiss index, else zeros."""
        if not db.execute("SELECT FROM pg_class c JOIN pg_am a ON a.oid = relam AND amname = 'faiss' "
                          "WHERE relname = 'items_index'").rowcount:
            return 0, 0, []
        sizes = [rows for rows, in db.execute("SELECT rows FROM vekter_segments('items_index') ORDER BY rows DESC")]
        delta = db.execute("SELECT delta_rows FROM vekter_index_stats('items_index')").fetchone()[0]
        return len(sizes), delta, sizes


def options(settings: dict[str, object]) -> str:
    return " ".join(f"-c {name}={value}" for name, value in settings.items())

