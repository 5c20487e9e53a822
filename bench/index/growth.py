"""A table that grows tenfold after its index was built: segments, recall, and what is written for each row."""

from __future__ import annotations

import time
from dataclasses import dataclass

from process import bytes_written, server_cpu_s
from report import Report, megabytes, number
from server import Server
from systems import HNSW, IVF, NO_INDEX, PGVECTOR_HNSW, Variant

TITLE = "Growth to ten times the rows"
CLIENTS = 4
ROWS_PER_STATEMENT = 1_000
STATEMENT = """\
\\set first {first} + (:client_id + {clients} * :statement) * {rows}
\\set statement :statement + 1
INSERT INTO items SELECT * FROM source WHERE id >= :first AND id < :first + {rows};
"""


@dataclass
class Outcome:
    rate: float
    """Rows per second until settled."""
    cpu_us: float
    """Processor time of the whole server; like the bytes, for each row until settled."""
    wal_bytes: float
    written_bytes: float
    """By all processes into all files: table, indexes, WAL and, of vekter, segment files."""
    states: list[tuple[str, int, int, list[int], float | None, int | None]]
    """(when, segments, rows in the delta, rows of each segment, recall, bytes of the index); None: not looked at, as it
    would have been another state by then."""


def run(server: Server, report: Report, scale) -> None:
    variants = [HNSW, IVF, NO_INDEX] + ([PGVECTOR_HNSW] if server.has_pgvector() else [])
    outcomes = {}
    for variant in variants:
        report.progress(variant.label)
        outcomes[variant.label] = one_run(server, variant)
    total = server.dataset.rows
    report.say(f"From {total // 10:,} rows, with the index, to {total:,} in statements of {ROWS_PER_STATEMENT:,} rows "
               f"on {CLIENTS} connections; one run. Recall@10 by default settings.\n")
    report.table(["index", "when", "segments", "rows of the largest", "rows in the delta", "recall@10", "index"],
                 [[label, when, segments or "–",
                   f"{sizes[0]:,}" if sizes else "–", f"{delta:,}" if sizes else "–",
                   "–" if recall is None else f"{recall:.4f}", "–" if size is None else megabytes(size)]
                  for label, outcome in outcomes.items()
                  for when, segments, delta, sizes, recall, size in outcome.states])
    bare, theirs = outcomes[NO_INDEX.label], outcomes.get(PGVECTOR_HNSW.label)
    report.say(f"\nSpent on each row of {4 * server.dataset.dimensions:,} bytes until settled, by all processes of the "
               "server, a checkpoint at both ends, full_page_writes on. 'Index': less what the table and its primary "
               "key cost by themselves.\n")
    report.table(["index", "rows/s", "CPU µs, index", "ratio", "WAL bytes", "of which index", "ratio", 
                  "bytes into all files", "of which index", "ratio"],
                 [[label, number(outcome.rate), *compared(outcome.cpu_us, bare.cpu_us, theirs and theirs.cpu_us),
                   number(outcome.wal_bytes), *compared(outcome.wal_bytes, bare.wal_bytes, theirs and theirs.wal_bytes),
                   number(outcome.written_bytes),
                   *compared(outcome.written_bytes, bare.written_bytes, theirs and theirs.written_bytes)]
                  for label, outcome in outcomes.items()])


def compared(ours: float, bare: float, theirs: float | None) -> tuple[str, str]:
    """What the index costs, and that by what pgvector's costs; dashes where that means nothing."""
    if ours == bare:
        return "–", "–"
    return number(ours - bare), "–" if theirs in (None, ours) else number((ours - bare) / (theirs - bare))


def one_run(server: Server, variant: Variant) -> Outcome:
    total = server.dataset.rows
    initial = total // 10
    template = server.template(variant, initial, to_come=total - initial)
    statements = -(-(total - initial) // (CLIENTS * ROWS_PER_STATEMENT))
    script = STATEMENT.format(first=initial, clients=CLIENTS, rows=ROWS_PER_STATEMENT)
    states = []
    with server.copy(template) as name, server.connect(name, variant) as db:
        # CREATE DATABASE has made a checkpoint; the copy's own pages are out of the way with this one.
        db.execute("CHECKPOINT")
        postmaster, started = server.cluster.postmaster.pid, time.monotonic()
        before = wal_bytes(db), bytes_written(postmaster), server_cpu_s(postmaster)
        server.pgbench(name, variant, script, "-c", CLIENTS, "-j", 2, "-t", statements, "-D", "statement=0",
                       synchronous_commit="off")
        ended = time.monotonic()
        at_once = server.shape(db)
        settled = max(server.settle(db, variant), ended)
        db.execute("CHECKPOINT")
        after = wal_bytes(db), bytes_written(postmaster), server_cpu_s(postmaster)
        assert db.execute("SELECT count(*) FROM items").fetchone()[0] == total
        if variant.index:
            if at_once[0]:
                states.append(("at the last insert", *at_once, None, None))
            states.append(state(server, db, "settled"))
        if at_once[0]:
            db.execute("SELECT vekter_compact('items_index')")
            states.append(state(server, db, "after vekter_compact"))
    inserted = total - initial
    wal, written, cpu_s = ((now - then) / inserted for then, now in zip(before, after, strict=True))
    return Outcome(inserted / (settled - started), cpu_s * 1e6, wal, written, states)


def state(server: Server, db, when: str) -> tuple[str, int, int, list[int], float, int]:
    size = db.execute("SELECT pg_relation_size('items_index')").fetchone()[0]
    return (when, *server.shape(db), server.recall(db), size)


def wal_bytes(db) -> int:
    return int(db.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()[0])
