"""The whole table in one build: how long it takes, how large it is, what it finds and how fast."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from report import Report, median, megabytes, number, ratio
from server import SEARCH_SETTINGS, Server
from systems import HNSW, IVF, PGVECTOR_HNSW, Variant

TITLE = "Build and search"
# pgvector's default first.
EF_SEARCH = (40, 60, 80, 100, 120, 160, 200, 250, 300, 400, 600, 800, 1_000)


@dataclass
class Built:
    variant: Variant
    database: str
    seconds: list[float]
    bytes: int
    recall: float = 0.0
    tps: dict[int, list[float]] = field(default_factory=lambda: {1: [], 4: []})
    """By connections, one for each round."""


def run(server: Server, report: Report, scale) -> None:
    with ExitStack() as stack:
        built = []
        for variant in [HNSW, IVF] + ([PGVECTOR_HNSW] if server.has_pgvector() else []):
            report.progress(f"building {variant.label}")
            built.append(build(server, stack, variant, scale))
        theirs = built[2] if len(built) > 2 else None
        report.say(f"`CREATE INDEX` with the server's default of parallel workers and maintenance_work_mem 1 GB; "
                   f"median of {scale.build_rounds}.\n")
        report.table(["index", "build s", "ratio", "size", "ratio"],
                     [[index.variant.label, number(median(index.seconds)),
                       beside(index, theirs, lambda one: one.seconds),
                       megabytes(index.bytes), beside(index, theirs, lambda one: [one.bytes])] for index in built])
        matches = {index.variant.label: match(server, theirs, index.recall) for index in built[:2]} if theirs else {}
        searched = built + list({id(found): found for found in matches.values() if found is not theirs}.values())
        for turn in range(scale.rounds):
            report.progress(f"searching, round {turn + 1}")
            for index in searched[::1 if turn % 2 == 0 else -1]:
                for clients, tps in index.tps.items():
                    tps.append(server.pgbench(index.database, index.variant, server.search_script(), "-c", clients,
                                              "-j", min(clients, 2), *scale.search_length, **SEARCH_SETTINGS))
        report.say("\nSearches per second (pgbench, prepared, LIMIT 10) on 1 and 4 connections. Ratios are to pgvector "
                   "at the smallest of its ef_search settings tried that finds at least as much.\n")
        rows = []
        for index in searched:
            match_ = matches.get(index.variant.label)
            rows.append([index.variant.label, f"{index.recall:.4f}", match_.variant.label if match_ else "–"])
            for clients in index.tps:
                tps = index.tps[clients]
                rows[-1] += [number(median(tps)), ratio(tps, match_ and match_.tps[clients])]
        report.table(["index", "recall@10", "compared with", "tps, 1", "ratio", "tps, 4", "ratio"], rows)


def beside(index: Built, theirs: Built | None, figures) -> str:
    return ratio(figures(index), figures(theirs)) if theirs and index is not theirs else "–"


def build(server: Server, stack: ExitStack, variant: Variant, scale) -> Built:
    template = server.template(Variant(variant.label, variant.extension, None), server.dataset.rows)
    name, seconds = stack.enter_context(server.copy(template)), []
    with server.connect(name, variant) as db:
        # Into shared buffers.
        db.execute("SELECT sum(vector_dims(embedding)) FROM items")
        for turn in range(scale.build_rounds):
            db.execute("DROP INDEX IF EXISTS items_index")
            started = time.monotonic()
            db.execute(f"CREATE INDEX items_index ON items {variant.index}")
            seconds.append(time.monotonic() - started)
        size = db.execute("SELECT pg_relation_size('items_index')").fetchone()[0]
        return Built(variant, name, seconds, size, server.recall(db))


def match(server: Server, theirs: Built, recall: float) -> Built:
    """pgvector's index with the smallest ef_search tried whose recall is at least this (else with the largest)."""
    for ef_search in EF_SEARCH:
        variant = theirs.variant.having(f"{theirs.variant.label}, ef_search = {ef_search}", hnsw__ef_search=ef_search)
        with server.connect(theirs.database, variant) as db:
            found = server.recall(db)
        if found >= recall:
            break
    if ef_search == EF_SEARCH[0]:
        return theirs
    return Built(variant, theirs.database, [], theirs.bytes, found)
