"""Indexes that earlier versions of vekter wrote, as formats/ keeps them: what is stored, and how a test asks them.

A collection is two files. `NAME.tar.xz` has the main fork of each index, byte for byte. `NAME.json` has the statements
that make the same rows in the same places of their table, and what the version that wrote the indexes found in them.
A later version needs nothing else, so what makes new collections (formats/make_collections.py) may change.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path

from oracle import ONLY_INDEX, OPERATORS, assert_nearest, indexes_used, same, settings, without_index
from upkeep import vacuum_dead_rows

FOLDER = Path(__file__).parent / "formats"
# Nothing but statements changes an index.
SERVER = {"vekter.background_compaction": "off"}
K = 10
# Every row is a candidate, which its row in the table then ranks: the answer is exact, whatever the codes.
EVERY_CANDIDATE = {"vekter.nprobe": 64, "vekter.ef_search": 2_000, "vekter.k_factor": 2_000}
# As many candidates as rows are asked for: what is found depends on what codes, lists and links say.
FEWEST_CANDIDATES = {"vekter.nprobe": 2, "vekter.ef_search": K, "vekter.k_factor": 1}
# Of ids that no row has.
QUERY_IDS = range(1_000_000, 1_000_020)
# vekter's functions lie in a schema of their own where pgvector was first. A prepared plan would keep its index when
# another one is shown.
CONNECTION = {"options": "-c search_path=public,vekter", "prepare_threshold": None}


@dataclass(frozen=True)
class Items:
    """The table `items` of a collection, with columns id and embedding."""

    type: str
    dimensions: int
    # The ids from 1 on that were there when its indexes were built.
    built_rows: int

    def row(self, id: object) -> str:
        """The embedding of the row with this id, by the function that each collection's setup makes."""
        return f"row_of({id}, {self.dimensions})::{self.type}({self.dimensions})"

    def insert(self, first: int, last: int) -> str:
        return f"INSERT INTO items SELECT i, {self.row('i')} FROM generate_series({first}, {last}) i"

    def nearest_sql(self, metric: str, query: str, limit: int | None = None) -> str:
        distance = f"embedding {OPERATORS[metric]} '{query}'::{self.type}"
        return f"SELECT id, {distance} FROM items ORDER BY {distance} LIMIT {limit or 'NULL'}"


@dataclass(frozen=True)
class StoredIndex:
    name: str
    metric: str
    statement: str
    # What the version that wrote it found in it; empty until then.
    found: dict
    items: Items

    @property
    def factory(self) -> str:
        """The factory of what was built."""
        return next(factory for factory, rows, _ in self.found["segments"] if rows == self.items.built_rows)


@dataclass(frozen=True)
class Collection:
    name: str
    format_version: int
    # vekter and PostgreSQL by their versions, for people.
    written_by: str
    # The next transaction id of the server that wrote it: pages name transactions before it.
    next_xid: int
    # Extensions, a function row_of(id, dimensions) and the table; rows to build the indexes over; all that came later.
    setup: list[str]
    built: list[str]
    later: list[str]
    items: Items
    # A digest of where the rows of the table lie.
    places: str
    indexes: list[StoredIndex]

    @staticmethod
    def read(path: Path) -> Collection:
        contents = json.loads(path.read_text())
        items = Items(**contents.pop("items"))
        indexes = [StoredIndex(**index, items=items) for index in contents.pop("indexes")]
        return Collection(name=path.stem, items=items, indexes=indexes, **contents)

    def write(self) -> None:
        """The file that `read` reads, with a line for each index."""
        contents = asdict(self)
        del contents["name"]
        indexes = [json.dumps({key: value for key, value in index.items() if key != "items"})
                   for index in contents.pop("indexes")]
        head = json.dumps(contents, indent=1).removesuffix("\n}")
        with open(FOLDER / f"{self.name}.json", "x") as file:
            file.write(head + ',\n "indexes": [\n  ' + ",\n  ".join(indexes) + "\n ]\n}\n")

    def pages(self) -> dict[str, bytes]:
        """The main forks, by the name of the index."""
        with tarfile.open(FOLDER / f"{self.name}.tar.xz") as archive:
            return {member.name: archive.extractfile(member).read() for member in archive}

    def needs_pgvector(self) -> bool:
        return any("pgvector" in statement for statement in self.setup)


def collections() -> list[Collection]:
    return [Collection.read(path) for path in sorted(FOLDER.glob("*.json"))]


def connect(cluster, database: str):
    return cluster.connect(database, **CONNECTION)


def run(conn, statements: list[str]) -> None:
    """The statements, in order and on one connection: where rows lie depends on it."""
    for statement in statements:
        if statement.startswith("VACUUM "):
            vacuum_dead_rows(conn, statement.removeprefix("VACUUM "))
        else:
            conn.execute(statement)


def show_alone(conn, index: StoredIndex) -> None:
    """Hides the table's other indexes from the planner until another one is shown: each would serve the same query."""
    conn.execute("UPDATE pg_index SET indisvalid = NOT indisvalid WHERE indrelid = 'items'::regclass "
                 "AND indisvalid <> (indexrelid = %s::regclass)", [index.name])


def places(conn) -> str:
    return conn.execute("SELECT md5(string_agg(id || ' ' || ctid, ',' ORDER BY id)) FROM items").fetchone()[0]


def inspect(conn, index: StoredIndex) -> dict:
    """What the index says of itself, from its own pages."""
    columns = "factory", "metric", "dimensions", "segments", "rows_indexed", "delta_rows", "dead_rows"
    stats = conn.execute(f"SELECT {', '.join(columns)} FROM vekter_index_stats(%s)", [index.name]).fetchone()
    segments = conn.execute("SELECT factory, rows, dead_rows FROM vekter_segments(%s) ORDER BY rows",
                            [index.name]).fetchall()
    [[points]] = conn.execute("SELECT count(*) FROM vekter_operating_points(%s)", [index.name]).fetchall()
    return {**dict(zip(columns, stats)), "segments": list(map(list, segments)), "operating_points": points}


class Questions:
    """Queries of the table in a database, and the whole answers of the sequential scan, which no index changes."""

    def __init__(self, conn, items: Items, metrics: set[str]):
        self.by_metric = {}
        for metric in metrics:
            queries = [conn.execute(f"SELECT {items.row(id)}::text").fetchone()[0] for id in QUERY_IDS]
            self.by_metric[metric] = [
                (query, without_index(conn, items.nearest_sql(metric, query))) for query in queries]

    def built_recall(self, conn, index: StoredIndex) -> float:
        """The share of true neighbours that a search with the fewest candidates finds, among the rows that the index
        was built over: all others are stored exactly."""
        found = wanted = 0
        for answer, every_row in self._answers(conn, index, FEWEST_CANDIDATES, len(QUERY_IDS), K):
            near, exact = ([distance for id, distance in rows if id <= index.items.built_rows]
                           for rows in (answer, every_row[:K]))
            # Rows as near as the last one are as right.
            right = [distance for distance in near if exact and (distance <= exact[-1] or same(distance, exact[-1]))]
            found += min(len(exact), len(right))
            wanted += len(exact)
        return round(found / wanted, 3)

    def assert_exact_answers(self, conn, index: StoredIndex) -> None:
        """With every row as a candidate the answer is the sequential scan's: of the nearest rows, and of all."""
        for queries, limit in ((5, K), (1, None)):
            for answer, every_row in self._answers(conn, index, EVERY_CANDIDATE, queries, limit):
                assert_nearest(answer, every_row, limit)

    def _answers(self, conn, index: StoredIndex, searched: dict[str, object], queries: int, limit: int | None):
        """The index's answer to each of the first queries, and all rows by their distance."""
        asked = self.by_metric[index.metric][:queries]
        with settings(conn, **ONLY_INDEX, **searched):
            assert indexes_used(conn, index.items.nearest_sql(index.metric, asked[0][0], limit)) == {index.name}
            for query, every_row in asked:
                yield conn.execute(index.items.nearest_sql(index.metric, query, limit)).fetchall(), every_row
