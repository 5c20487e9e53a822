"""Many queries at once, through knn_batch(), beside the same queries one by one."""

from __future__ import annotations

import time
from dataclasses import dataclass

import data
from dataset import K
from process import cpu_time
from report import Report, median, number
from server import Server
from systems import FLAT, HNSW, IVF, Variant, faiss

TITLE = "Queries in batches"
IVF_FLAT = faiss("IVF512,Flat")
ONE = f"SELECT id FROM knn('items_index', %s::vector, {K})"
MANY = f"SELECT query_no, id FROM knn_batch('items_index', %s::vector[], {K})"


@dataclass
class Outcome:
    """Seconds for all queries as the client saw it, processor time of the backend, and what was found."""

    seconds: float
    cpu_s: float
    found: list[list[int]]


def run(server: Server, report: Report, scale) -> None:
    queries = server.dataset.queries
    # An exact search of every row by itself takes long.
    exact_queries = min(len(queries), scale.exact_queries)
    report.say(f"{len(queries):,} queries (`Flat`: {exact_queries:,}) for {K} rows of {server.dataset.rows:,}, which one "
               "client asks one by one, prepared, and then in one call of `knn_batch` on two threads "
               f"(`vekter.batch_threads`). Times and processor time are a query's; medians of {scale.rounds} rounds, the "
               "ratio that of each round.\n")
    rows = []
    for variant in (HNSW, IVF_FLAT, IVF, FLAT):
        asked = [data.to_text(query) for query in queries[:exact_queries if variant is FLAT else None]]
        rows.append(measure(server, variant, asked, scale.rounds))
        report.progress(" | ".join(rows[-1]))
    report.table(["index", "one by one ms", "batch ms", "ratio", "CPU ms one by one", "CPU ms batch",
                  f"recall@{K} one by one", "batch"], rows)


def measure(server: Server, variant: Variant, asked: list[str], rounds: int) -> list[str]:
    variant = variant.having(vekter__batch_threads=2)
    nearest = server.dataset.nearest[: len(asked)]
    alone, together = [], []
    with server.copy(server.template(variant, server.dataset.rows)) as name, server.connect(name, variant) as db:
        # The first search of a server brings the index's files into being; that is not what is timed.
        db.execute(ONE, [asked[0]])
        for _ in range(rounds):
            alone.append(timed(db, lambda: one_by_one(db, asked)))
            together.append(timed(db, lambda: in_a_batch(db, asked)))

    def per_query_ms(runs: list[Outcome], what: str) -> str:
        return number(median([getattr(run, what) for run in runs]) * 1e3 / len(asked))

    ratio = median([one.seconds / many.seconds for one, many in zip(alone, together, strict=True)])
    return [variant.label, per_query_ms(alone, "seconds"), per_query_ms(together, "seconds"), number(ratio),
            per_query_ms(alone, "cpu_s"), per_query_ms(together, "cpu_s"),
            f"{data.recall(alone[-1].found, nearest):.3f}", f"{data.recall(together[-1].found, nearest):.3f}"]


def timed(db, search) -> Outcome:
    started = time.perf_counter()
    with cpu_time(db) as spent:
        found = search()
    return Outcome(time.perf_counter() - started, spent.cpu_s, found)


def one_by_one(db, asked: list[str]) -> list[list[int]]:
    return [[id for id, in db.execute(ONE, [query], prepare=True)] for query in asked]


def in_a_batch(db, asked: list[str]) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in asked]
    array = "{" + ",".join(f'"{query}"' for query in asked) + "}"
    for query_no, id in db.execute(MANY, [array]):
        found[query_no - 1].append(id)
    return found
