"""pgvector-python with each driver that it registers pgvector's types in, as its README shows them; the drivers'
prepared statements; and long vectors, loaded with COPY as in its examples."""

import asyncio

import asyncpg
import pg8000.native
import psycopg
import psycopg2
import pytest
from pgvector import HalfVector
from pgvector import asyncpg as pgvector_asyncpg
from pgvector import pg8000 as pgvector_pg8000
from pgvector import psycopg as pgvector_psycopg
from pgvector import psycopg2 as pgvector_psycopg2

from application import (DIMENSIONS, QUERIES, RADIUS, SIMILARITY, USER, VECTORS, Comparison, genre_of, year_of)
from data import clustered

CREATE_TABLE = ("CREATE TABLE items (id bigserial PRIMARY KEY, genre text, year int, "
                f"embedding vector({DIMENSIONS}), half halfvec({DIMENSIONS}))")
INSERT = "INSERT INTO items (id, genre, year, embedding, half) VALUES ({0}, {1}, {2}, {3}, {4})"


class Psycopg3:
    """psycopg prepares a statement that it was given five times."""

    marks = ["%s"] * 5

    def __init__(self, database):
        self.connection = psycopg.connect(host=database.host, dbname=database.name, user=USER, autocommit=True)
        self.connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        pgvector_psycopg.register_vector(self.connection)

    def run(self, sql, *values):
        cursor = self.connection.execute(sql, values)
        return cursor.fetchall() if cursor.description else []

    def run_many(self, sql, rows):
        self.connection.cursor().executemany(sql, rows)

    def close(self):
        self.connection.close()


class Psycopg3Binary(Psycopg3):
    """The same with vectors in their binary form, both ways, and prepared at once."""

    marks = ["%b"] * 5

    def run(self, sql, *values):
        cursor = self.connection.execute(sql.replace("%s", "%b"), values, prepare=True, binary=True)
        return cursor.fetchall() if cursor.description else []


class Psycopg2:
    """psycopg2 writes values into the statement."""

    marks = ["%s"] * 5

    def __init__(self, database):
        self.connection = psycopg2.connect(host=database.host, dbname=database.name, user=USER)
        self.connection.autocommit = True
        with self.connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
        pgvector_psycopg2.register_vector(self.connection)

    def run(self, sql, *values):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []

    def run_many(self, sql, rows):
        with self.connection.cursor() as cursor:
            cursor.executemany(sql, rows)

    def close(self):
        self.connection.close()


class Asyncpg:
    """asyncpg prepares each statement and keeps it."""

    marks = ["$1", "$2", "$3", "$4", "$5"]

    def __init__(self, database):
        self.loop = asyncio.new_event_loop()
        self.connection = self.loop.run_until_complete(self._connect(database))

    async def _connect(self, database):
        connection = await asyncpg.connect(host=database.host, database=database.name, user=USER)
        await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        await pgvector_asyncpg.register_vector(connection)
        return connection

    def run(self, sql, *values):
        return self.loop.run_until_complete(self.connection.fetch(sql, *values))

    def run_many(self, sql, rows):
        self.loop.run_until_complete(self.connection.executemany(sql, rows))

    def close(self):
        self.loop.run_until_complete(self.connection.close())
        self.loop.close()


class Pg8000:
    """pg8000's native API, with statements that are prepared once and kept."""

    marks = [":a", ":b", ":c", ":d", ":e"]

    def __init__(self, database):
        self.connection = pg8000.native.Connection(
            USER, database=database.name, unix_sock=f"{database.host}/.s.PGSQL.5432")
        self.connection.run("CREATE EXTENSION IF NOT EXISTS vector")
        pgvector_pg8000.register_vector(self.connection)
        self.prepared = {}

    def run(self, sql, *values):
        statement = self.prepared.get(sql) or self.prepared.setdefault(sql, self.connection.prepare(sql))
        return statement.run(**dict(zip("abcde", values))) or []

    def run_many(self, sql, rows):
        for row in rows:
            self.run(sql, *row)

    def close(self):
        self.connection.close()


DRIVERS = (Psycopg3, Psycopg3Binary, Psycopg2, Asyncpg, Pg8000)


class Application:
    def __init__(self, database, driver):
        self.driver = driver(database)
        self.driver.run(CREATE_TABLE)
        self.driver.run_many(INSERT.format(*driver.marks), [
            (row, genre_of(row), year_of(row), vector, HalfVector(vector)) for row, vector in enumerate(VECTORS)])

    def ids(self, sql, *values):
        """`{0}` and so on stand for values, in order: not all drivers can name one twice."""
        return [row[0] for row in self.driver.run(sql.format(*self.driver.marks), *values)]


def nearest(application, query):
    return application.ids("SELECT * FROM items ORDER BY embedding <-> {0} LIMIT 5", query)


def with_a_filter(application, query):
    return application.ids("SELECT * FROM items WHERE genre = {0} ORDER BY embedding <-> {1} LIMIT 5", "jazz", query)


def of_a_page(application, query):
    return application.ids("SELECT id FROM items ORDER BY embedding <-> {0} LIMIT {1} OFFSET {2}", query, 7, 4)


def like_another_row(application, query):
    return application.ids("SELECT * FROM items WHERE id != {0} "
                           "ORDER BY embedding <-> (SELECT embedding FROM items WHERE id = {1}) LIMIT 5", 17, 17)


def within_a_radius(application, query):
    return application.ids("SELECT * FROM items WHERE embedding <-> {0} < {1} ORDER BY embedding <-> {2} LIMIT 20",
                           query, RADIUS, query)


def by_similarity(application, query):
    return application.ids("SELECT id, 1 - (embedding <=> {0}) AS similarity FROM items "
                           "WHERE 1 - (embedding <=> {1}) > {2} ORDER BY similarity DESC LIMIT 5",
                           query, query, SIMILARITY)


def by_inner_product(application, query):
    return application.ids("SELECT id, (embedding <#> {0}) * -1 FROM items ORDER BY embedding <#> {1} LIMIT 5",
                           query, query)


def by_taxicab_distance(application, query):
    return application.ids("SELECT * FROM items ORDER BY embedding <+> {0} LIMIT 5", query)


def by_half_vectors(application, query):
    return application.ids("SELECT * FROM items ORDER BY half <=> {0} LIMIT 5", HalfVector(query))


def fused_by_rank(application, query):
    """As in the examples of a hybrid search, with a condition in place of the words."""
    return application.ids(
        "WITH semantic_search AS ("
        "    SELECT id, RANK () OVER (ORDER BY embedding <=> {0}) AS rank FROM items"
        "     ORDER BY embedding <=> {1} LIMIT 20"
        "), keyword_search AS ("
        "    SELECT id, RANK () OVER (ORDER BY year DESC) AS rank FROM items WHERE genre = 'jazz'"
        "     ORDER BY year DESC, id LIMIT 20"
        ") "
        "SELECT COALESCE(s.id, k.id) AS id,"
        "       COALESCE(1.0 / (60 + s.rank), 0.0) + COALESCE(1.0 / (60 + k.rank), 0.0) AS score"
        "  FROM semantic_search s FULL OUTER JOIN keyword_search k ON s.id = k.id ORDER BY score DESC, id LIMIT 5",
        query, query)


SEARCHES = {nearest: "l2", with_a_filter: "l2", of_a_page: "l2", like_another_row: "l2", within_a_radius: "l2",
            by_similarity: "cosine", fused_by_rank: "cosine", by_inner_product: "ip", by_taxicab_distance: "l1",
            by_half_vectors: "half"}


@pytest.fixture(scope="module", params=DRIVERS, ids=lambda driver: driver.__name__)
def comparison(request, new_database):
    database = new_database(request.param.__name__.lower())
    application = Application(database, request.param)
    yield Comparison(database, application, SEARCHES, lambda: database.add_index(
        *(f"CREATE INDEX by_{metric} ON items USING faiss (embedding vector_{metric}_ops)"
          for metric in ("l2", "cosine", "ip", "l1")),
        "CREATE INDEX by_half ON items USING faiss (half halfvec_cosine_ops)"))
    application.driver.close()


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.__name__)
def test_a_search_is_answered_by_the_index(comparison, search):
    comparison.assert_index_answers(search, f"by_{SEARCHES[search]}")


def test_the_statistics_count_the_scans(comparison):
    comparison.application.driver.close()
    comparison.application.driver = type(comparison.application.driver)(comparison.database)
    before = {index: comparison.database.scans(index) for index in ("by_l2", "by_half")}
    for query in QUERIES:
        with_a_filter(comparison.application, query)
        by_half_vectors(comparison.application, query)
    comparison.application.driver.close()
    after = {index: comparison.database.scans(index) for index in before}
    comparison.application.driver = type(comparison.application.driver)(comparison.database)
    assert after == {index: scans + len(QUERIES) for index, scans in before.items()}


class LongVectors:
    """Of as many dimensions as embeddings often have: the table keeps them out of line, and these rows are enough for
    the index to be a graph."""

    dimensions = 1536

    def __init__(self, database, vectors):
        self.connection = psycopg.connect(host=database.host, dbname=database.name, user=USER, autocommit=True)
        self.connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        pgvector_psycopg.register_vector(self.connection)
        self.connection.execute(f"CREATE TABLE items (id bigserial, embedding vector({self.dimensions}))")
        with self.connection.cursor().copy("COPY items (embedding) FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["vector"])
            for vector in vectors:
                copy.write_row([vector])


def test_long_vectors_are_found_by_a_graph(new_database):
    vectors = clustered(4_000 + len(QUERIES), LongVectors.dimensions, seed=902)

    def nearest_long(application, query):
        return [row[0] for row in application.connection.execute(
            "SELECT id FROM items ORDER BY embedding <=> %s LIMIT 10", [query])]
    database = new_database("long")
    application = LongVectors(database, vectors[:4_000])
    comparison = Comparison(database, application, [nearest_long], lambda: database.add_index(
        "CREATE INDEX by_cosine ON items USING faiss (embedding vector_cosine_ops)"), queries=vectors[4_000:])
    comparison.assert_index_answers(nearest_long, "by_cosine", recall=0.9)
    assert database.execute("SELECT factory FROM vekter.vekter_index_stats('by_cosine')") == [("HNSW32",)]
    application.connection.close()
