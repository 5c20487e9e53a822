"""Recall against speed, over the search parameters of each index, as tables and as charts for docs/performance.md."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import numpy as np

import data
import dataset
from dataset import K, Dataset
from report import Report, number
from server import SEARCH_SETTINGS, Server
from systems import HNSW, NO_INDEX, PGVECTOR_HNSW, Variant, faiss

TITLE = "Recall against speed"
CHARTS = Path(__file__).resolve().parents[2] / "docs" / "performance"
EF_SEARCH = (16, 24, 40, 64, 100, 160, 250, 400)
NPROBE = (2, 4, 8, 16, 32, 64)
HNSW_LINKS = 32
Point = tuple[str, float, float]
"""Parameter, recall@K, queries/s."""


def run(server: Server, report: Report, scale) -> None:
    report.say(f"recall@{K} and queries/s of one connection (pgbench, prepared, the query from a table, LIMIT {K}), over "
               "`vekter.ef_search`, `vekter.nprobe` and `hnsw.ef_search`. FAISS: the same kind of graph, built and searched "
               "in Python on one thread (faiss-cpu of PyPI).\n")
    whole = server.dataset
    try:
        for rows, dimensions in scale.curves:
            server.dataset = whole if rows is None else made(rows, dimensions, scale.queries)
            of = server.dataset
            name = f"{of.rows:,} x {of.dimensions}"
            report.progress(name)
            curves = {variant.label: curve(server, report, variant, setting, values, scale)
                      for variant, setting, values in variants(server)}
            if importlib.util.find_spec("faiss") is not None:
                curves["FAISS HNSW32, no SQL"] = faiss_curve(of)
            report.table([name, "parameter", f"recall@{K}", "queries/s"],
                         [[label, parameter, f"{recall:.4f}", number(speed)]
                          for label, points in curves.items() for parameter, recall, speed in points])
            report.say("")
            if scale.draws:
                draw(CHARTS / f"{of.dimensions}.svg", f"{name}: {of.what}", curves)
            server.drop_templates()
    finally:
        server.dataset = whole


def made(rows: int, dimensions: int, queries: int) -> Dataset:
    both = data.clustered(rows + queries, dimensions, seed=1, clusters=1_000)
    base, asked = both[:rows], both[rows:]
    return Dataset("made, clustered", base, asked, dataset.nearest_of(base, asked))


def variants(server: Server) -> list[tuple[Variant, str, tuple[int, ...]]]:
    """Index, setting, and the setting's values."""
    rows, dimensions = server.dataset.rows, server.dataset.dimensions
    lists = 2 ** round(np.log2(4 * rows ** 0.5) - 1)
    codes = faiss(f"IVF{lists},PQ{dimensions // 4}x4fs,RFlat")
    of_vekter = [(HNSW, "vekter.ef_search", EF_SEARCH), (codes, "vekter.nprobe", NPROBE)]
    return of_vekter + ([(PGVECTOR_HNSW, "hnsw.ef_search", EF_SEARCH)] if server.has_pgvector() else [])


def curve(server: Server, report: Report, variant: Variant, setting: str, values: tuple[int, ...], scale) -> list[Point]:
    points = []
    # The index is built in the copy: no template of it is needed again.
    bare = Variant(variant.label, variant.extension, NO_INDEX.index)
    with server.copy(server.template(bare, server.dataset.rows)) as name:
        with server.connect(name, variant) as db:
            started = time.monotonic()
            db.execute(f"CREATE INDEX items_index ON items {variant.index}")
            report.say(f"* {variant.label}: CREATE INDEX {number(time.monotonic() - started)} s")
        for value in values:
            searched = variant.having(**{setting.replace(".", "__"): value})
            with server.connect(name, searched) as db:
                recall = server.recall(db)
            speed = server.pgbench(name, searched, server.search_script(), *scale.search_length, **SEARCH_SETTINGS)
            points.append((f"{setting.partition('.')[2]} = {value}", recall, speed))
    return points


def faiss_curve(of: Dataset) -> list[Point]:
    import faiss

    index = faiss.IndexHNSWFlat(of.dimensions, HNSW_LINKS)
    index.add(of.base)
    faiss.omp_set_num_threads(1)
    points = []
    for value in EF_SEARCH:
        index.hnsw.efSearch = value
        started = time.perf_counter()
        found = [index.search(query[None, :], K)[1][0] for query in of.queries]
        speed = len(of.queries) / (time.perf_counter() - started)
        points.append((f"efSearch = {value}", data.recall(found, of.nearest), speed))
    faiss.omp_set_num_threads(faiss.omp_get_max_threads())
    return points


def draw(path: Path, title: str, curves: dict[str, list[Point]]) -> None:
    """A chart of the points from a recall of 0.9 on."""
    if importlib.util.find_spec("matplotlib") is None:
        return
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for label, points in curves.items():
        shown = [(recall, speed) for _, recall, speed in points if recall >= 0.9]
        axes.plot(*zip(*shown, strict=True) if shown else ([], []), marker="o", label=label)
    axes.set(title=title, xlabel=f"recall@{K}", ylabel="queries/s, one connection", yscale="log")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
