"""knn(): the same answer as the ORDER BY form, by table or index name, with errors that tell the way out."""

import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from oracle import OPERATORS, assert_nearest, nearest_sql, settings, without_index

ROWS, DIMENSIONS = 3_000, 16
VECTORS = clustered(ROWS + 10, DIMENSIONS, seed=101)
QUERIES = VECTORS[ROWS:]
QUERY = QUERIES[0]


def make_items(db):
    """`items` with 3,000 rows and a primary key, without an index."""
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), key integer, title text)")
    copy_vectors(db, "items", VECTORS[:ROWS])
    db.execute("UPDATE items SET key = 100000 - id, title = 'title ' || id")


def knn(db, name="items", query=QUERY, k=10):
    return db.execute(f"SELECT * FROM knn('{name}', '{to_text(query)}', {k})").fetchall()


def refusal(db, sql):
    """The error that a statement ends with: (sqlstate, message, hint)."""
    with pytest.raises(psycopg.Error) as error:
        db.execute(sql)
    diag = error.value.diag
    return diag.sqlstate, diag.message_primary, diag.message_hint or ""


# -- answers --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("factory, metric", [
    (f, m) for f in ("Flat", "HNSW16", "IVF32,Flat", "IVF32,PQ4x4fs", "SQ8") for m in OPERATORS
    if m != "l1" or f not in ("IVF32,PQ4x4fs", "SQ8")])
def test_distance_is_exactly_the_operators_and_rows_come_in_its_order(items, metric, factory):
    items.execute(f"CREATE INDEX built ON items USING faiss (embedding vector_{metric}_ops) "
                  f"WITH (factory = '{factory}')")
    for query in QUERIES:
        got = knn(items, query=query, k=25)
        assert len(got) == 25
        own = dict(without_index(items, nearest_sql("items", query, None, metric)))
        assert [d for _, d in got] == [own[id] for id, _ in got], "distance differs from the operator's by some bits"
        assert [d for _, d in got] == sorted(d for _, d in got)
        if factory == "Flat":
            assert_nearest(got, own.items(), 25)


def test_table_and_index_name_give_the_same(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    assert knn(items, "items") == knn(items, "built") == knn(items, "public.items") == knn(items, "public.built")


def test_k_defaults_to_ten(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    assert items.execute(f"SELECT * FROM knn('items', '{to_text(QUERY)}')").fetchall() == knn(items, k=10)


@pytest.mark.parametrize("k", (1, 2, ROWS - 1, ROWS, ROWS + 1, 10 * ROWS))
def test_k_rows_come_while_the_table_has_them(items, k):
    items.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    got = knn(items, k=k)
    assert_nearest(got, without_index(items, nearest_sql("items", QUERY, None)), k)


def test_columns_are_named_id_and_distance(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    cursor = items.execute(f"SELECT * FROM knn('items', '{to_text(QUERY)}', 1)")
    assert [c.name for c in cursor.description] == ["id", "distance"]
    types = items.execute("SELECT pg_typeof(id)::text, pg_typeof(distance)::text "
                          f"FROM knn('items', '{to_text(QUERY)}', 1)")
    assert types.fetchone() == ("bigint", "double precision")


def test_join_shows_the_rows(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    rows = items.execute(f"SELECT t.title, k.id FROM knn('items', '{to_text(QUERY)}', 5) k JOIN items t USING (id) "
                         "ORDER BY k.distance").fetchall()
    assert [t for t, _ in rows] == [f"title {id}" for id, _ in knn(items, k=5)]


def test_lateral_use_answers_each_query(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    rows = items.execute("SELECT q.id, k.id, k.distance FROM items q, LATERAL knn('items', q.embedding, 3) k "
                         "WHERE q.id < 20 ORDER BY 1, 3").fetchall()
    assert len(rows) == 60
    assert [k for q, k, d in rows[::3]] == list(range(20)) and all(d == 0 for _, _, d in rows[::3])


def test_changes_are_seen_at_once(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    copy_vectors(items, "items", QUERY[None], ids=[-7])
    assert knn(items, k=1) == [(-7, 0.0)]
    with items.transaction(force_rollback=True):
        items.execute("DELETE FROM items WHERE id = -7")
        assert knn(items, k=1) != [(-7, 0.0)]
    items.execute("UPDATE items SET id = -8 WHERE id = -7")
    assert knn(items, k=1) == [(-8, 0.0)]
    items.execute("DELETE FROM items WHERE id = -8")
    assert -8 not in [id for id, _ in knn(items, k=ROWS)]


def test_deleted_rows_do_not_shorten_the_answer(items):
    """The nearest rows are dead and not yet vacuumed: knn looks further."""
    items.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'HNSW16')")
    items.execute("DELETE FROM items WHERE id = ANY(%s)", [[id for id, _ in knn(items, k=500)]])
    got = knn(items, k=20)
    assert len(got) == 20 and [d for _, d in got] == sorted(d for _, d in got)


def test_null_arguments_give_no_rows(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    text = to_text(QUERY)
    for arguments in ("NULL, '%s', 5" % text, "'items', NULL, 5", "'items', '%s', NULL" % text):
        assert items.execute(f"SELECT * FROM knn({arguments})").fetchall() == []


def test_search_settings_act_on_knn(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF32,Flat')")
    exact = without_index(items, nearest_sql("items", QUERY, 50))
    with settings(items, **{"vekter.nprobe": 32}):
        assert [d for _, d in knn(items, k=50)] == [d for _, d in exact]
    with settings(items, **{"vekter.nprobe": 1}):
        narrow = [[d for _, d in knn(items, query=q, k=50)] for q in QUERIES]
    assert narrow != [[d for _, d in without_index(items, nearest_sql("items", q, 50))] for q in QUERIES]


# -- which id -------------------------------------------------------------------------------------------------------

def test_id_is_the_included_column(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding) INCLUDE (key)")
    nearest = without_index(items, nearest_sql("items", QUERY, 10))
    assert [id for id, _ in knn(items)] == [100000 - id for id, _ in nearest]


def test_id_is_the_primary_key_without_an_included_column(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    assert [id for id, _ in knn(items)] == [id for id, _ in without_index(items, nearest_sql("items", QUERY, 10))]


@pytest.mark.parametrize("key", ("id bigint", "id uuid PRIMARY KEY DEFAULT gen_random_uuid()",
                                 "id bigint, part bigint, PRIMARY KEY (id, part)", "id bigint UNIQUE"))
def test_no_included_column_and_no_integer_primary_key_is_an_error_with_a_hint(db, key):
    db.execute(f"CREATE TABLE items ({key}, embedding vector(2))")
    db.execute("CREATE INDEX built ON items USING faiss (embedding)")
    sqlstate, message, hint = refusal(db, "SELECT * FROM knn('items', '[1,2]', 5)")
    assert sqlstate[:2] in ("42", "55", "22"), (sqlstate, message)
    assert "INCLUDE" in hint or "vekter_create_index" in hint, (message, hint)


@pytest.mark.parametrize("kind", ("smallint", "integer", "bigint"))
def test_every_integer_type_of_id_comes_as_bigint(db, kind):
    db.execute(f"CREATE TABLE items (id {kind} PRIMARY KEY, embedding vector(2))")
    db.execute("INSERT INTO items VALUES (-32768, '[1,2]'), (32767, '[5,5]')")
    db.execute("CREATE INDEX built ON items USING faiss (embedding)")
    assert [r[0] for r in db.execute("SELECT * FROM knn('items', '[1,2]')")] == [-32768, 32767]


# -- errors ---------------------------------------------------------------------------------------------------------

def test_table_without_a_faiss_index_says_how_to_make_one(items):
    sqlstate, message, hint = refusal(items, "SELECT * FROM knn('items', '[1,2]', 5)")
    assert sqlstate in ("42704", "55000") and "items" in message and "faiss" in message
    assert "vekter_create_index" in hint or "CREATE INDEX" in hint


def test_table_with_several_faiss_indexes_names_them(items):
    items.execute("CREATE INDEX first_one ON items USING faiss (embedding)")
    items.execute("CREATE INDEX second_one ON items USING faiss (embedding vector_ip_ops)")
    with pytest.raises(psycopg.Error) as error:
        items.execute("SELECT * FROM knn('items', '[1,2]', 5)")
    diag = error.value.diag
    everything = f"{diag.message_primary} {diag.message_detail} {diag.message_hint}"
    assert diag.sqlstate != "XX000" and diag.message_hint
    assert "first_one" in everything and "second_one" in everything
    assert knn(items, "first_one") != knn(items, "second_one")


def test_query_of_another_dimension_says_both(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    sqlstate, message, _ = refusal(items, "SELECT * FROM knn('items', '[1,2,3]', 5)")
    assert sqlstate == "22000" and "16" in message and "3" in message and "dimensions" in message


@pytest.mark.parametrize("k", (0, -1, -2147483648))
def test_k_below_one_is_refused(items, k):
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    sqlstate, message, _ = refusal(items, f"SELECT * FROM knn('items', '{to_text(QUERY)}', {k})")
    assert sqlstate in ("22023", "2201W") and "k" in message


def test_index_that_is_not_valid_is_refused_with_a_hint(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    items.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'built'::regclass")
    sqlstate, message, hint = refusal(items, f"SELECT * FROM knn('built', '{to_text(QUERY)}', 5)")
    assert sqlstate[:2] == "55" and "valid" in message and "REINDEX" in hint


@pytest.mark.parametrize("relation", ("items_pkey", "a_view", "a_sequence", "a_matview", "pg_class", "a_type"))
def test_relation_of_another_kind_is_an_error_and_not_a_crash(items, relation):
    items.execute("CREATE VIEW a_view AS SELECT * FROM items")
    items.execute("CREATE SEQUENCE a_sequence")
    items.execute("CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM items")
    items.execute("CREATE TYPE a_type AS (a int)")
    sqlstate, message, _ = refusal(items, f"SELECT * FROM knn('{relation}', '[1,2]', 5)")
    assert sqlstate != "XX000" and relation in message


def test_relation_that_is_gone_is_an_error(items):
    sqlstate, _, _ = refusal(items, "SELECT * FROM knn('nothing', '[1,2]', 5)")
    assert sqlstate == "42P01"
    sqlstate, _, _ = refusal(items, "SELECT * FROM knn(4000000000::oid::regclass, '[1,2]', 5)")
    assert sqlstate != "XX000"


def test_materialized_view_with_an_index_is_searched(items):
    items.execute("CREATE MATERIALIZED VIEW chosen AS SELECT id, embedding FROM items WHERE id % 2 = 0")
    items.execute("CREATE INDEX built ON chosen USING faiss (embedding) INCLUDE (id)")
    assert all(id % 2 == 0 for id, _ in knn(items, "chosen"))
    items.execute("REFRESH MATERIALIZED VIEW chosen")
    assert len(knn(items, "chosen")) == 10


def test_partitioned_table_is_searched_or_refused_with_a_hint(db):
    db.execute("CREATE TABLE items (id bigint PRIMARY KEY, embedding vector(2)) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE items_0 PARTITION OF items FOR VALUES FROM (0) TO (50)")
    db.execute("CREATE TABLE items_1 PARTITION OF items FOR VALUES FROM (50) TO (100)")
    db.execute("INSERT INTO items SELECT i, ARRAY[i, 0]::vector FROM generate_series(0, 99) i")
    db.execute("CREATE INDEX built ON items USING faiss (embedding) INCLUDE (id)")
    for name in ("items", "built"):
        try:
            got = db.execute(f"SELECT id FROM knn('{name}', '[49.6,0]', 4)").fetchall()
            assert got == [(50,), (49,), (51,), (48,)]
        except psycopg.Error as error:
            assert error.sqlstate == "0A000" and error.diag.message_hint


def test_an_index_on_an_expression_is_searched_under_any_search_path(db):
    db.execute("CREATE TABLE mixed (id bigint PRIMARY KEY, model text, embedding vector)")
    db.execute("INSERT INTO mixed SELECT i, 'small', ARRAY[i, i, i]::real[] FROM generate_series(1, 50) i")
    db.execute("CREATE INDEX by_model ON mixed USING faiss ((embedding::vector(3))) WHERE model = 'small'")
    search = "SELECT id FROM public.knn('public.mixed', public.vector_in('[7, 7, 7]', 0, -1), 2)"
    assert db.execute(search).fetchall()[0] == (7,)
    db.execute("SET search_path = ''")
    assert db.execute(search).fetchall()[0] == (7,), "under the same query, prepared before"
    db.execute("SET search_path = public")
    db.execute("ALTER TABLE mixed RENAME TO renamed")
    assert db.execute(search.replace("mixed", "renamed")).fetchall()[0] == (7,)
