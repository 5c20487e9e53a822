"""LangChain's two vector stores (langchain-postgres), PGVector and PGVectorStore, as their guides show them."""

import asyncio
import uuid
from dataclasses import dataclass

import psycopg
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_postgres import Column, PGEngine, PGVector, PGVectorStore
from langchain_postgres.v2.hybrid_search_config import HybridSearchConfig
from langchain_postgres.v2.indexes import BaseIndex, DistanceStrategy, HNSWIndex, HNSWQueryOptions

from application import DIMENSIONS, Comparison
from embeddings import METADATA, QUESTIONS, TEXTS, embedding_of

DOCUMENTS = [Document(text, metadata=metadata) for text, metadata in zip(TEXTS, METADATA)]


class Table(Embeddings):
    def embed_documents(self, texts):
        return [embedding_of(text) for text in texts]

    def embed_query(self, text):
        return embedding_of(text)


def rows_of(documents):
    return [document.metadata["row"] for document in documents]


def similar(store, question):
    return rows_of(store.similarity_search(question, k=5))


def similar_with_score(store, question):
    found = store.similarity_search_with_score(question, k=5)
    assert all(0 <= score <= 2 for _, score in found)
    return rows_of(document for document, _ in found)


def similar_to_a_vector(store, question):
    return rows_of(store.similarity_search_by_vector(embedding_of(question), k=5))


def retrieved(store, question):
    return rows_of(store.as_retriever(search_kwargs={"k": 5}).invoke(question))


def of_maximal_marginal_relevance(store, question):
    return rows_of(store.max_marginal_relevance_search(question, k=5, fetch_k=30))


def filtered(name, **filter):
    def search(store, question):
        return rows_of(store.similarity_search(question, k=5, filter=filter))
    search.__name__ = name
    return search


FILTERED = [
    filtered("of_a_genre", genre="jazz"),
    filtered("equal_to_a_genre", genre={"$eq": "jazz"}),
    filtered("other_than_a_genre", genre={"$ne": "jazz"}),
    filtered("after_a_year", year={"$gt": 2000}),
    filtered("of_some_genres", genre={"$in": ["jazz", "rock"]}),
    filtered("of_no_such_genres", genre={"$nin": ["jazz", "rock"]}),
    filtered("of_all_conditions", **{"$and": [{"genre": {"$in": ["jazz", "folk"]}}, {"year": {"$lte": 1980}}]}),
    filtered("of_one_condition_or_another", **{"$or": [{"genre": "jazz"}, {"year": {"$gte": 2010}}]}),
]
of_one_row = filtered("of_one_row", row=77)
between_years = filtered("between_years", year={"$between": [1990, 1999]})
of_genres_with_a_letter = filtered("of_genres_with_a_letter", genre={"$like": "%o%"})
SEARCHES = [similar, similar_with_score, similar_to_a_vector, retrieved, of_maximal_marginal_relevance, *FILTERED]


# -- PGVector ---------------------------------------------------------------------------------------------------------

class Collections:
    """PGVector keeps all collections in one table. The guide names no length, so the column has no dimensions."""

    def __init__(self, database):
        self.url = database.url("postgresql+psycopg")
        self.store = PGVector(embeddings=Table(), collection_name="tracks", connection=self.url, use_jsonb=True)
        self.store.add_documents(DOCUMENTS, ids=[f"track {row}" for row in range(len(DOCUMENTS))])
        self.other = PGVector(embeddings=Table(), collection_name="other tracks", connection=self.url, use_jsonb=True)
        self.other.add_documents(DOCUMENTS[:1000], ids=[f"other {row}" for row in range(1000)])
        self.loop = asyncio.new_event_loop()
        self.asynchronous = PGVector(embeddings=Table(), collection_name="tracks", connection=self.url, async_mode=True)

    def __getattr__(self, name):
        return getattr(self.store, name)


def in_another_collection(collections, question):
    return rows_of(collections.other.similarity_search(question, k=5))


def asynchronously(collections, question):
    return rows_of(collections.loop.run_until_complete(collections.asynchronous.asimilarity_search(question, k=5)))


COLLECTION_SEARCHES = [*SEARCHES, of_one_row, between_years, of_genres_with_a_letter, in_another_collection,
                       asynchronously]
INDEX = "CREATE INDEX by_cosine ON langchain_pg_embedding USING faiss (embedding vector_cosine_ops)"


@pytest.fixture(scope="module")
def collections(new_database):
    database = new_database("collections")
    application = Collections(database)
    # Without them, the planner takes one genre for half a percent of the rows, and sorts those of so small a table.
    database.execute("CREATE STATISTICS genres ON (cmetadata ->> 'genre') FROM langchain_pg_embedding")

    def two_statements():
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="column does not have dimensions"):
            database.add_index(INDEX)
        database.execute(f"ALTER TABLE langchain_pg_embedding ALTER COLUMN embedding TYPE vector({DIMENSIONS})")
        database.execute(INDEX)
    yield Comparison(database, application, COLLECTION_SEARCHES, two_statements, QUESTIONS)
    application.loop.run_until_complete(application.asynchronous._async_engine.dispose())
    application.loop.close()
    for store in (application.store, application.other):
        store._engine.dispose()


@pytest.mark.parametrize("search", COLLECTION_SEARCHES, ids=lambda search: search.__name__)
def test_a_search_of_pgvector_is_answered_by_the_index(collections, search):
    collections.assert_index_answers(search, "by_cosine")


# -- PGVectorStore ----------------------------------------------------------------------------------------------------

HYBRID = HybridSearchConfig(tsv_column="content_tsv", tsv_lang="pg_catalog.english", primary_top_k=5, secondary_top_k=5)


class Store:
    """The genre has a column of its own; the rest of the metadata is JSON."""

    def __init__(self, database):
        self.engine = PGEngine.from_connection_string(database.url("postgresql+asyncpg"))
        self.engine.init_vectorstore_table("tracks", DIMENSIONS, metadata_columns=[Column("genre", "TEXT")],
                                           hybrid_search_config=HYBRID)
        self.open(hybrid_search_config=HYBRID).add_documents(DOCUMENTS)
        self.store = self.open()
        self.with_options = self.open(index_query_options=HNSWQueryOptions(ef_search=100))
        self.hybrid = self.open(hybrid_search_config=HYBRID)

    def open(self, **options):
        return PGVectorStore.create_sync(self.engine, Table(), "tracks", metadata_columns=["genre"], **options)

    def __getattr__(self, name):
        return getattr(self.store, name)


def with_options_of_hnsw(stores, question):
    return rows_of(stores.with_options.similarity_search(question, k=5))


def hybrid(stores, question):
    return rows_of(stores.hybrid.similarity_search(question, k=5))


STORE_SEARCHES = [*SEARCHES, with_options_of_hnsw, hybrid]
# How many rows pass cannot be told from the statement with parameters.
UNKNOWN = [between_years, of_genres_with_a_letter]


@pytest.fixture(scope="module")
def store(new_database):
    database = new_database("store")
    application = Store(database)
    database.execute("CREATE STATISTICS years ON ((langchain_metadata ->> 'year')::integer) FROM tracks")

    def two_statements():
        application.store.apply_vector_index(HNSWIndex(name="by_cosine"))
        database.replace_indexes("tracks")
    yield Comparison(database, application, [*STORE_SEARCHES, of_one_row, *UNKNOWN], two_statements, QUESTIONS)
    application.engine._run_as_sync(application.engine.close())


@pytest.mark.parametrize("search", STORE_SEARCHES, ids=lambda search: search.__name__)
def test_a_search_of_pgvectorstore_is_answered_by_the_index(store, search):
    store.assert_index_answers(search, "by_cosine")


def test_documents_that_come_and_go_are_seen_at_once(store):
    question = QUESTIONS[0]
    id = str(uuid.UUID(int=1))
    store.application.hybrid.add_texts([question], metadatas=[{"row": -1, "genre": "jazz"}], ids=[id])
    assert similar(store.application, question)[0] == -1
    store.application.hybrid.delete(ids=[id])
    assert similar(store.application, question) == store.before[similar][0][0]


@dataclass
class FaissIndex(BaseIndex):
    index_type: str = "faiss"

    def index_options(self):
        return "(factory = 'HNSW32', recall = 0.9)"


def test_a_faiss_index_can_be_declared(store):
    store.application.store.apply_vector_index(
        FaissIndex(name="declared", distance_strategy=DistanceStrategy.INNER_PRODUCT))
    assert store.application.store.is_valid_index("declared")
    store.application.store.reindex("declared")
    store.application.store.drop_vector_index("declared")


def test_a_search_for_one_row_is_right_without_the_index(store):
    """The planner takes any condition on JSON for one that few rows meet, and sorts those few."""
    store.assert_same_rows(of_one_row)


@pytest.mark.xfail(strict=True, reason="PostgreSQL goes on with the generic plan that a session has had since before "
                                       "the index, which takes an unknown condition for one that few rows meet")
@pytest.mark.parametrize("search", UNKNOWN, ids=lambda search: search.__name__)
def test_a_statement_that_was_prepared_before_the_index_uses_it(store, search):
    store.assert_index_answers(search, "by_cosine")


@pytest.mark.parametrize("search", UNKNOWN, ids=lambda search: search.__name__)
def test_a_statement_of_a_new_session_uses_the_index(store, search):
    engine = store.application.engine
    engine._run_as_sync(engine._pool.dispose())
    store.assert_index_answers(search, "by_cosine")
