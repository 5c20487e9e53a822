"""Tables in Markdown: printed as soon as they are known, and kept in a file."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path


class Report:
    """Writes paragraphs and tables to standard output and to `path` at once."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.file = open(path, "w", encoding="utf-8")

    def say(self, text: str) -> None:
        print(text, flush=True)
        print(text, file=self.file, flush=True)

    def progress(self, text: str) -> None:
        """For who waits; not part of the results."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def heading(self, text: str) -> None:
        self.say(f"\n## {text}\n")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Columns are padded so that the table can also be read as it stands; numbers are right-aligned."""
        texts = [[str(cell) for cell in row] for row in rows]
        widths = [max(len(row[i]) for row in [list(columns), *texts]) for i in range(len(columns))]

        def line(cells: Sequence[str]) -> str:
            padded = [cell.ljust(width) if i == 0 else cell.rjust(width)
                      for i, (cell, width) in enumerate(zip(cells, widths, strict=True))]
            return "| " + " | ".join(padded) + " |"

        rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
        self.say("\n".join([line(columns), line(rule), *map(line, texts)]))


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not exceeded by `share` (0 to 1) of the values."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def ratio(ours: Sequence[float], theirs: Sequence[float] | None) -> str:
    """Median over the rounds of ours / theirs; both come from the same rounds, so that noise falls on both."""
    if not theirs or not all(theirs):
        return "–"
    return number(median([mine / other for mine, other in zip(ours, theirs, strict=True)]))


def number(value: float) -> str:
    """Three significant digits, thousands separated."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"
