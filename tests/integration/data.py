"""Vectors for tests: made from a seed, or the real embeddings where they are at hand; with the exact answers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import psycopg

REPOSITORY = Path(__file__).resolve().parents[2]


def clustered(rows: int, dimensions: int, *, seed: int, clusters: int = 100, spread: float = 0.35) -> np.ndarray:
    """(rows, dimensions) float32, around cluster centres of skewed sizes, as embeddings of real things lie.

    The centres are drawn from a normal distribution, the rows from a narrower one (`spread`) around them. Rows of one
    call with `rows = base + queries` belong to the same clusters: slice it to get queries that have neighbours.
    """
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((clusters, dimensions), dtype=np.float32)
    weights = 1.0 / np.arange(1, clusters + 1) ** 0.5
    of_row = generator.choice(clusters, size=rows, p=weights / weights.sum())
    return centres[of_row] + spread * generator.standard_normal((rows, dimensions), dtype=np.float32)


def distances(base: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    """(queries, rows) float64, as the operators give them: l2 `<->`, ip `<#>` (negative), cosine `<=>`, l1 `<+>`."""
    base, queries = base.astype(np.float64), queries.astype(np.float64)
    if metric == "l1":
        return np.stack([np.abs(base - query).sum(1) for query in queries])
    products = queries @ base.T
    if metric == "ip":
        return -products
    if metric == "cosine":
        return 1 - products / np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(base, axis=1))
    if metric == "l2":
        squared = (queries**2).sum(1)[:, None] - 2 * products + (base**2).sum(1)[None, :]
        return np.sqrt(np.maximum(squared, 0))
    raise ValueError(f"no such metric: {metric}")


def exact_neighbours(base: np.ndarray, queries: np.ndarray, k: int, metric: str = "l2") -> np.ndarray:
    """(queries, k) positions of the nearest rows, nearest first."""
    return np.argsort(distances(base, queries, metric), axis=1, kind="stable")[:, :k]


def recall(found, exact) -> float:
    """Mean share of each query's exact neighbours that was found: recall@k, k the width of `exact`."""
    shares = [len(set(map(int, f)) & set(map(int, e))) / len(e) for f, e in zip(found, exact, strict=True)]
    return float(np.mean(shares))


def to_text(vector) -> str:
    """The text form of a vector; float32 survives it to the bit."""
    return "[" + ",".join(np.format_float_positional(x, unique=True, trim="-") for x in np.float32(vector)) + "]"


def copy_vectors(connection: psycopg.Connection, table: str, vectors: np.ndarray, *, ids=None,
                 columns: str = "id, embedding") -> None:
    """Append rows (bigint id, vector) through binary COPY: fast, and every float to the bit.

    `ids` default to 0, 1, ...; `columns` names the id column and the vector column. A vector on the wire is int16
    dimensions, int16 zero, float32 each, all big-endian (the form of pgvector's vector_send).
    """
    rows, dimensions = vectors.shape
    ids = np.arange(rows) if ids is None else np.asarray(ids)
    row = np.dtype([("fields", ">i2"), ("id_bytes", ">i4"), ("id", ">i8"), ("vector_bytes", ">i4"),
                    ("dimensions", ">i2"), ("zero", ">i2"), ("values", ">f4", (dimensions,))])
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} ({columns}) FROM STDIN (FORMAT binary)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for first in range(0, rows, 10_000):
            part = slice(first, first + 10_000)
            block = np.zeros(len(ids[part]), row)
            block["fields"], block["id_bytes"], block["vector_bytes"] = 2, 8, 4 + 4 * dimensions
            block["id"], block["dimensions"], block["values"] = ids[part], dimensions, vectors[part]
            copy.write(block.tobytes())
        copy.write(b"\xff\xff")


def shared_folder() -> Path:
    """Folder of the real embeddings: $VEKTER_DATA, else ../shared/data beside the repository."""
    return Path(os.environ.get("VEKTER_DATA", REPOSITORY.parent / "shared" / "data"))


def shared(name: str) -> Path:
    """A file of the real embeddings; skips the test, saying so, where it is not there."""
    path = shared_folder() / name
    if not path.exists():
        import pytest  # The benchmarks read this module too, where there is no pytest.

        pytest.skip(f"real embeddings are not here: {path} (set VEKTER_DATA to their folder)")
    return path


def wordnet() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(base (115659, 384) float32, normalised; queries (1000, 384) float32; neighbours (1000, 100) int32, exact)."""
    base = np.load(shared("wordnet_minilm_base.f16.npy")).astype(np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    queries = np.load(shared("wordnet_minilm_queries.f32.npy"))
    return base, queries, np.load(shared("wordnet_minilm_neighbors.i32.npy"))
