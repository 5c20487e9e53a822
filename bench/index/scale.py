"""How much of everything: enough for figures, or just enough to see that the program runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    rows: int
    """Rows of the whole table."""
    queries: int
    dimensions_made: int
    """Of the rows, where they are made."""
    rounds: int
    """Rounds in which the variants take turns."""
    build_rounds: int
    search_length: tuple[str, int]
    """How long pgbench searches: `-T` seconds or `-t` statements a connection."""
    initial_rows: int
    """Rows in the index before inserts begin."""
    insert_rows: int
    """Rows that one run inserts into an index of vekter; `insert_rows_slow`: into one of pgvector."""
    insert_rows_slow: int
    single_row_share: float
    """Of those, the part that a run of single-row statements inserts; `single_row_share_slow` for pgvector."""
    single_row_share_slow: float
    insert_rows_durable: int
    """At most so many single rows are inserted on each connection where every commit waits for the disk."""
    latency_rows: int
    """Rows in the index before searches and inserts begin."""
    latency_s: int
    steady_rows_per_s: int
    vacuum_rows: int
    vacuum_rounds: int
    delta_rows: tuple[int, ...]
    delta_searches: int
    filter_queries: int
    planner_tables: tuple[tuple[int, int], ...]
    """(rows, dimensions) of the tables that the planner chooses for."""
    planner_queries: int
    curves: tuple[tuple[int | None, int], ...]
    """(rows, dimensions) of made tables; None: the whole table."""
    draws: bool
    """Whether charts in the documentation are replaced."""
    recall_metrics: tuple[str, ...]
    exact_queries: int
    """Queries that an exact index of the whole table is asked, one by one."""


FULL = Scale(
    rows=115_659, queries=1_000, dimensions_made=384, rounds=3,
    build_rounds=1, search_length=("-T", 3),
    initial_rows=10_000, insert_rows=60_000, insert_rows_slow=4_000, single_row_share=0.1, single_row_share_slow=0.5,
    insert_rows_durable=500,
    latency_rows=50_000, latency_s=4, steady_rows_per_s=500,
    vacuum_rows=100_000, vacuum_rounds=1,
    delta_rows=(512, 1_280, 2_560, 5_120), delta_searches=1_000,
    filter_queries=100, planner_tables=((1_000, 384), (10_000, 3), (100_000, 128), (20_000, 1_536), (1_000_000, 16)),
    planner_queries=20, curves=((None, 0), (1_000_000, 128), (200_000, 1_536)), draws=True,
    recall_metrics=("l2", "ip", "cosine"), exact_queries=200)
QUICK = Scale(
    rows=4_300, queries=20, dimensions_made=96, rounds=1,
    build_rounds=1, search_length=("-t", 20),
    initial_rows=200, insert_rows=4_000, insert_rows_slow=200, single_row_share=0.1, single_row_share_slow=0.5,
    insert_rows_durable=50,
    latency_rows=500, latency_s=1, steady_rows_per_s=500,
    vacuum_rows=500, vacuum_rounds=1,
    delta_rows=(50, 100), delta_searches=20,
    filter_queries=5, planner_tables=((2_000, 16),), planner_queries=3, curves=((None, 0), (3_000, 32)), draws=False,
    recall_metrics=("cosine",), exact_queries=20)
