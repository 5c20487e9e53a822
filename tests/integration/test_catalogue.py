"""What Postgres's own catalogue carries for the index: names, dependencies, schemas, dumps."""

import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from oracle import assert_same_answer, nearest_sql, with_index

VECTORS = clustered(600, 8, seed=31)
BASE, QUERY = VECTORS[:500], VECTORS[-1]


def make_items(db):
    """`items` with 500 rows and the index `built` that vekter_create_index makes."""
    db.execute("CREATE TABLE items (id bigint PRIMARY KEY, embedding vector(8))")
    copy_vectors(db, "items", BASE)
    db.execute("SELECT vekter_create_index('items', 'id', 'embedding', name => 'built')")


def knn_ids(db, name="items", k=5):
    return [id for id, _ in db.execute(f"SELECT * FROM knn('{name}', '{to_text(QUERY)}', {k})").fetchall()]


def exact_ids(db, table="items", k=5):
    return [id for id, _ in db.execute(nearest_sql(table, QUERY, None)).fetchall()][:k]


def test_renames_of_table_columns_and_index_are_followed(items):
    expected = knn_ids(items)
    items.execute("ALTER TABLE items RENAME id TO number")
    items.execute("ALTER TABLE items RENAME embedding TO e")
    items.execute('ALTER TABLE items RENAME TO "Pieces of Music"')
    items.execute('ALTER INDEX built RENAME TO "An Index"')
    assert knn_ids(items, '"Pieces of Music"') == expected
    assert knn_ids(items, '"An Index"') == expected


def test_move_to_another_schema_is_followed(items):
    expected = knn_ids(items)
    items.execute("CREATE SCHEMA other")
    items.execute("ALTER TABLE items SET SCHEMA other")
    assert knn_ids(items, "other.items") == knn_ids(items, "other.built") == expected


@pytest.mark.parametrize("column", ("id", "embedding"))
def test_dropping_a_column_of_the_index_drops_the_index(items, column):
    items.execute(f"ALTER TABLE items DROP COLUMN {column}")
    assert items.execute("SELECT to_regclass('built')").fetchone() == (None,)


def test_dropping_the_table_drops_the_index(items):
    items.execute("DROP TABLE items")
    assert items.execute("SELECT to_regclass('built')").fetchone() == (None,)


def test_changing_the_type_of_the_column_rebuilds_the_index(items):
    items.execute("ALTER TABLE items ALTER embedding TYPE vector(4) "
                  "USING ((embedding::real[])[1:4])::vector(4)")
    sql = nearest_sql("items", QUERY[:4])
    assert_same_answer(items, "items", QUERY[:4], index="built")
    assert items.execute("SELECT dimensions FROM vekter_index_stats('built')").fetchone() == (4,)
    assert len(with_index(items, sql)) == 10


def test_column_that_lost_its_dimension_keeps_its_index_to_that_dimension(items):
    """PostgreSQL neither rewrites the table nor rebuilds the index, so the index goes on with what it was built for."""
    items.execute("ALTER TABLE items ALTER embedding TYPE vector")
    assert knn_ids(items) == exact_ids(items)
    with pytest.raises(psycopg.errors.DataException, match="8"):
        items.execute("INSERT INTO items VALUES (-1, '[1,2,3]')")
    items.execute(f"INSERT INTO items VALUES (-2, '{to_text(QUERY)}')")
    assert knn_ids(items)[0] == -2


def test_changing_the_type_of_the_id_column_keeps_it_included(items):
    items.execute("ALTER TABLE items ALTER id TYPE integer")
    assert knn_ids(items) == exact_ids(items)


def test_alter_index_set_factory_takes_effect_at_reindex(items):
    items.execute("ALTER INDEX built SET (factory = 'HNSW16')")
    assert knn_ids(items) == exact_ids(items)
    items.execute("REINDEX INDEX built")
    assert items.execute("SELECT factory FROM vekter_index_stats('built')").fetchone() == ("HNSW16",)
    assert knn_ids(items) == exact_ids(items)


def test_extension_in_a_schema_that_is_not_on_the_search_path(cluster):
    cluster.execute("CREATE DATABASE elsewhere")
    try:
        with cluster.connect("elsewhere") as db:
            db.execute("CREATE SCHEMA ext")
            db.execute("CREATE EXTENSION vekter SCHEMA ext")
            db.execute("CREATE TABLE items (id bigint PRIMARY KEY, embedding ext.vector(8))")
            copy_vectors(db, "items", BASE)
            db.execute("SELECT ext.vekter_create_index('items', 'id', 'embedding', metric => 'cosine', "
                       "name => 'built')")
            query = f"'{to_text(QUERY)}'::ext.vector"
            exact = [r[0] for r in db.execute(
                f"SELECT id FROM items ORDER BY (embedding OPERATOR(ext.<=>) {query}) + 0 LIMIT 5").fetchall()]
            for name in ("items", "built"):
                got = db.execute(f"SELECT id FROM ext.knn('{name}', {query}, 5)").fetchall()
                assert [r[0] for r in got] == exact
            db.execute("SET search_path = ''")
            got = db.execute(f"SELECT id FROM ext.knn('public.items', {query}, 5)").fetchall()
            assert [r[0] for r in got] == exact
            assert db.execute("SELECT factory FROM ext.vekter_index_stats('public.built')").fetchone() == ("Flat",)
            # A schema of the user's own making cannot take the place of the extension's operators.
            db.execute("CREATE SCHEMA trap")
            db.execute("CREATE FUNCTION trap.lie(ext.vector, ext.vector) RETURNS float8 IMMUTABLE LANGUAGE sql "
                       "AS 'SELECT 42.0::float8'")
            db.execute("CREATE OPERATOR trap.<=> (LEFTARG = ext.vector, RIGHTARG = ext.vector, FUNCTION = trap.lie)")
            db.execute("SET search_path = trap, public, ext")
            got = db.execute(f"SELECT id, distance FROM knn('items', {query}, 5)").fetchall()
            assert [r[0] for r in got] == exact and all(d < 3 for _, d in got)
    finally:
        cluster.execute("DROP DATABASE elsewhere")


def test_drop_and_create_the_extension_again(db):
    for _ in range(2):
        db.execute("CREATE TABLE items (id bigint PRIMARY KEY, embedding vector(8))")
        copy_vectors(db, "items", BASE)
        db.execute("CREATE INDEX built ON items USING faiss (embedding)")
        assert knn_ids(db) == exact_ids(db)
        with pytest.raises(psycopg.errors.DependentObjectsStillExist):
            db.execute("DROP EXTENSION vekter")
        db.execute("DROP EXTENSION vekter CASCADE")
        assert db.execute("SELECT to_regclass('built')").fetchone() == (None,)
        db.execute("DROP TABLE items")
        db.execute("CREATE EXTENSION vekter")


def test_dump_and_restore_bring_back_the_same_index(items, cluster, database):
    expected, definition = knn_ids(items, k=20), items.execute("SELECT pg_get_indexdef('built'::regclass)").fetchone()
    dump = cluster.tool("pg_dump", "-d", database)
    cluster.execute("CREATE DATABASE restored")
    try:
        cluster.psql(dump, "restored")
        with cluster.connect("restored") as db:
            assert db.execute("SELECT pg_get_indexdef('built'::regclass)").fetchone() == definition
            assert knn_ids(db, k=20) == expected
            assert db.execute("SELECT extname FROM pg_extension WHERE extname = 'vekter'").fetchall()
    finally:
        cluster.execute("DROP DATABASE restored")


def test_create_table_like_including_indexes(items):
    items.execute("CREATE TABLE copied (LIKE items INCLUDING ALL)")
    items.execute("INSERT INTO copied SELECT * FROM items")
    assert knn_ids(items, "copied") == knn_ids(items)


def test_every_operator_class_validates(db):
    rows = db.execute("SELECT opcname, amvalidate(c.oid) FROM pg_opclass c JOIN pg_am a ON a.oid = opcmethod "
                      "WHERE amname = 'faiss' ORDER BY 1").fetchall()
    assert rows == [("vector_cosine_ops", True), ("vector_ip_ops", True), ("vector_l1_ops", True),
                    ("vector_l2_ops", True)]


def test_only_vector_l2_ops_is_the_default(db):
    assert db.execute("SELECT opcname FROM pg_opclass c JOIN pg_am a ON a.oid = opcmethod "
                      "WHERE amname = 'faiss' AND opcdefault").fetchall() == [("vector_l2_ops",)]


def test_wrong_operator_class_of_a_user_does_not_validate(db):
    """The counter-case: an operator class without its support function is seen by amvalidate."""
    db.execute("CREATE OPERATOR CLASS wrong_ops FOR TYPE vector USING faiss AS "
               "OPERATOR 1 <-> (vector, vector) FOR ORDER BY float_ops")
    valid = db.execute("SELECT amvalidate(oid) FROM pg_opclass WHERE opcname = 'wrong_ops'").fetchone()
    assert valid == (False,)
