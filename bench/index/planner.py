"""What the planner chooses for a filtered search, beside every plan that it could have chosen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import psycopg

import data
from report import Report, median, number
from server import Server
from systems import NO_INDEX

TITLE = "The planner's choice"
PART_UNITS = 10_000
ENOUGH = 1.5
# What is left of PostgreSQL's plans when these are off. The search has `enable_indexscan` on only where it is meant.
PLANS = {
    "search": {"enable_seqscan": "off", "enable_sort": "off"},
    "bitmap + sort": {"enable_indexscan": "off", "enable_seqscan": "off"},
    "table + sort": {"enable_indexscan": "off", "enable_bitmapscan": "off"},
}


@dataclass(frozen=True)
class Cell:
    condition: str
    share: float
    limit: int
    chosen: str
    milliseconds: dict[str, float]

    @property
    def regret(self) -> float:
        """The chosen plan's time by the fastest one's."""
        return self.milliseconds["chosen"] / min(self.milliseconds.values())


def run(server: Server, report: Report, scale) -> None:
    report.say("Median milliseconds of a statement of each kind of plan, and of the one that the planner takes by itself; "
               "regret: that one's time by the fastest's. `part` has nothing to do with the embeddings, `place` is "
               "the row's cluster: near rows have the same. `HNSW32`, B-tree indexes on both.\n")
    worst = []
    for rows, dimensions in scale.planner_tables:
        report.progress(f"{rows:,} x {dimensions}")
        server.cluster.execute("CREATE DATABASE planner")
        try:
            with server.connect("planner", NO_INDEX) as db:
                queries = prepare(db, rows, dimensions)
                cells = [measure(db, *cell, queries[:scale.planner_queries]) for cell in grid(rows)]
        finally:
            server.cluster.execute("DROP DATABASE planner WITH (FORCE)")
        report.table([f"{rows:,} x {dimensions}", "% of rows", "LIMIT", "chosen", "ms", *PLANS, "regret"],
                     [[cell.condition, number(100 * cell.share), cell.limit, cell.chosen, number(cell.milliseconds["chosen"]),
                       *(number(cell.milliseconds[plan]) if plan in cell.milliseconds else "" for plan in PLANS),
                       f"{cell.regret:.2f}"] for cell in cells])
        report.say("")
        worst += [(cell.regret, f"{rows:,} x {dimensions}, {cell.condition}, LIMIT {cell.limit}") for cell in cells]
    missed = [f"{what} ({regret:.1f})" for regret, what in sorted(worst, reverse=True) if regret > ENOUGH]
    report.say(f"{len(missed)} of {len(worst)} cells have a regret above {ENOUGH}: {'; '.join(missed[:10]) or 'none'}.")


def prepare(db: psycopg.Connection, rows: int, dimensions: int) -> np.ndarray:
    """Makes the table and its indexes; the queries."""
    vectors = data.clustered(rows + 100, dimensions, seed=5)
    parts = np.random.default_rng(6).permutation(rows) * PART_UNITS // rows
    # The nearest of a hundred rows: a place that near rows share.
    places = np.argmin(data.distances(vectors[:100], vectors[:rows], "l2"), axis=1)
    db.execute("CREATE EXTENSION vekter")
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, part int, place int, embedding vector({dimensions}) NOT NULL)")
    db.execute(f"CREATE TEMP TABLE loaded (id bigint, embedding vector({dimensions}))")
    data.copy_vectors(db, "loaded", vectors[:rows])
    db.execute("CREATE TEMP TABLE labels (id bigint, part int, place int)")
    with db.cursor() as cursor, cursor.copy("COPY labels FROM STDIN") as copy:
        for id, (part, place) in enumerate(zip(parts, places, strict=True)):
            copy.write_row((id, int(part), int(place)))
    db.execute("INSERT INTO items SELECT id, part, place, embedding FROM loaded JOIN labels USING (id) ORDER BY id")
    db.execute("CREATE INDEX searched ON items USING faiss (embedding) WITH (factory = 'HNSW32')")
    db.execute("CREATE INDEX ON items (part)")
    db.execute("CREATE INDEX ON items (place)")
    db.execute("VACUUM (ANALYZE) items")
    return vectors[rows:]


def grid(rows: int) -> Iterator[tuple[str, int]]:
    """(condition, LIMIT)."""
    for limit in (1, 10, 100, 1000):
        for part in (1, 10, 100, 500, 2_000, 5_000, PART_UNITS):
            if part * rows >= PART_UNITS:
                yield f"part < {part}", limit
    yield "place = 7", 10
    yield "place < 30", 10


def measure(db: psycopg.Connection, condition: str, limit: int, queries: np.ndarray) -> Cell:
    sql = f"SELECT id FROM items WHERE {condition} ORDER BY embedding <-> %s::vector LIMIT {limit}"
    [[passing, all_rows]] = db.execute(f"SELECT count(*) FILTER (WHERE {condition}), count(*) FROM items").fetchall()
    milliseconds = {"chosen": timed(db, sql, queries)}
    for name, settings in PLANS.items():
        for setting, value in settings.items():
            db.execute(f"SET {setting} = {value}")
        # Where nothing else is possible PostgreSQL takes what is off.
        if plan_of(db, sql, queries[0]) == name:
            milliseconds[name] = timed(db, sql, queries)
        for setting in settings:
            db.execute(f"RESET {setting}")
    return Cell(condition, passing / all_rows, limit, plan_of(db, sql, queries[0]), milliseconds)


def plan_of(db: psycopg.Connection, sql: str, query: np.ndarray) -> str:
    text = "\n".join(line for line, in db.execute(f"EXPLAIN {sql}", [data.to_text(query)]))
    if "searched" in text:
        return "search"
    return "bitmap + sort" if "Bitmap" in text else "table + sort" if "Seq Scan" in text else "index + sort"


def timed(db: psycopg.Connection, sql: str, queries: np.ndarray) -> float:
    """Median milliseconds; the first query warms up."""
    texts = [data.to_text(query) for query in queries]
    times = []
    for text in [texts[0], *texts]:
        started = time.perf_counter()
        db.execute(sql, [text], prepare=False).fetchall()
        times.append(time.perf_counter() - started)
    return median(times[1:]) * 1e3
