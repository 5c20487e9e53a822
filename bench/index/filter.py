"""Searches among the rows that pass a condition, from a few in ten thousand to half of them."""

from __future__ import annotations

import time

import numpy as np
import psycopg

import data
from dataset import K
from report import Report, median, number
from server import Server
from systems import HNSW, IVF, PGVECTOR_HNSW, Variant, faiss

TITLE = "Filtered search"
VARIANTS = [HNSW, faiss("IVF512,Flat"), IVF]
ENOUGH = 0.95
# The category of the row at these places among the categories, by their number of rows; and parts of all rows that
# have nothing to do with their embeddings.
CATEGORY_PLACES = (0.0, 0.25, 0.5, 0.7, 0.85, 0.95, 1.0)
PARTS = (0.02, 0.1, 0.5)
PART_UNITS = 1000
EXACT = ("SELECT id FROM items WHERE {where} ORDER BY (embedding <-> (SELECT embedding FROM queries WHERE id = %s)) + 0 "
         f"LIMIT {K}")
PLAIN = ("SELECT id FROM items WHERE {where} ORDER BY embedding <-> (SELECT embedding FROM queries WHERE id = %s) "
         f"LIMIT {K}")
KNN = f"SELECT id FROM knn('items', (SELECT embedding FROM queries WHERE id = %s), {K}, filter => $condition${{where}}$condition$)"


def run(server: Server, report: Report, scale) -> None:
    variants = VARIANTS + ([PGVECTOR_HNSW] if server.has_pgvector() else [])
    labels = categories(server.dataset.rows)
    report.say(f"recall@{K} and median milliseconds of {scale.filter_queries} queries, one connection, default settings. "
               "Exact: the rows that pass, by a bitmap scan, and a sort. Categories are those of the embedded texts "
               "where those are at hand, else made; the parts are of rows at random. B-tree indexes on both.\n")
    everywhere = {}
    for variant in variants:
        report.progress(variant.label)
        with server.copy(server.template(variant, server.dataset.rows)) as name, server.connect(name, variant) as db:
            parts = prepare(db, labels)
            report.table([variant.label, "% of rows", *(f"{way} {what}" for way in ways(variant)
                                                  for what in ("recall", "ms"))],
                         [row(server, db, variant, condition, passes, scale)
                          for condition, passes in conditions(labels, parts)])
            report.say("")
            if variant.is_vekter:
                half = ("half of the rows", f"part < {PART_UNITS // 2}", parts < PART_UNITS // 2)
                everywhere[variant.label] = [
                    (what, passes.mean(), knn_recall(server, db, condition, passes, scale.filter_queries))
                    for what, condition, passes in [*every_category(labels), half]]
    report_everywhere(report, everywhere)


def every_category(labels: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
    """(name, condition, which rows pass), fewest rows first."""
    names, counts = np.unique(labels, return_counts=True)
    return [(names[place], f"category = '{names[place]}'", labels == names[place])
            for place in np.argsort(counts, kind="stable")]


def knn_recall(server: Server, db: psycopg.Connection, condition: str, passes: np.ndarray, queries: int) -> float:
    found, _ = measure(db, KNN.format(where=condition), queries, {})
    return recall(found, nearest_passing(server, passes, queries))


def report_everywhere(report: Report, everywhere: dict[str, list[tuple[str, float, float]]]) -> None:
    """`everywhere`: by index (what passes, part of all rows, recall), the same conditions for each."""
    report.say(f"recall@{K} of `knn(filter => ...)` in every category:\n")
    rows = [[what, number(100 * share), *(f"{one[place][2]:.3f}" for one in everywhere.values())]
            for place, (what, share, _) in enumerate(next(iter(everywhere.values())))]
    least = [f"{min(found for *_, found in one):.3f}" for one in everywhere.values()]
    report.table(["category", "% of rows", *everywhere], [*rows, ["least", "", *least]])
    missed = [f"{label} in {what}" for label, one in everywhere.items() for what, _, found in one if found < ENOUGH]
    report.say(f"\nLess than {ENOUGH}: {', '.join(missed) or 'none'}.")


def ways(variant: Variant) -> dict[str, tuple[str, dict[str, str]]]:
    """Name -> (query, settings)."""
    if variant.is_vekter:
        return {"knn": (KNN, {}), "plain": (PLAIN, {}), "exact": (EXACT, {})}
    iterative = {"hnsw.iterative_scan": "strict_order"}
    return {"default": (PLAIN, {}), "iterative": (PLAIN, iterative), "exact": (EXACT, {})}


def categories(rows: int) -> np.ndarray:
    path = data.shared_folder() / "wordnet_rows.tsv"
    if path.exists():
        found = [line.split("\t")[2] for line in path.read_text(encoding="utf-8").splitlines()[:rows]]
        if len(found) == rows:
            return np.array(found)
    shares = 1.0 / np.arange(1, 46)
    drawn = np.random.default_rng(2).choice(45, size=rows, p=shares / shares.sum())
    return np.array([f"category {number}" for number in drawn])


def prepare(db: psycopg.Connection, labels: np.ndarray) -> np.ndarray:
    """Adds the columns `category` and `part` with their indexes; the rows' parts."""
    parts = np.random.default_rng(3).integers(0, PART_UNITS, len(labels))
    db.execute("CREATE TABLE labels (id bigint, category text, part integer)")
    with db.cursor() as cursor, cursor.copy("COPY labels FROM STDIN") as copy:
        for id, (label, part) in enumerate(zip(labels, parts, strict=True)):
            copy.write_row((id, label, int(part)))
    [[definition]] = db.execute("SELECT pg_get_indexdef('items_index'::regclass)").fetchall()
    db.execute("CREATE TABLE labelled AS SELECT i.id, l.category, l.part, i.embedding FROM items i JOIN labels l USING (id) "
               "ORDER BY id")
    db.execute("DROP TABLE items, labels")
    db.execute("ALTER TABLE labelled RENAME TO items")
    db.execute("ALTER TABLE items ADD PRIMARY KEY (id)")
    db.execute(definition)
    db.execute("CREATE INDEX ON items (category)")
    db.execute("CREATE INDEX ON items (part)")
    db.execute("VACUUM (ANALYZE) items")
    return parts


def conditions(labels: np.ndarray, parts: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """(condition, which rows pass), fewest first."""
    names, counts = np.unique(labels, return_counts=True)
    order = np.argsort(counts, kind="stable")
    places = dict.fromkeys(int(order[round(place * (len(names) - 1))]) for place in CATEGORY_PLACES)
    chosen = [(f"category = '{names[place]}'", labels == names[place]) for place in places]
    chosen += [(f"part < {int(part * PART_UNITS)}", parts < part * PART_UNITS) for part in PARTS]
    return chosen


def row(server: Server, db: psycopg.Connection, variant: Variant, condition: str, passes: np.ndarray, scale) -> list:
    nearest = nearest_passing(server, passes, scale.filter_queries)
    cells = [condition, number(100 * passes.mean())]
    for query, settings in ways(variant).values():
        found, milliseconds = measure(db, query.format(where=condition), len(nearest), settings)
        cells += [f"{recall(found, nearest):.3f}", number(milliseconds)]
    return cells


def nearest_passing(server: Server, passes: np.ndarray, queries: int) -> np.ndarray:
    """(queries, K or as many as pass): ids of the rows that pass, nearest first."""
    ids = np.flatnonzero(passes)
    distances = data.distances(server.dataset.base[ids], server.dataset.queries[:queries], "l2")
    return ids[np.argsort(distances, axis=1, kind="stable")[:, :K]]


def recall(found: list[list[int]], nearest: np.ndarray) -> float:
    return data.recall(found, nearest) if nearest.size else 0.0


def measure(db: psycopg.Connection, query: str, queries: int, settings: dict[str, str]):
    for name, value in settings.items():
        db.execute("SELECT set_config(%s, %s, false)", [name, value])
    found, times = [], []
    for number_ in [0, *range(queries)]:
        started = time.perf_counter()
        rows = db.execute(query, [number_], prepare=True).fetchall()
        times.append(time.perf_counter() - started)
        found.append([id for id, in rows])
    for name in settings:
        db.execute(f"RESET {name}")
    # The first one warmed up.
    return found[1:], median(times[1:]) * 1e3
