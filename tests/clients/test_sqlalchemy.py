"""SQLAlchemy with pgvector-python's types, as pgvector-python's README shows them."""

import asyncio

import pytest
from pgvector.sqlalchemy import HALFVEC, VECTOR
from sqlalchemy import ForeignKey, Index, MetaData, Table, cast, create_engine, desc, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from application import DIMENSIONS, GENRES, RADIUS, SIMILARITY, VECTORS, Comparison, year_of


class Base(DeclarativeBase):
    pass


class Genre(Base):
    __tablename__ = "genres"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    year: Mapped[int]
    genre_id: Mapped[int] = mapped_column(ForeignKey("genres.id"))
    genre: Mapped[Genre] = relationship()
    embedding = mapped_column(VECTOR(DIMENSIONS))
    half = mapped_column(HALFVEC(DIMENSIONS))


class Application:
    def __init__(self, database, driver):
        socket = "unix_sock" if driver == "pg8000" else "host"
        self.engine = create_engine(database.url(f"postgresql+{driver}", socket))
        with Session(self.engine) as session:
            session.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
            session.commit()
        Base.metadata.create_all(self.engine)
        with Session(self.engine) as session:
            session.add_all(Genre(id=id, name=name) for id, name in enumerate(GENRES))
            session.flush()
            session.add_all(Item(id=row, year=year_of(row), genre_id=row % len(GENRES), embedding=vector, half=vector)
                            for row, vector in enumerate(VECTORS))
            session.commit()

    def ids(self, statement):
        with Session(self.engine) as session:
            return [item.id for item in session.execute(statement)]


def nearest(application, query):
    with Session(application.engine) as session:
        return [item.id for item in session.scalars(select(Item).order_by(Item.embedding.l2_distance(query)).limit(5))]


def second_page(application, query):
    return application.ids(select(Item.id).order_by(Item.embedding.l2_distance(query)).offset(10).limit(10))


def with_distance(application, query):
    distance = Item.embedding.l2_distance(query).label("distance")
    return application.ids(select(Item.id, distance).order_by(distance).limit(5))


def with_a_filter(application, query):
    statement = select(Item.id).filter(Item.year > 2000)
    return application.ids(statement.order_by(Item.embedding.l2_distance(query)).limit(5))


def within_a_radius(application, query):
    distance = Item.embedding.l2_distance(query)
    return application.ids(select(Item.id).filter(distance < RADIUS).order_by(distance).limit(20))


def of_a_joined_genre(application, query):
    distance = Item.embedding.l2_distance(query)
    return application.ids(select(Item.id).join(Item.genre).filter(Genre.name == "jazz").order_by(distance).limit(5))


def in_a_subquery(application, query):
    genres = select(Genre.id).filter(Genre.name.in_(["jazz", "rock"]))
    return application.ids(
        select(Item.id).filter(Item.genre_id.in_(genres)).order_by(Item.embedding.l2_distance(query)).limit(5))


def by_similarity(application, query):
    similarity = (1 - Item.embedding.cosine_distance(query)).label("similarity")
    statement = select(Item.id, similarity).filter(similarity > SIMILARITY)
    return application.ids(statement.order_by(desc("similarity")).limit(5))


def by_half_vectors(application, query):
    return application.ids(select(Item.id).order_by(Item.half.cosine_distance(query)).limit(5))


def by_vectors_cast_to_halves(application, query):
    distance = cast(Item.embedding, HALFVEC(DIMENSIONS)).l2_distance(query)
    return application.ids(select(Item.id).order_by(distance).limit(5))


def through_a_cursor(application, query):
    statement = select(Item).order_by(Item.embedding.l2_distance(query)).limit(20)
    with Session(application.engine) as session:
        return [item.id for item in session.scalars(statement.execution_options(yield_per=5))]


INDEXES = {"l2": "embedding vector_l2_ops", "cosine": "embedding vector_cosine_ops", "half": "half halfvec_cosine_ops",
           "cast": f"(embedding::halfvec({DIMENSIONS})) halfvec_l2_ops"}
SEARCHES = {nearest: "l2", second_page: "l2", with_distance: "l2", with_a_filter: "l2", within_a_radius: "l2",
            of_a_joined_genre: "l2", in_a_subquery: "l2", by_similarity: "cosine", by_half_vectors: "half",
            by_vectors_cast_to_halves: "cast", through_a_cursor: "l2"}


@pytest.fixture(scope="module")
def comparison(new_database):
    database = new_database()
    application = Application(database, "psycopg")
    yield Comparison(database, application, SEARCHES, lambda: database.add_index(
        *(f"CREATE INDEX items_{name} ON items USING faiss ({column})" for name, column in INDEXES.items())))
    application.engine.dispose()


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.__name__)
def test_a_search_is_answered_by_the_index(comparison, search):
    comparison.assert_index_answers(search, f"items_{SEARCHES[search]}")


def test_a_faiss_index_can_be_declared_and_is_reflected(comparison):
    def items():
        return Table("items", MetaData(), autoload_with=comparison.application.engine)
    declared = Index("declared", items().c.embedding, postgresql_using="faiss",
                     postgresql_ops={"embedding": "vector_ip_ops"},
                     postgresql_with={"factory": "HNSW32", "recall": 0.9})
    declared.create(comparison.application.engine)
    options = {index.name: index.dialect_options["postgresql"] for index in items().indexes}
    declared.drop(comparison.application.engine)
    assert options["declared"]["using"] == options["items_l2"]["using"] == "faiss"
    assert options["declared"]["with"] == {"factory": "hnsw32", "recall": "0.9"}


@pytest.mark.parametrize("driver", ["psycopg2", "pg8000"])
def test_every_driver_uses_the_index(new_database, driver):
    database = new_database(driver)
    application = Application(database, driver)
    searches = [nearest, with_a_filter, within_a_radius]
    comparison = Comparison(database, application, searches, lambda: database.add_index(
        "CREATE INDEX items_l2 ON items USING faiss (embedding vector_l2_ops)"))
    for search in searches:
        comparison.assert_index_answers(search, "items_l2")
    application.engine.dispose()


class AsyncApplication:
    """asyncpg prepares each statement and keeps it."""

    def __init__(self, database):
        # What sessions of any driver have filled.
        Application(database, "psycopg").engine.dispose()
        self.engine = create_async_engine(database.url("postgresql+asyncpg"))
        self.loop = asyncio.new_event_loop()

    def ids(self, statement):
        async def run():
            async with AsyncSession(self.engine) as session:
                return [item.id for item in await session.execute(statement)]
        return self.loop.run_until_complete(run())

    def close(self):
        self.loop.run_until_complete(self.engine.dispose())
        self.loop.close()


def test_asynchronous_sessions_use_the_index(new_database):
    database = new_database("asyncpg")
    application = AsyncApplication(database)
    searches = [second_page, with_a_filter, within_a_radius, of_a_joined_genre]
    comparison = Comparison(database, application, searches, lambda: database.add_index(
        "CREATE INDEX items_l2 ON items USING faiss (embedding vector_l2_ops)"))
    for search in searches:
        comparison.assert_index_answers(search, "items_l2")
    application.close()
