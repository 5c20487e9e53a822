"""The recall that is asked and the recall that is reached, by queries that are not among the rows."""

from __future__ import annotations

import re
import time

import psycopg

import data
from dataset import K
from process import cpu_time
from report import Report, median, number
from server import SEARCH_SETTINGS, Server
from systems import NO_INDEX

TITLE = "Recall as it is asked"
FACTORIES = ("IVF512,Flat", "IVF512,PQ96x4fs,RFlat", "IVF512,PQ96", "HNSW32")
# The rows are of unit length, so the nearest are the same by all of them.
OPERATORS = {"l2": "<->", "ip": "<#>", "cosine": "<=>"}
ASKED = (0.90, 0.95, 0.98, 0.99)
ENOUGH_LESS = 0.01
QUERY = "(SELECT embedding FROM queries WHERE id = %s)"
# A scan is not told how many rows are wanted, and is ready to give more than ten; knn() knows.
PLAIN = f"SELECT id FROM items ORDER BY embedding {{operator}} {QUERY} LIMIT {K}"
KNN = f"SELECT id FROM knn('items_index', {QUERY}, {K})"
BUILT = re.compile(r"was built in ([\d.]+) s, of which calibration took ([\d.]+) s")


def run(server: Server, report: Report, scale) -> None:
    report.say(f"recall@{K}, median milliseconds and mean processor milliseconds of {len(server.dataset.queries):,} queries "
               "under `vekter.recall`, one connection. Calibration: its part of CREATE INDEX.\n")
    rows, missed = [], []
    # One after the other in one database: a table is filled once.
    with server.copy(server.template(NO_INDEX, server.dataset.rows)) as name, server.connect(name, NO_INDEX) as db:
        # Into shared buffers.
        db.execute("SELECT sum(vector_dims(embedding)) FROM items")
        for factory in FACTORIES:
            for metric in scale.recall_metrics:
                rows += measure(server, db, factory, metric, missed)
                report.progress("\n  ".join(" | ".join(row) for row in rows[-2:]))
    asked = [title for recall in ASKED for title in (f"{recall:.2f}", "ms", "CPU ms")]
    report.table(["index", "metric", "build s", "calibration s", "part", "by", *asked], rows)
    report.say(f"\nMore than {ENOUGH_LESS} less than asked: {', '.join(missed) or 'none'}.")


def measure(server: Server, db: psycopg.Connection, factory: str, metric: str, missed: list[str]) -> list[list[str]]:
    """A row for each way to ask."""
    build_s, calibration_s = build(db, factory, metric)
    part = f"{calibration_s / build_s:.2f}" if build_s else "–"
    rows = []
    for way, statement in (("ORDER BY", PLAIN.format(operator=OPERATORS[metric])), ("knn()", KNN)):
        rows.append([factory, metric, number(build_s), number(calibration_s), part, way])
        for asked in ASKED:
            found, milliseconds, cpu_ms = search(db, statement, len(server.dataset.queries), asked)
            reached = data.recall(found, server.dataset.nearest)
            if reached < asked - ENOUGH_LESS:
                missed.append(f"{factory} {metric} {way} at {asked}")
            rows[-1] += [f"{reached:.4f}", number(milliseconds), number(cpu_ms)]
    return rows


def build(db: psycopg.Connection, factory: str, metric: str) -> tuple[float, float]:
    """Seconds of the whole build and of the calibration in it, as the server says."""
    said: list[str] = []

    def listen(notice: psycopg.errors.Diagnostic) -> None:
        said.append(notice.message_primary or "")

    db.execute("DROP INDEX IF EXISTS items_index")
    db.add_notice_handler(listen)
    db.execute("SET client_min_messages = debug1")
    db.execute(f"CREATE INDEX items_index ON items USING faiss (embedding vector_{metric}_ops) "
               f"WITH (factory = '{factory}')")
    db.execute("RESET client_min_messages")
    db.remove_notice_handler(listen)
    [found] = filter(None, map(BUILT.search, said))
    return float(found[1]), float(found[2])


def search(db: psycopg.Connection, statement: str, queries: int, recall: float) -> tuple[list[list[int]], float, float]:
    """What is found, the median milliseconds of a query on the clock, and the mean of the processor."""
    for name, value in {**SEARCH_SETTINGS, "vekter.recall": recall}.items():
        db.execute(f"SET {name} = {value}")
    # The first search opens the index.
    db.execute(statement, [0], prepare=True)
    found, seconds = [], []
    with cpu_time(db) as spent:
        for query in range(queries):
            started = time.perf_counter()
            rows = db.execute(statement, [query], prepare=True).fetchall()
            seconds.append(time.perf_counter() - started)
            found.append([id for id, in rows])
    db.execute("RESET ALL")
    return found, median(seconds) * 1e3, spent.cpu_s * 1e3 / queries
