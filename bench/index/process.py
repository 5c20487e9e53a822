"""What processes spend: processor time and bytes written, as Linux accounts for them."""

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
    return sum(_ticks(db.info.backend_pid)[:2]) / TICKS_PER_S


def server_cpu_s(postmaster: int) -> float:
    """User and system seconds of all processes of a server since it started, ended ones included."""
    ticks = sum(_ticks(postmaster))
    for child in children_of(postmaster):
        try:
            ticks += sum(_ticks(child)[:2])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return ticks / TICKS_PER_S


def _ticks(pid: int) -> list[int]:
    """User and system time of a process, and of the children whose end it has noticed."""
    # Fields 14 to 17 of proc(5); the name in parentheses, field 2, may hold blanks.
    return list(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))


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
