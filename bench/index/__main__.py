"""Benchmarks of vekter's index beside pgvector's, on one throw-away server.

    make bench [BENCH="delta inserts"] [PGVECTOR_SRC=/path/to/pgvector]

Prints Markdown and writes it to bench/results/. The figures are medians over rounds in which the systems take turns;
a ratio is the median over the rounds of vekter's figure by pgvector's in the same round. Numbers, not tests: nothing
here fails because something is slow.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "integration"))

import batch  # noqa: E402
import build  # noqa: E402
import curves  # noqa: E402
import dataset  # noqa: E402
import delta  # noqa: E402
import filter  # noqa: A004, E402
import growth  # noqa: E402
import inserts  # noqa: E402
import latency  # noqa: E402
import machine  # noqa: E402
import overhead  # noqa: E402
import planner  # noqa: E402
import recall  # noqa: E402
import vacuum  # noqa: E402
from report import Report  # noqa: E402
from scale import FULL, QUICK  # noqa: E402
from server import Server  # noqa: E402

PARTS = {"build": build, "inserts": inserts, "latency": latency, "vacuum": vacuum, "growth": growth, "delta": delta,
         "filter": filter, "planner": planner, "recall": recall, "batch": batch, "overhead": overhead,
         "curves": curves}


def main() -> None:
    arguments = parse_arguments()
    # Ends the server, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scale = QUICK if arguments.quick else FULL
    path = arguments.output or REPOSITORY / "bench" / "results" / time.strftime("index-%Y%m%d-%H%M%S.md")
    report = Report(path)
    rows = dataset.load(scale.rows, scale.queries, made=arguments.quick, dimensions=scale.dimensions_made)
    server = Server(rows, alone=arguments.alone, durable=not arguments.quick)
    try:
        report.say("# vekter beside pgvector\n")
        report.say(machine.describe(server))
        report.say(f"{rows.rows:,} x {rows.dimensions} {rows.what}, {len(rows.queries):,} queries, L2.")
        # A quick run measures nothing.
        with nullcontext() if arguments.quick else machine.awake():
            for name in arguments.parts or PARTS:
                report.heading(PARTS[name].TITLE)
                started = time.monotonic()
                PARTS[name].run(server, report, scale)
                server.drop_templates()
                print(f"\n({name}: {time.monotonic() - started:.0f} s)", file=sys.stderr)
    finally:
        server.close()
    print(f"\nwritten to {path}", file=sys.stderr)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/index", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {' '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="seconds, on few rows: whether it runs, not how fast")
    parser.add_argument("--alone", action="store_true", help="without pgvector, which takes most of the time")
    parser.add_argument("--output", type=Path, help="file for the results (default: one in bench/results)")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {' '.join(sorted(unknown))} (there are: {' '.join(PARTS)})")
    return arguments


if __name__ == "__main__":
    main()
