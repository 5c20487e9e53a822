"""How long the exact scan of the delta takes: the default of vekter.delta_limit keeps it under a millisecond."""

from __future__ import annotations

import time

from dataset import K
from process import cpu_time
from report import Report, median, number, percentile
from server import SEARCH_SETTINGS, Server
from systems import FLAT

TITLE = "Exact scan of the delta"
WARM_UP = 50
NEVER_SEALED = {"vekter.delta_limit": 2_000_000, "vekter.background_compaction": "off", **SEARCH_SETTINGS}
SEARCH = f"SELECT id FROM items ORDER BY embedding <-> (SELECT embedding FROM queries WHERE id = %s) LIMIT {K}"


def run(server: Server, report: Report, scale) -> None:
    # An index over no rows: what is inserted is all in the delta, and nothing else is searched.
    most = max(scale.delta_rows)
    template = server.template(FLAT, 0, to_come=most)
    latencies: dict[int, list[float]] = {}
    cpu_ms: dict[int, float] = {}
    kilobytes: dict[int, int] = {}
    with server.copy(template) as name, server.connect(name, FLAT, **NEVER_SEALED) as db:
        filled = 0
        for rows in (0, *scale.delta_rows):
            db.execute("INSERT INTO items SELECT * FROM source ORDER BY id LIMIT %s OFFSET %s", [rows - filled, filled])
            filled = rows
            assert server.shape(db)[1] == rows, "something has sealed the delta"
            kilobytes[rows] = db.execute("SELECT pg_relation_size('items_index') / 1024").fetchone()[0]
            search(db, len(server.dataset.queries), WARM_UP)
            with cpu_time(db) as spent:
                latencies[rows] = search(db, len(server.dataset.queries), scale.delta_searches)
            cpu_ms[rows] = spent.cpu_s * 1e3 / scale.delta_searches
    report.say(f"One connection, prepared searches for {K} rows of {server.dataset.dimensions} dimensions; latencies "
               "at the client, CPU time of the backend (mean).\n")
    report.table(["rows in the delta", "kB", "median ms", "p10 ms", "p99 ms", "CPU ms",
                  "above an empty delta: median ms", "CPU ms"],
                 [[f"{rows:,}", f"{kilobytes[rows] - kilobytes[0]:,.0f}", number(median(times)),
                   number(percentile(times, 0.1)), number(percentile(times, 0.99)), number(cpu_ms[rows]),
                   number(median(times) - median(latencies[0])), number(cpu_ms[rows] - cpu_ms[0])]
                  for rows, times in latencies.items()])


def search(db, queries: int, searches: int) -> list[float]:
    """Milliseconds of each of so many searches."""
    times = []
    for query in range(searches):
        start = time.perf_counter()
        db.execute(SEARCH, [query % queries], prepare=True).fetchall()
        times.append((time.perf_counter() - start) * 1e3)
    return times
