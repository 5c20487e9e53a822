"""The benchmark program runs from end to end; what it measures is nobody's business here."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from data import REPOSITORY

PARTS = ("build", "inserts", "latency", "vacuum", "growth", "delta", "filter", "planner", "recall", "batch",
         "overhead", "curves")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What a quick run of all parts wrote."""
    path = tmp_path_factory.mktemp("bench") / "results.md"
    done = subprocess.run([sys.executable, REPOSITORY / "bench/index", "--quick", "--output", path],
                          capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return path.read_text()


def test_every_part_of_the_benchmark_ends_in_a_table_of_vekter(results):
    sections = results.split("\n## ")[1:]
    assert len(sections) == len(PARTS)
    for section in sections:
        assert re.search(r"^\| -+ \|.*\n\|.*\d", section, re.MULTILINE), section


def test_the_results_name_the_machine_and_how_busy_it_was(results):
    assert re.search(r"\d+ cores, .* PostgreSQL .*, vekter .*, pgvector .*load average", results)


def test_an_unknown_part_is_refused_with_the_names_of_those_there_are():
    done = subprocess.run([sys.executable, REPOSITORY / "bench/index", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert all(part in done.stderr for part in PARTS)
