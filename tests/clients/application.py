"""The promise to applications of pgvector, as the tests of all clients put it: the application fills its table and
searches; two statements follow; the application, still running, sends the same searches again. They give the same rows,
and a faiss index answers them.

The server logs the plan of each statement (auto_explain), so the tests judge what the client sent, and not what
somebody thinks that it sends.
"""

import json
import os
import re
from typing import NamedTuple

from beside_pgvector import INSTALL
from data import clustered
from oracle import nodes_of

ROWS, DIMENSIONS = 4_000, 96
# Of one session, enough for every cache of plans: drivers prepare a statement that was sent some times, and PostgreSQL
# may change to a generic plan after five executions.
REPETITIONS = 14
_vectors = clustered(ROWS + REPETITIONS, DIMENSIONS, seed=901)
VECTORS, QUERIES = _vectors[:ROWS], _vectors[ROWS:]
# Between a query and the nearer half of the rows of its cluster.
RADIUS, SIMILARITY = 4.9, 0.89
# What applications connect as: the owner of their database, and no superuser. Extensions are a superuser's.
USER = "application"
GENRES = ("rock", "jazz", "folk", "techno")

PLANS_IN_LOG = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": 0,
    "auto_explain.log_format": "json",
}
_PLAN = re.compile(r"duration: [\d.]+ ms  plan:\n((?:\t.*\n)+)")
_DISTANCE = re.compile(r"<->|<=>|<#>|<\+>|(?:l1|l2|cosine)_distance|inner_product")


def genre_of(row: int) -> str:
    return GENRES[row % len(GENRES)]


def year_of(row: int) -> int:
    return 1960 + row % 60


class Statement(NamedTuple):
    text: str
    plan: dict

    @property
    def index(self) -> str | None:
        """Name of the index that gives the rows in distance order."""
        return next((node["Index Name"] for node in nodes_of(self.plan)
                     if node["Node Type"] in ("Index Scan", "Custom Scan") and "Order By" in node), None)


class Database:
    """An application's database: where clients find it, and what they do there."""

    def __init__(self, cluster, name: str):
        self.cluster, self.name, self.host = cluster, name, str(cluster.folder)
        if not cluster.execute("SELECT true FROM pg_roles WHERE rolname = %s", [USER]):
            cluster.execute(f"CREATE ROLE {USER} LOGIN")
        cluster.execute(f"CREATE DATABASE {name} OWNER {USER}")
        self.execute("CREATE EXTENSION vector")

    def url(self, driver: str = "postgresql", socket: str = "host") -> str:
        socket = f"host={self.host}" if socket == "host" else f"unix_sock={self.host}/.s.PGSQL.5432"
        return f"{driver}://{USER}@/{self.name}?{socket}"

    def execute(self, sql: str) -> list[tuple]:
        """Runs statements as a person at psql would; their plans are not logged."""
        with self.cluster.connect(self.name, options="-c auto_explain.log_min_duration=-1") as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def add_index(self, *statements: str) -> None:
        """The two statements: the extension and the index, which may be one of several."""
        self.execute(INSTALL)
        for statement in statements:
            self.execute(statement)

    def replace_indexes(self, table: str) -> None:
        """The two statements, where pgvector's index is to go: psql's \\gexec runs each row of the second."""
        self.execute(INSTALL)
        self.cluster.psql(f"SELECT statement FROM vekter.vekter_replace_pgvector_indexes('{table}', drop_old => true) "
                          "\\gexec", self.name)
        # A new index has the name of the old one.
        kept = self.execute("SELECT relname FROM pg_class c JOIN pg_am a ON a.oid = c.relam "
                            "WHERE amname IN ('hnsw', 'ivfflat')")
        assert not kept, f"pgvector's indexes {kept} are kept"

    def searches(self, search) -> tuple[object, list[Statement]]:
        """What `search()` returns, and the statements with a distance that the client sent for it."""
        with open(self.cluster.log, errors="replace") as log:
            log.seek(0, os.SEEK_END)
            result = search()
            plans = [json.loads(text.replace("\n\t", "\n")) for text in _PLAN.findall(log.read())]
        statements = [Statement(plan["Query Text"], plan["Plan"]) for plan in plans]
        return result, [statement for statement in statements if _DISTANCE.search(statement.text)]

    def scans(self, index: str) -> int:
        """How often an index was scanned, as far as sessions have reported it: a session does when it ends."""
        [[scans]] = self.execute(f"SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = '{index}'")
        return scans


class Comparison:
    """Results of searches before and after the two statements. A search is a function of the application and a query
    vector; it returns keys of rows, nearest first."""

    def __init__(self, database: Database, application, searches, two_statements, queries=QUERIES):
        self.database, self.application, self.queries = database, application, queries
        # As autovacuum does within a minute after rows have come.
        database.execute("ANALYZE")
        self.before = {search: self._results(search) for search in searches}
        used = {statement.index for _, statements in self.before.values() for statement in statements}
        assert used == {None}, "the results to compare with are not exact"
        two_statements()

    def assert_index_answers(self, search, index: str, recall: float = 1.0) -> None:
        """The search gives the rows that it gave, or so many of them, and the index answers each of its statements."""
        before, _ = self.before[search]
        after, statements = self._results(search)
        assert len(statements) >= REPETITIONS, "the server has logged fewer statements than the application has sent"
        without = [(number, statement) for number, statement in enumerate(statements) if statement.index != index]
        assert not without, (f"{len(without)} of {len(statements)} statements do not use the index: "
                             f"{_short(*without[0])}")
        if recall == 1:
            assert after == before, "other rows"
        else:
            wanted = sum(len(rows) for rows in before)
            found = sum(len(set(rows) & set(kept)) for rows, kept in zip(before, after, strict=True))
            assert found >= recall * wanted, f"{found} of {wanted} rows"

    def assert_same_rows(self, search) -> None:
        """The search gives the rows that it gave, whatever plan the planner has found better."""
        assert self._results(search)[0] == self.before[search][0]

    def _results(self, search):
        return self.database.searches(lambda: [search(self.application, query) for query in self.queries])


def _short(number: int, statement: Statement) -> str:
    nodes = ", ".join(node["Node Type"] for node in nodes_of(statement.plan))
    return f"no. {number} ({nodes}): {re.sub(r'(-?[0-9.e-]+, ?){8,}', '..., ', statement.text)}"
