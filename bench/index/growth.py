"""A table that grows tenfold after its index was built: segments, recall, and what is written for each row."""

from __future__ import annotations

import time
from dataclasses import dataclass

from process import bytes_written
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
    wal_bytes: float
    written_bytes: float
    """By all processes into all files: table, indexes, WAL and, of vekter, segment files. Per row, as is the WAL."""
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
    report.say(f"From {total // 10:,} rows, with the index, to {total:,} in statements of {ROWS_PER_STATEMENT:,} rows on "
               f"{CLIENTS} connections; one run. Recall@10 by default settings.\n")
    report.table(["index", "when", "segments", "rows of the largest", "rows in the delta", "recall@10", "index"],
                 [[label, when, segments or "–", f"{sizes[0]:,}" if sizes else "–", f"{delta:,}" if sizes else "–",
                   "–" if recall is None else f"{recall:.4f}", "–" if size is None else megabytes(size)]
                  for label, outcome in outcomes.items()
                  for when, segments, delta, sizes, recall, size in outcome.states])
    bare, theirs = outcomes[NO_INDEX.label], outcomes.get(PGVECTOR_HNSW.label)
    report.say(f"\nWritten for each row of {4 * server.dataset.dimensions:,} bytes until settled, a checkpoint at both ends, "
               "full_page_writes on; 'index': less what the table and its primary key cost by themselves.\n")
    rows = []
    for label, outcome in outcomes.items():
        wal, written = outcome.wal_bytes - bare.wal_bytes, outcome.written_bytes - bare.written_bytes
        cells = [label, number(outcome.rate), number(outcome.wal_bytes), number(outcome.written_bytes)]
        if outcome is bare:
            cells += ["–"] * 4
        else:
            comparable = theirs and outcome is not theirs
            cells += [number(wal), number(wal / (theirs.wal_bytes - bare.wal_bytes)) if comparable else "–", number(written),
                      number(written / (theirs.written_bytes - bare.written_bytes)) if comparable else "–"]
        rows.append(cells)
    report.table(["index", "rows/s", "WAL", "all files", "WAL, index", "ratio", "all files, index", "ratio"], rows)


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
        wal, written, started = wal_bytes(db), bytes_written(server.cluster.postmaster.pid), time.monotonic()
        server.pgbench(name, variant, script, "-c", CLIENTS, "-j", 2, "-t", statements, "-D", "statement=0",
                       synchronous_commit="off")
        ended = time.monotonic()
        at_once = server.shape(db)
        settled = max(server.settle(db), ended)
        db.execute("CHECKPOINT")
        wal, written = wal_bytes(db) - wal, bytes_written(server.cluster.postmaster.pid) - written
        assert db.execute("SELECT count(*) FROM items").fetchone()[0] == total
        if variant.index:
            if at_once[0]:
                states.append(("at the last insert", *at_once, None, None))
            states.append(state(server, db, "settled"))
        if at_once[0]:
            db.execute("SELECT vekter_compact('items_index')")
            states.append(state(server, db, "after vekter_compact"))
    inserted = total - initial
    return Outcome(inserted / (settled - started), wal / inserted, written / inserted, states)


def state(server: Server, db, when: str) -> tuple[str, int, int, list[int], float, int]:
    size = db.execute("SELECT pg_relation_size('items_index')").fetchone()[0]
    return (when, *server.shape(db), server.recall(db), size)


def wal_bytes(db) -> int:
    return int(db.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()[0])
