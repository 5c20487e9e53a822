"""What a statement costs beside FAISS's own search of the same index with the same parameters."""

from __future__ import annotations

import importlib.util
import time

import numpy as np
import psycopg

import data
from dataset import K
from report import Report, median, number
from server import NEAREST, SEARCH_SETTINGS, Server
from systems import HNSW, IVF, Variant

TITLE = "What SQL adds"
ASKED = (0.95, 0.98, 0.99)
KNN = f"SELECT id FROM knn('items_index', (SELECT embedding FROM queries WHERE id = :query), {K})"
# The work of any statement that finds these rows: it reads a query and fetches ten rows.
FETCH = ("SELECT id FROM items WHERE id = ANY ((SELECT ids FROM answers WHERE id = :query "
         "AND (SELECT embedding FROM queries WHERE id = :query) IS NOT NULL)::bigint[])")
CONNECTIONS = 20


def run(server: Server, report: Report, scale) -> None:
    report.say(f"Microseconds of a query for {K} rows, one connection, prepared, by `vekter.recall`. FAISS: a search of the "
               "exported index in Python, on one thread (faiss-cpu of PyPI). Fetch: the statement that reads the query and "
               "ten rows by their ids. Added: what is left of the whole statement. Medians of "
               f"{scale.rounds} rounds. First: milliseconds of a new connection's first search, less those of its "
               "first `SELECT 1`.\n")
    rows = []
    for variant in (HNSW, IVF):
        with server.copy(server.template(variant, server.dataset.rows)) as name, server.connect(name, variant) as db:
            add_answers(server, db)
            for asked in ASKED:
                rows.append(measure(server, name, db, variant, asked, scale))
                report.progress(" | ".join(rows[-1]))
    report.table(["index", "asked", f"recall@{K}", "FAISS", "fetch", "ORDER BY", "added", "knn()", "added",
                  "queries/s", "4 connections by 1", "first ms"], rows)


def add_answers(server: Server, db: psycopg.Connection) -> None:
    db.execute("CREATE TABLE answers (id bigint PRIMARY KEY, ids bigint[])")
    with db.cursor() as cursor, cursor.copy("COPY answers FROM STDIN") as copy:
        for id, nearest in enumerate(server.dataset.nearest):
            copy.write_row((id, nearest.tolist()))
    db.execute("VACUUM ANALYZE answers")


def measure(server: Server, name: str, db: psycopg.Connection, variant: Variant, asked: float, scale) -> list[str]:
    variant = variant.having(vekter__recall=asked)
    with server.connect(name, variant) as searching:
        recall = server.recall(searching)
    faiss_us = faiss_microseconds(server, db, asked)
    times: dict[str, list[float]] = {}
    speeds_of_four = []
    for _ in range(scale.rounds):
        for way, statement in (("fetch", FETCH), ("order", NEAREST), ("knn", KNN)):
            speed = pgbench(server, name, variant, statement, 1, scale)
            times.setdefault(way, []).append(1e6 / speed)
        speeds_of_four.append(pgbench(server, name, variant, NEAREST, 4, scale))
    fetch, order, knn = (median(times[way]) for way in ("fetch", "order", "knn"))

    def added(microseconds: float) -> str:
        return "–" if faiss_us is None else number(microseconds - fetch - faiss_us)

    return [variant.label, f"{asked:.2f}", f"{recall:.4f}", "–" if faiss_us is None else number(faiss_us), number(fetch),
            number(order), added(order), number(knn), added(knn), number(1e6 / order),
            f"{median(speeds_of_four) * order / 1e6:.2f}", number(first_search_ms(server, name, variant))]


def pgbench(server: Server, name: str, variant: Variant, statement: str, clients: int, scale) -> float:
    script = f"\\set query random(0, {len(server.dataset.queries) - 1})\n{statement};\n"
    return server.pgbench(name, variant, script, "-c", clients, "-j", min(clients, 2), *scale.search_length,
                          **SEARCH_SETTINGS)


def faiss_microseconds(server: Server, db: psycopg.Connection, asked: float) -> float | None:
    """Mean time of a query; None where faiss-cpu is not installed."""
    if importlib.util.find_spec("faiss") is None:
        return None
    import faiss

    [[exported]] = db.execute("SELECT vekter_export('items_index')", binary=True).fetchall()
    index = faiss.deserialize_index(np.frombuffer(exported, dtype=np.uint8))
    [[search]] = db.execute("SELECT search FROM vekter_operating_points('items_index') WHERE recall >= %s "
                            "ORDER BY recall LIMIT 1", [asked]).fetchall()
    # FAISS's own name for it.
    faiss.ParameterSpace().set_index_parameters(index, search.replace("k_factor=", "k_factor_rf="))
    faiss.omp_set_num_threads(1)
    rounds = []
    for _ in range(3):
        started = time.perf_counter()
        for query in server.dataset.queries:
            index.search(query[None, :], K)
        rounds.append((time.perf_counter() - started) / len(server.dataset.queries))
    return median(rounds) * 1e6


def first_search_ms(server: Server, name: str, variant: Variant) -> float:
    """A connection's first search, less the first statement of one that searches nothing."""
    search = f"SELECT id FROM items ORDER BY embedding <-> '{data.to_text(server.dataset.queries[0])}' LIMIT {K}"
    times: dict[str, list[float]] = {"SELECT 1": [], search: []}
    for _ in range(CONNECTIONS):
        for statement, taken in times.items():
            with server.connect(name, variant, **SEARCH_SETTINGS) as db:
                started = time.perf_counter()
                db.execute(statement).fetchall()
                taken.append(time.perf_counter() - started)
    return 1e3 * (median(times[search]) - median(times["SELECT 1"]))
