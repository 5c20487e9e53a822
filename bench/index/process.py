"""The processor time of a backend."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from cluster import children_of

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class Spent:
    cpu_s: float = 0.0


@contextmanager
def cpu_time(db: psycopg.Connection) -> Iterator[Spent]:
    """User and system seconds that the backend of `db` spends inside the block, all its threads together.

    Unlike the time on the clock it does not grow while other work has the processor. Resolution: a tick, 10 ms.
    """
    before, spent = _cpu_s(db), Spent()
    yield spent
    spent.cpu_s = _cpu_s(db) - before


def _cpu_s(db: psycopg.Connection) -> float:
    # Fields 14 and 15 of proc(5); the name in parentheses, field 2, may hold blanks.
    fields = Path(f"/proc/{db.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def bytes_written(postmaster: int) -> int:
    """Bytes that a server's processes have caused to be sent to storage since it started, ended processes included.

    Linux adds what a process wrote to its parent's account when the parent takes notice of its end.
    """
    total = 0
    for io in [Path(f"/proc/{postmaster}/io"), *(Path(f"/proc/{child}/io") for child in children_of(postmaster))]:
        try:
            total += int(re.search(r"^write_bytes: (\d+)$", io.read_text(), re.MULTILINE)[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total
