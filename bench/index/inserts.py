"""Rows per second that come into a table with the index in place."""

from __future__ import annotations

import time
from dataclasses import dataclass

from process import server_cpu_s
from report import Report, number, median, ratio
from server import Server
from systems import HNSW, NO_INDEX, PGVECTOR_HNSW, Variant

TITLE = "Inserts"
WITHOUT_WORKER = HNSW.having(f"{HNSW.label}, no worker", vekter__background_compaction="off")
# The rows come from a table of the same database: no client makes, sends or parses them. A client's own share of that
# table begins after those of the clients before it.
STATEMENT = """\
\\set first {first} + :client_id * {share} + :statement * {rows}
\\set statement :statement + 1
INSERT INTO items SELECT * FROM source WHERE id >= :first AND id < :first + {rows};
"""


@dataclass(frozen=True)
class Case:
    clients: int
    rows_per_statement: int
    synchronous_commit: str

    def label(self) -> str:
        return f"{self.clients} x {self.rows_per_statement:,} rows, {self.synchronous_commit}"


@dataclass
class Outcome:
    """Rows per second as the clients saw it, and until the worker had also settled the index."""

    rate: float
    settled_rate: float
    segments: int
    delta_rows: int
    cpu_us: float
    """Processor time of the whole server until settled, per row."""


def run(server: Server, report: Report, scale) -> None:
    variants = [HNSW, WITHOUT_WORKER, NO_INDEX] + ([PGVECTOR_HNSW] if server.has_pgvector() else [])
    # What a commit waits for weighs little on a thousand rows.
    cases = [Case(clients, rows, commit)
             for rows, commit in ((1_000, "off"), (1, "off"), (1, "on")) for clients in (1, 4)]
    report.say(f"Rows/s into a table of {scale.initial_rows:,} rows with a primary key and the index ('no index': with "
               "the primary key alone). Connections x rows per statement; `synchronous_commit` off or on; one "
               f"statement a transaction. Median of {scale.rounds} rounds, each on a fresh copy of the database. "
               "'Settled': until the worker had no more to do, counted from the first insert. CPU: of all processes "
               "of the server.\n")
    rows = []
    for case in cases:
        outcomes: dict[str, list[Outcome]] = {variant.label: [] for variant in variants}
        for turn in range(scale.rounds):
            for variant in variants[::1 if turn % 2 == 0 else -1]:
                outcomes[variant.label].append(one_run(server, variant, case, scale))
        rows.append(row(case, variants, outcomes))
        report.progress(" | ".join(rows[-1]))
    report.table(["connections x statement, sync", "vekter", "settled", "segments, delta rows then", 
                  "vekter, no worker", "no index", "pgvector", "ratio", "ratio settled",
                  "CPU µs/row: vekter, settled", "no index", "pgvector"], rows)


def row(case: Case, variants: list[Variant], outcomes: dict[str, list[Outcome]]) -> list[str]:
    rates = {label: [outcome.rate for outcome in runs] for label, runs in outcomes.items()}
    cpu_us = {label: [outcome.cpu_us for outcome in runs] for label, runs in outcomes.items()}
    settled = [outcome.settled_rate for outcome in outcomes[HNSW.label]]
    theirs = rates.get(PGVECTOR_HNSW.label)
    last = outcomes[HNSW.label][-1]
    return [case.label(), number(median(rates[HNSW.label])), number(median(settled)),
            f"{last.segments}, {last.delta_rows:,}", number(median(rates[WITHOUT_WORKER.label])),
            number(median(rates[NO_INDEX.label])), number(median(theirs)) if theirs else "–",
            ratio(rates[HNSW.label], theirs), ratio(settled, theirs), number(median(cpu_us[HNSW.label])),
            number(median(cpu_us[NO_INDEX.label])), number(median(cpu_us[PGVECTOR_HNSW.label])) if theirs else "–"]


def one_run(server: Server, variant: Variant, case: Case, scale) -> Outcome:
    most = min(scale.insert_rows, server.dataset.rows - scale.initial_rows)
    template = server.template(variant, scale.initial_rows, to_come=most)
    wanted = most if variant.is_vekter else min(most, scale.insert_rows_slow)
    if case.rows_per_statement == 1:
        wanted = int(wanted * (scale.single_row_share if variant.is_vekter else scale.single_row_share_slow))
        if case.synchronous_commit == "on":
            wanted = min(wanted, scale.insert_rows_durable * case.clients)
    statements = max(wanted // case.clients // case.rows_per_statement, 1)
    script = STATEMENT.format(first=scale.initial_rows, share=most // case.clients, rows=case.rows_per_statement)
    with server.copy(template) as name, server.connect(name, variant) as db:
        # The first search or insert of a server brings the index's files into being; that is not what is timed.
        db.execute("INSERT INTO items SELECT -1, embedding FROM source LIMIT 1")
        cpu_s = server_cpu_s(server.cluster.postmaster.pid)
        rate = server.pgbench(name, variant, script, "-c", case.clients, "-j", min(case.clients, 2), "-t", statements,
                              "-D", "statement=0", synchronous_commit=case.synchronous_commit)
        ended = time.monotonic()
        settled = max(server.settle(db, variant), ended)
        cpu_s = server_cpu_s(server.cluster.postmaster.pid) - cpu_s
        segments, delta, _ = server.shape(db)
    # pgbench's own start-up is in neither rate.
    inserted = statements * case.clients * case.rows_per_statement
    seconds = inserted / (rate * case.rows_per_statement)
    return Outcome(inserted / seconds, inserted / (seconds + settled - ended), segments, delta, cpu_s * 1e6 / inserted)
