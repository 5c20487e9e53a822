"""Search latency, idle and while another connection inserts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from report import Report, median, number, percentile, ratio
from server import SEARCH_SETTINGS, Server
from systems import HNSW, IVF, PGVECTOR_HNSW, Variant

TITLE = "Search latency while inserting"
ROWS_PER_STATEMENT = 100
# The source's rows come round again under other ids, where one run needs more than there are.
STATEMENT = """\
\\set statement :statement + 1
\\set first {first} + (:statement * {rows}) % {source_rows}
INSERT INTO items SELECT id + {source_rows} * :statement + {first}, embedding FROM source
    WHERE id >= :first AND id < :first + {rows};
"""


@dataclass
class Outcome:
    milliseconds: list[float]
    rows_per_s: float


def run(server: Server, report: Report, scale) -> None:
    variants = [HNSW, IVF] + ([PGVECTOR_HNSW] if server.has_pgvector() else [])
    steady = scale.steady_rows_per_s
    loads: list[tuple[str, int | None]] = [("idle", 0), (f"{steady:,} rows/s", steady), ("full speed", None)]
    report.say(f"One connection searches an index that had {scale.latency_rows:,} rows at the start "
               f"({scale.latency_s} s, prepared, default settings), another inserts in {ROWS_PER_STATEMENT}-row "
               f"statements, asynchronously committed. Median over {scale.rounds} rounds of each round's median and "
               "99th percentile.\n")
    rows = []
    for what, rows_per_s in loads:
        outcomes: dict[str, list[Outcome]] = {variant.label: [] for variant in variants}
        for turn in range(scale.rounds):
            for variant in variants[::1 if turn % 2 == 0 else -1]:
                report.progress(f"{what}, round {turn + 1}: {variant.label}")
                outcomes[variant.label].append(one_run(server, variant, rows_per_s, scale))
        medians = {label: [median(o.milliseconds) for o in runs] for label, runs in outcomes.items()}
        tails = {label: [percentile(o.milliseconds, 0.99) for o in runs] for label, runs in outcomes.items()}
        for label, runs in outcomes.items():
            rows.append([label, what, number(median([o.rows_per_s for o in runs])),
                         number(median(medians[label])), beside(label, medians),
                         number(median(tails[label])), beside(label, tails)])
    report.table(["index", "inserting", "rows/s then", "median ms", "ratio", "p99 ms", "ratio"], rows)


def beside(label: str, figures: dict[str, list[float]]) -> str:
    return "–" if label == PGVECTOR_HNSW.label else ratio(figures[label], figures.get(PGVECTOR_HNSW.label))


def one_run(server: Server, variant: Variant, rows_per_s: int | None, scale) -> Outcome:
    source_rows = (server.dataset.rows - scale.latency_rows) // ROWS_PER_STATEMENT * ROWS_PER_STATEMENT
    template = server.template(variant, scale.latency_rows, to_come=source_rows)
    script = STATEMENT.format(first=scale.latency_rows, rows=ROWS_PER_STATEMENT, source_rows=source_rows)
    pace = [] if rows_per_s is None else ["-R", rows_per_s / ROWS_PER_STATEMENT]
    log = server.cluster.folder / "latency"
    with server.copy(template) as name, ThreadPoolExecutor(1) as inserter:
        # Warms up: the first search of a server brings the index's files into being.
        server.pgbench(name, variant, server.search_script(), "-t", 100, **SEARCH_SETTINGS)
        inserting = rows_per_s != 0 and inserter.submit(
            server.pgbench, name, variant, script, "-T", scale.latency_s, "-D", "statement=0", *pace,
            synchronous_commit="off")
        server.pgbench(name, variant, server.search_script(), "-T", scale.latency_s, "-l", f"--log-prefix={log}",
                       **SEARCH_SETTINGS)
        rate = inserting.result() * ROWS_PER_STATEMENT if inserting else 0.0
    return Outcome(read_log(log), rate)


def read_log(prefix) -> list[float]:
    """Milliseconds of each transaction in pgbench's logs (third column: microseconds), which are removed."""
    found = []
    for path in prefix.parent.glob(f"{prefix.name}.*"):
        found += [int(line.split()[2]) / 1e3 for line in path.read_text().splitlines()]
        path.unlink()
    return found
