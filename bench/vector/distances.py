#!/usr/bin/env python3
"""Distances on sequential scans: vekter and pgvector side by side, on one throw-away server.

    PG_CONFIG=/path/to/pg_config bench/vector/distances.py [--dims 128,384,1536] [--rounds 15] [--megabytes 128]

Wants both extensions installed in that PostgreSQL, pgvector as its Makefile compiles it (-march=native; the packages of
distributions are portable builds, which are slower). Both read the same rows, whose layout they share: a second copy
would lie elsewhere in memory, and that alone can make ten per cent. They take turns, query by query, so that a noisy
machine is as noisy to both, and what counts is the time that the server's process has run (Linux, /proc/PID/schedstat),
not what it waited for a processor. Figures are medians over all rounds; the ratio is the median of the rounds' ratios,
vekter's time by pgvector's: below 1, vekter is faster. The table fits into shared buffers. Numbers, not a test: nothing
here fails.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "integration"))
from cluster import Cluster  # noqa: E402

OPERATORS = ("<->", "<#>", "<=>", "<+>")
SCHEMAS = {"vekter": "vekter", "pgvector": "public"}


def main() -> None:
    arguments = parse_arguments()
    cluster = Cluster({"shared_buffers": "1GB", "jit": "off", "max_parallel_workers_per_gather": "0"}).init()
    try:
        with cluster.start().connect() as db:
            install(db)
            print(f"{'dims':>5} {'stored':>8} {'rows':>8} {'':4} {'vekter':>10} {'pgvector':>10}  vekter/pgvector")
            for dims in arguments.dims:
                # As the type is stored by default, and in one piece, where only the distance is left to pay.
                for storage in ("external", "plain") if dims > 500 else ("external",):
                    compare(db, dims, storage, arguments)
    finally:
        cluster.destroy()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=lambda text: [int(part) for part in text.split(",")], default=[128, 384, 1536])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--megabytes", type=int, default=128, help="size of each table's vectors")
    return parser.parse_args()


def install(db) -> None:
    if not db.execute("SELECT FROM pg_available_extensions WHERE name = 'vector'").rowcount:
        sys.exit("pgvector is not installed in this PostgreSQL: clone https://github.com/pgvector/pgvector, make, make install")
    db.execute("CREATE EXTENSION vector; CREATE SCHEMA vekter; CREATE EXTENSION vekter SCHEMA vekter")
    db.execute("CREATE CAST (public.vector AS vekter.vector) WITHOUT FUNCTION")
    versions = db.execute("SELECT extname, extversion FROM pg_extension WHERE extname ~ '^ve' ORDER BY 1").fetchall()
    print(*(f"{name} {version}" for name, version in versions), sep=", ")


def compare(db, dims: int, storage: str, arguments) -> None:
    rows = arguments.megabytes * 1_000_000 // (4 * dims)
    db.execute("DROP TABLE IF EXISTS vectors")
    db.execute("SELECT setseed(0.5)")
    db.execute(f"CREATE UNLOGGED TABLE vectors (v public.vector({dims}))")
    db.execute(f"ALTER TABLE vectors ALTER v SET STORAGE {storage}")
    # Uniform values: the time of a distance does not depend on them.
    db.execute(f"INSERT INTO vectors SELECT (SELECT array_agg(random()::real) FROM generate_series(i, i + {dims - 1})) "
               f"FROM generate_series(1, {rows}) i")
    db.execute("VACUUM (FREEZE, ANALYZE) vectors")
    query = "[" + ",".join(str(i % 10 / 10) for i in range(dims)) + "]"
    for operator in OPERATORS:
        times = {system: [] for system in SCHEMAS}
        for round in range(arguments.rounds + 2):
            for system in list(SCHEMAS)[::1 if round % 2 else -1]:
                elapsed = scan(db, SCHEMAS[system], operator, query)
                # The first two rounds warm the caches.
                if round >= 2:
                    times[system].append(elapsed)
        ratio = statistics.median(ours / theirs for ours, theirs in zip(times["vekter"], times["pgvector"]))
        medians = (f"{statistics.median(times[system]) / rows:7.0f} ns" for system in SCHEMAS)
        print(f"{dims:5} {storage:>8} {rows:8} {operator:4}", *medians, f"{ratio:8.2f}", flush=True)


def scan(db, schema: str, operator: str, query: str) -> int:
    """Nanoseconds of one scan that computes every row's distance and returns none."""
    sql = (f"SELECT count(*) FROM vectors WHERE "
           f"(v::{schema}.vector OPERATOR({schema}.{operator}) '{query}'::{schema}.vector) = 12345")
    start = running_ns(db)
    db.execute(sql)
    return running_ns(db) - start


def running_ns(db) -> int:
    return int(Path(f"/proc/{db.info.backend_pid}/schedstat").read_text().split()[0])


if __name__ == "__main__":
    main()
