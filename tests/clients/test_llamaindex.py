"""LlamaIndex's PGVectorStore (llama-index-vector-stores-postgres), through the index and retrievers of its guide. Its
metadata is JSON; told to, it makes an HNSW index itself."""

import asyncio

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import (FilterCondition, FilterOperator, MetadataFilter, MetadataFilters)
from llama_index.vector_stores.postgres import PGVectorStore

from application import DIMENSIONS, Comparison
from embeddings import METADATA, QUESTIONS, TEXTS, embedding_of

# What the guide asks of pgvector's index, for the operator that the store's searches use.
HNSW = {"hnsw_m": 16, "hnsw_ef_construction": 64, "hnsw_ef_search": 40, "hnsw_dist_method": "vector_cosine_ops"}


class Table(BaseEmbedding):
    def _get_text_embedding(self, text):
        return embedding_of(text)

    def _get_query_embedding(self, query):
        return embedding_of(query)

    async def _aget_query_embedding(self, query):
        return embedding_of(query)


class Application:
    def __init__(self, database, **options):
        self.database, self.options = database, options
        self.loop = asyncio.new_event_loop()
        self.open()
        nodes = [TextNode(id_=f"row {metadata['row']}", text=text, metadata=metadata, embedding=embedding_of(text))
                 for text, metadata in zip(TEXTS, METADATA)]
        context = StorageContext.from_defaults(vector_store=self.store)
        VectorStoreIndex(nodes, storage_context=context, embed_model=Table())

    def open(self, **more):
        """As a start of the application does."""
        self.store = PGVectorStore.from_params(
            connection_string=self.database.url("postgresql+psycopg2"),
            async_connection_string=self.database.url("postgresql+asyncpg"),
            table_name="tracks", embed_dim=DIMENSIONS, **self.options, **more)
        self.index = VectorStoreIndex.from_vector_store(self.store, embed_model=Table())

    def rows(self, question, **options):
        nodes = self.index.as_retriever(similarity_top_k=5, **options).retrieve(question)
        return [node.metadata["row"] for node in nodes]

    def close(self):
        self.loop.run_until_complete(self.store.close())


def where(*filters, condition=FilterCondition.AND):
    return MetadataFilters(filters=[MetadataFilter(key=key, operator=operator, value=value)
                                    for key, operator, value in filters], condition=condition)


def similar(application, question):
    return application.rows(question)


def asynchronously(application, question):
    retriever = application.index.as_retriever(similarity_top_k=5)
    return [node.metadata["row"] for node in application.loop.run_until_complete(retriever.aretrieve(question))]


def of_a_genre(application, question):
    return application.rows(question, filters=where(("genre", FilterOperator.EQ, "jazz")))


def of_some_genres(application, question):
    return application.rows(question, filters=where(("genre", FilterOperator.IN, ["jazz", "rock"])))


def after_a_year(application, question):
    return application.rows(question, filters=where(("year", FilterOperator.GT, 2000)))


def of_a_genre_or_after_a_year(application, question):
    return application.rows(question, filters=where(
        ("genre", FilterOperator.EQ, "jazz"), ("year", FilterOperator.GTE, 2010), condition=FilterCondition.OR))


def with_a_tag(application, question):
    return application.rows(question, filters=where(("tags", FilterOperator.CONTAINS, "shelf 3")))


def of_maximal_marginal_relevance(application, question):
    return application.rows(question, vector_store_query_mode="mmr")


def hybrid(application, question):
    return application.rows(question, vector_store_query_mode="hybrid")


SEARCHES = [similar, asynchronously, of_a_genre, of_some_genres, after_a_year, of_a_genre_or_after_a_year, with_a_tag]
# The store cannot read vectors of halves back for this: TypeError: 'HalfVector' object is not iterable.
SEARCHES_OF_VECTORS = [*SEARCHES, of_maximal_marginal_relevance, hybrid]
# A condition on JSON has no statistics by itself: the planner takes it for one that few rows meet, and sorts those few.
STATISTICS = ("CREATE STATISTICS genres ON (metadata_ ->> 'genre') FROM data_tracks; "
              "CREATE STATISTICS tags ON (metadata_::jsonb -> 'tags') FROM data_tracks")


@pytest.fixture(scope="module")
def comparison(new_database):
    database = new_database("vectors")
    application = Application(database, hybrid_search=True, text_search_config="english")
    database.execute(STATISTICS)

    def two_statements():
        # The application starts again, with an index of pgvector, as the guide has it.
        application.close()
        application.open(hnsw_kwargs=HNSW.copy())
        application.store._initialize()
        database.replace_indexes("data_tracks")
    yield Comparison(database, application, SEARCHES_OF_VECTORS, two_statements, QUESTIONS)
    application.close()


@pytest.mark.parametrize("search", SEARCHES_OF_VECTORS, ids=lambda search: search.__name__)
def test_a_search_is_answered_by_the_index(comparison, search):
    comparison.assert_index_answers(search, "data_tracks_embedding_idx")


def methods_after_a_start(comparison):
    """Access methods of the indexes of the vectors, after the application has started anew."""
    comparison.application.close()
    comparison.application.open(hnsw_kwargs=HNSW.copy())
    assert similar(comparison.application, QUESTIONS[0]) == comparison.before[similar][0][0]
    return [method for method, in comparison.database.execute(
        "SELECT amname FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = relam "
        "WHERE indrelid = 'data_tracks'::regclass AND relname LIKE '%embedding%'")]


def test_the_next_start_leaves_the_replacement_alone(comparison):
    assert methods_after_a_start(comparison) == ["faiss"]


@pytest.fixture(scope="module")
def of_halves(new_database):
    database = new_database("halves")
    application = Application(database, use_halfvec=True, use_jsonb=True,
                              indexed_metadata_keys={("genre", "text"), ("year", "int")})
    database.execute(STATISTICS)
    yield Comparison(database, application, SEARCHES, lambda: database.add_index(
        "CREATE INDEX by_half ON data_tracks USING faiss (embedding halfvec_cosine_ops)"), QUESTIONS)
    application.close()


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.__name__)
def test_a_search_of_half_vectors_is_answered_by_the_index(of_halves, search):
    of_halves.assert_index_answers(search, "by_half")
