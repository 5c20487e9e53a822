"""One paragraph on what the figures were measured on, and how busy that was."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server import Server
from systems import PGVECTOR, VEKTER


def describe(server: Server) -> str:
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0]
    versions = [f"PostgreSQL {server.cluster.execute('SHOW server_version')[0][0]}"]
    versions.append(f"vekter {server.version(VEKTER)}")
    versions.append(f"pgvector {server.version(PGVECTOR)}" if server.has_pgvector() else
                    "without pgvector" if server.alone else "pgvector is not installed, so that vekter runs alone")
    busy = "" if load < 0.5 else (
        f" **Other work was on this machine** (load average {load:.1f} on {cores} cores at the start): the ratios are "
        "of runs side by side, the absolute figures are lower than a quiet machine's.")
    return (f"{_processor()}, {cores} cores, {_memory_gb():.0f} GB of memory, Linux {platform.release()}; "
            f"{', '.join(versions)}; load average {load:.2f} at the start.{busy}")


@contextmanager
def awake() -> Iterator[None]:
    """Keeps the processors from halting, by processes that give way to all others at once (SCHED_IDLE).

    A client and its session take turns, so that one of them waits at any time. A virtual machine that halts a processor
    meanwhile takes longer to wake it than many of the statements here take.
    """
    spin = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
    spinning = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
