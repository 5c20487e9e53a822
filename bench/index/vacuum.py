"""Processor time that VACUUM spends in the index when half of the rows are dead."""

from __future__ import annotations

import time
from dataclasses import dataclass

from process import cpu_time
from report import Report, median, number, ratio
from server import Server
from systems import HNSW, IVF, PGVECTOR_HNSW, Variant

TITLE = "VACUUM"


@dataclass
class Outcome:
    cpu_s: float
    """Of the backend, with the index, less the same without it."""
    clock_s: float
    settled_s: float
    """Until vekter's worker had also merged what VACUUM left to it."""
    segments: int


def run(server: Server, report: Report, scale) -> None:
    variants = [HNSW, HNSW.having("vekter HNSW32, no worker", vekter__background_compaction="off"), IVF]
    variants += [PGVECTOR_HNSW] if server.has_pgvector() else []
    outcomes: dict[str, list[Outcome]] = {variant.label: [] for variant in variants}
    for turn in range(scale.vacuum_rounds):
        for variant in variants[::1 if turn % 2 == 0 else -1]:
            outcomes[variant.label].append(one_run(server, variant, scale))
            report.progress(f"round {turn + 1}, {variant.label}: {outcomes[variant.label][-1]}")
    report.say(f"`VACUUM (PARALLEL 0)` of {scale.vacuum_rows:,} rows, every second one deleted; user and system time "
               "of the backend, less that of the same VACUUM with the index dropped (a primary key stays); the clock "
               f"shows all of it. Median of {scale.vacuum_rounds}. 'Settled': until the worker had merged what "
               "VACUUM left to it.\n")
    theirs = [outcome.cpu_s for outcome in outcomes.get(PGVECTOR_HNSW.label, [])]
    rows = []
    for label, runs in outcomes.items():
        cpu_s = [outcome.cpu_s for outcome in runs]
        rows.append([label, number(median(cpu_s)), "" if label == PGVECTOR_HNSW.label else ratio(cpu_s, theirs),
                     number(median([outcome.clock_s for outcome in runs])),
                     number(median([outcome.settled_s for outcome in runs])), runs[-1].segments or "–"])
    report.table(["index", "CPU s in the index", "ratio", "clock s", "settled s", "segments then"], rows)


def one_run(server: Server, variant: Variant, scale) -> Outcome:
    template = server.template(variant, scale.vacuum_rows)
    without, _, _, _ = vacuum(server, template, variant, keep_index=False)
    cpu_s, clock_s, settled_s, segments = vacuum(server, template, variant, keep_index=True)
    return Outcome(max(cpu_s - without, 0.0), clock_s, settled_s, segments)


def vacuum(server: Server, template: str, variant: Variant, *, keep_index: bool) -> tuple[float, float, float, int]:
    """(CPU seconds of the backend, seconds on the clock, seconds until settled, segments then)"""
    with server.copy(template) as name, server.connect(name, variant) as db:
        if not keep_index:
            db.execute("DROP INDEX items_index")
        db.execute("DELETE FROM items WHERE id % 2 = 0")
        # Both find the table's pages in shared buffers, and their hint bits set.
        db.execute("SELECT count(*) FROM items")
        started = time.monotonic()
        with cpu_time(db) as spent:
            db.execute("VACUUM (PARALLEL 0) items")
        ended = time.monotonic()
        settled = max(server.settle(db, variant), ended)
        return spent.cpu_s, ended - started, settled - started, server.shape(db)[0]
