"""The rows that are indexed and the queries: the real embeddings where they are at hand, else made from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import data

K = 10
"""Rows wanted by every search, and the k of recall@k."""


@dataclass(frozen=True)
class Dataset:
    """`base` (rows, dimensions) and `queries` (queries, dimensions), float32. `nearest` (queries, K): positions in
    the base."""

    what: str
    base: np.ndarray
    queries: np.ndarray
    nearest: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.base)

    @property
    def dimensions(self) -> int:
        return self.base.shape[1]


def load(rows: int, queries: int, *, made: bool = False, dimensions: int = 384) -> Dataset:
    """At most `rows` rows of the real embeddings; `made`, or where those are absent: as many clustered ones of so many
    dimensions."""
    if not made and (data.shared_folder() / "wordnet_minilm_base.f16.npy").exists():
        base, asked, nearest = data.wordnet()
        what = "all-MiniLM-L6-v2 embeddings of WordNet glosses"
    else:
        both = data.clustered(rows + queries, dimensions, seed=1)
        both /= np.linalg.norm(both, axis=1, keepdims=True)
        base, asked, nearest = both[:rows], both[rows:], None
        what = "made embeddings (the real ones are not here, or not wanted)"
    asked = asked[:queries]
    if nearest is None or rows < len(base):
        base = base[:rows]
        nearest = nearest_of(base, asked)
    return Dataset(what, base, asked, nearest[:queries, :K])


def nearest_of(base: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """(queries, K) positions of the nearest rows by L2, exact."""
    squares = (base.astype(np.float64) ** 2).sum(1)
    distances = squares[None, :] - 2 * (queries @ base.T)
    return np.argpartition(distances, K, axis=1)[:, :K]
