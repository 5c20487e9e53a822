"""Django with pgvector-python's fields and functions, from its migration operations on, as pgvector-python's README
shows them: HNSW indexes of the models are replaced by faiss indexes."""

import django
import pytest
from django.conf import settings

from application import DIMENSIONS, GENRES, RADIUS, SIMILARITY, USER, VECTORS, Comparison, year_of

DATABASE = {"ENGINE": "django.db.backends.postgresql", "USER": USER}
settings.configure(
    INSTALLED_APPS=["django.contrib.postgres"], DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    DATABASES={"default": DATABASE,
               "server_side": {**DATABASE, "OPTIONS": {"server_side_binding": True, "prepare_threshold": 3}}})
django.setup()

from django.contrib.postgres.indexes import OpClass, PostgresIndex  # noqa: E402
from django.db import connections, models  # noqa: E402
from django.db.migrations import AddIndex, CreateModel, RemoveIndex  # noqa: E402
from django.db.migrations.state import ModelState, ProjectState  # noqa: E402
from django.db.models import F, Q  # noqa: E402
from django.db.models.functions import Cast  # noqa: E402
from pgvector.django import (CosineDistance, HalfVectorField, HnswIndex, L2Distance, VectorExtension,  # noqa: E402
                             VectorField)


class Genre(models.Model):
    name = models.CharField(max_length=20)

    class Meta:
        app_label = "library"


class Item(models.Model):
    year = models.IntegerField()
    genre = models.ForeignKey(Genre, models.CASCADE)
    # In descending order of similarity, rows without a vector would come first; so the index is for such without NULLs.
    embedding = VectorField(dimensions=DIMENSIONS)
    half = HalfVectorField(dimensions=DIMENSIONS)

    class Meta:
        app_label = "library"
        indexes = [
            HnswIndex(name="by_l2", fields=["embedding"], m=16, ef_construction=64, opclasses=["vector_l2_ops"]),
            HnswIndex(name="by_cosine", fields=["embedding"], opclasses=["vector_cosine_ops"]),
            HnswIndex(name="by_half", fields=["half"], opclasses=["halfvec_cosine_ops"]),
            HnswIndex(OpClass(Cast("embedding", HalfVectorField(dimensions=DIMENSIONS)), name="halfvec_l2_ops"),
                      name="by_cast"),
        ]


class Application:
    def __init__(self, database):
        self.items = Item.objects
        for alias in connections:
            connections.settings[alias].update(NAME=database.name, HOST=database.host)
        self.state = ProjectState()
        item = ModelState.from_model(Item)
        self.indexes = item.options.pop("indexes")
        genre = ModelState.from_model(Genre)
        self.migrate(VectorExtension(), *(CreateModel(state.name, list(state.fields.items()), state.options)
                                          for state in (genre, item)))
        Genre.objects.bulk_create(Genre(id=id, name=name) for id, name in enumerate(GENRES))
        Item.objects.bulk_create(
            (Item(id=row, year=year_of(row), genre_id=row % len(GENRES), embedding=vector, half=vector)
             for row, vector in enumerate(VECTORS)), batch_size=1000)

    def migrate(self, *operations):
        with connections["default"].schema_editor() as editor:
            for operation in operations:
                before = self.state.clone()
                operation.state_forwards("library", self.state)
                operation.database_forwards("library", editor, before, self.state)


def ids(items):
    return [item.id for item in items]


def nearest(application, query):
    return ids(application.items.order_by(L2Distance("embedding", query))[:5])


def nearest_one(application, query):
    return [application.items.order_by(L2Distance("embedding", query)).first().id]


def second_page(application, query):
    return ids(application.items.order_by(L2Distance("embedding", query))[10:20])


def with_distance(application, query):
    items = application.items.annotate(distance=L2Distance("embedding", query)).order_by("distance", "id")
    return list(items.values_list("id", flat=True)[:5])


def with_a_filter(application, query):
    return ids(application.items.filter(year__gt=2000).order_by(L2Distance("embedding", query))[:5])


def with_several_filters(application, query):
    items = application.items.filter(Q(year__lt=1990) | Q(year__in=[2000, 2001])).exclude(id=1).exclude(genre_id=2)
    return ids(items.order_by(L2Distance("embedding", query))[:5])


def of_a_related_genre(application, query):
    items = application.items.filter(genre__name="jazz").select_related("genre")
    return ids(items.order_by(L2Distance("embedding", query))[:5])


def within_a_radius(application, query):
    items = application.items.alias(distance=L2Distance("embedding", query)).filter(distance__lt=RADIUS)
    return ids(items.order_by("distance")[:20])


def by_similarity(application, query):
    items = application.items.annotate(similarity=1 - CosineDistance("embedding", query))
    return ids(items.filter(similarity__gt=SIMILARITY).order_by("-similarity")[:5])


def by_similarity_nulls_last(application, query):
    items = application.items.annotate(similarity=1 - CosineDistance("embedding", query))
    return ids(items.order_by(F("similarity").desc(nulls_last=True))[:5])


def by_half_vectors(application, query):
    return ids(application.items.order_by(CosineDistance("half", query))[:5])


def by_vectors_cast_to_halves(application, query):
    distance = L2Distance(Cast("embedding", HalfVectorField(dimensions=DIMENSIONS)), query)
    return ids(application.items.order_by(distance)[:5])


def like_a_stored_row(application, query):
    row = application.items.get(id=int(abs(query[0]) * 100))
    return ids(application.items.exclude(id=row.id).order_by(L2Distance("embedding", row.embedding))[:5])


def through_a_cursor(application, query):
    return ids(application.items.order_by(L2Distance("embedding", query))[:20].iterator(chunk_size=5))


SEARCHES = {nearest: "l2", nearest_one: "l2", second_page: "l2", with_distance: "l2", with_a_filter: "l2",
            with_several_filters: "l2", of_a_related_genre: "l2", within_a_radius: "l2", by_similarity: "cosine",
            by_similarity_nulls_last: "cosine", by_half_vectors: "half", by_vectors_cast_to_halves: "cast",
            like_a_stored_row: "l2", through_a_cursor: "l2"}


def bound_by_the_server(search):
    """The same search with parameters that the server binds; the driver prepares what comes often."""
    def bound(application, query):
        application.items = Item.objects.using("server_side")
        try:
            return search(application, query)
        finally:
            application.items = Item.objects
    bound.__name__ = f"{search.__name__}_bound_by_the_server"
    return bound


SEARCHES |= {bound_by_the_server(search): metric for search, metric in SEARCHES.items()}


@pytest.fixture(scope="module")
def comparison(new_database):
    database = new_database()
    application = Application(database)

    def two_statements():
        application.migrate(*(AddIndex("Item", index) for index in application.indexes))
        database.replace_indexes("library_item")
    yield Comparison(database, application, SEARCHES, two_statements)
    connections.close_all()


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.__name__)
def test_a_search_is_answered_by_the_index(comparison, search):
    comparison.assert_index_answers(search, f"by_{SEARCHES[search]}")


class FaissIndex(PostgresIndex):
    suffix = "faiss"


def test_a_faiss_index_can_be_declared(comparison):
    index = FaissIndex(name="declared", fields=["embedding"], opclasses=["vector_ip_ops"])
    comparison.application.migrate(AddIndex("Item", index))
    with connections["default"].cursor() as cursor:
        constraints = connections["default"].introspection.get_constraints(cursor, "library_item")
    comparison.application.migrate(RemoveIndex("Item", "declared"))
    assert constraints["declared"]["type"] == "faiss" and constraints["declared"]["columns"] == ["embedding"]


def test_the_migration_that_removes_pgvectors_index_passes_after_the_replacement(comparison):
    comparison.application.migrate(RemoveIndex("Item", "by_half"))
