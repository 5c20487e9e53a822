"""vekter_create_index() and vekter_index_stats(): checks, quoting, what they make and what they tell."""

import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from upkeep import vacuum_dead_rows

VECTORS = clustered(510, 8, seed=111)
QUERY = to_text(VECTORS[-1])


def make_items(db):
    db.execute("CREATE TABLE items (id bigint PRIMARY KEY, embedding vector(8), title text, loose vector, "
               "maybe bigint, small smallint NOT NULL DEFAULT 1, number numeric)")
    copy_vectors(db, "items", VECTORS[:500])


def refusal(db, sql):
    with pytest.raises(psycopg.Error) as error:
        db.execute(sql)
    diag = error.value.diag
    return diag.sqlstate, " ".join(filter(None, (diag.message_primary, diag.message_detail, diag.message_hint)))


def test_returns_the_index_whose_id_column_is_included(items):
    [[index]] = items.execute("SELECT vekter_create_index('items', 'id', 'embedding')::text").fetchall()
    [[definition]] = items.execute("SELECT pg_get_indexdef(%s::regclass)", [index]).fetchall()
    assert "USING faiss (embedding" in definition and "INCLUDE (id)" in definition
    assert items.execute(f"SELECT count(*) FROM knn('{index}', '{QUERY}', 7)").fetchone() == (7,)


@pytest.mark.parametrize("metric, operator", [("l2", "<->"), ("ip", "<#>"), ("cosine", "<=>"), ("l1", "<+>")])
def test_metric_chooses_the_operator_class(items, metric, operator):
    items.execute("SELECT vekter_create_index('items', 'id', 'embedding', metric => %s, name => 'built')", [metric])
    assert f"vector_{metric}_ops" in items.execute("SELECT pg_get_indexdef('built'::regclass)").fetchone()[0] \
        or metric == "l2"
    got = items.execute(f"SELECT * FROM knn('built', '{QUERY}', 5)").fetchall()
    assert got == items.execute(f"SELECT id, embedding {operator} '{QUERY}' FROM items ORDER BY 2 LIMIT 5").fetchall()


def test_factory_and_name_are_taken_over(items):
    items.execute("SELECT vekter_create_index('items', 'id', 'embedding', 'IVF8,Flat', name => 'my_index')")
    assert "IVF8,Flat" in items.execute("SELECT pg_get_indexdef('my_index'::regclass)").fetchone()[0]
    assert items.execute("SELECT factory, metric FROM vekter_index_stats('my_index')").fetchone() == ("IVF8,Flat", "l2")


@pytest.mark.parametrize("arguments, sqlstate, words", [
    ("'items', 'nothing', 'embedding'", "42703", "nothing"),
    ("'items', 'id', 'nothing'", "42703", "nothing"),
    ("'items', 'id', 'title'", "42804", "title"),
    ("'items', 'id', 'id'", "42804", "vector"),
    ("'items', 'id', 'loose'", None, "dimension"),
    ("'items', 'title', 'embedding'", "42804", "title"),
    ("'items', 'number', 'embedding'", "42804", "number"),
    ("'items', 'embedding', 'embedding'", "42804", "embedding"),
    ("'items', 'maybe', 'embedding'", None, "maybe"),
    ("'items', 'ctid', 'embedding'", None, "ctid"),
    ("'items', 'id', 'embedding', metric => 'hamming'", "22023", "hamming"),
    ("'items', 'id', 'embedding', metric => ''", "22023", "metric"),
    ("'items', 'id', 'embedding', 'nonsense'", "22023", "nonsense"),
    ("'items', 'id', 'embedding', name => 'items'", "42P07", "items"),
    ("'a_view', 'id', 'embedding'", "42809", "a_view"),
    ("'items_pkey', 'id', 'embedding'", "42809", "items_pkey"),
])
def test_wrong_argument_is_refused_by_name(items, arguments, sqlstate, words):
    items.execute("CREATE VIEW a_view AS SELECT * FROM items")
    seen, text = refusal(items, f"SELECT vekter_create_index({arguments})")
    assert words in text, text
    assert seen == sqlstate or (sqlstate is None and seen[:2] in ("22", "23", "42", "55", "0A")), (seen, text)
    assert items.execute("SELECT count(*) FROM pg_class c JOIN pg_am a ON a.oid = relam WHERE amname = 'faiss'"
                         ).fetchone() == (0,)


def test_nullable_id_without_nulls_is_accepted(items):
    items.execute("UPDATE items SET maybe = id")
    items.execute("SELECT vekter_create_index('items', 'maybe', 'embedding', name => 'built')")
    assert items.execute(f"SELECT count(*) FROM knn('built', '{QUERY}', 5)").fetchone() == (5,)


def test_dropped_columns_do_not_confuse_it(items):
    items.execute("ALTER TABLE items DROP COLUMN title, DROP COLUMN loose")
    items.execute("SELECT vekter_create_index('items', 'id', 'embedding', name => 'built')")
    assert items.execute(f"SELECT count(*) FROM knn('items', '{QUERY}', 5)").fetchone() == (5,)
    seen, _ = refusal(items, "SELECT vekter_create_index('items', 'title', 'embedding')")
    assert seen == "42703"


def test_odd_names_are_quoted(db):
    schema, table, id, vector, index = 'S "1"', "T'; DROP TABLE x;--", 'Id "x"', "sElect", 'i"\'\\n'
    quoted = lambda name: '"' + name.replace('"', '""') + '"'  # noqa: E731
    db.execute(f"CREATE SCHEMA {quoted(schema)}")
    place = f"{quoted(schema)}.{quoted(table)}"
    db.execute(f"CREATE TABLE {place} ({quoted(id)} int PRIMARY KEY, {quoted(vector)} vector(2))")
    db.execute(f"INSERT INTO {place} VALUES (1, '[1,2]'), (2, '[3,4]')")
    db.execute("SELECT vekter_create_index(%s, %s, %s, name => %s)", [place, id, vector, index])
    assert db.execute("SELECT id FROM knn(%s, '[3,3]', 1)", [place]).fetchall() == [(2,)]
    assert db.execute("SELECT id FROM knn(%s, '[3,3]', 1)", [f"{quoted(schema)}.{quoted(index)}"]).fetchall() == [(2,)]


@pytest.mark.parametrize("factory", ("Flat') ; DROP TABLE items; --", "Flat\\", "Flat\"", "Flat, dimensions = 3"))
def test_factory_string_is_never_sql(items, factory):
    with pytest.raises(psycopg.Error) as error:
        items.execute("SELECT vekter_create_index('items', 'id', 'embedding', %s)", [factory])
    assert error.value.sqlstate == "22023"
    assert items.execute("SELECT count(*) FROM items").fetchone() == (500,)


def test_null_arguments_are_refused_or_give_null(items):
    for arguments in ("NULL, 'id', 'embedding'", "'items', NULL, 'embedding'", "'items', 'id', NULL",
                      "'items', 'id', 'embedding', NULL", "'items', 'id', 'embedding', metric => NULL"):
        try:
            assert items.execute(f"SELECT vekter_create_index({arguments})").fetchall() == [(None,)]
        except psycopg.Error as error:
            assert error.sqlstate[:2] in ("22", "42", "39"), error
    assert items.execute("SELECT 1").fetchone() == (1,)


def test_partitioned_table_gets_its_index_on_every_partition(db):
    db.execute("CREATE TABLE items (id bigint NOT NULL, embedding vector(8)) PARTITION BY HASH (id)")
    for number in range(3):
        db.execute(f"CREATE TABLE items_{number} PARTITION OF items FOR VALUES WITH (MODULUS 3, REMAINDER {number})")
    copy_vectors(db, "items", VECTORS[:500])
    db.execute("SELECT vekter_create_index('items', 'id', 'embedding', name => 'built')")
    assert db.execute("SELECT count(*) FROM pg_inherits WHERE inhparent = 'built'::regclass").fetchone() == (3,)


# -- statistics -----------------------------------------------------------------------------------------------------

COLUMNS = ("factory", "reason", "metric", "dimensions", "segments", "rows_indexed", "delta_rows", "dead_rows",
           "index_bytes", "cache_bytes", "format_version")


def stats(db, index="built"):
    cursor = db.execute(f"SELECT * FROM vekter_index_stats('{index}')")
    assert tuple(c.name for c in cursor.description) == COLUMNS
    [row] = cursor.fetchall()
    return dict(zip(COLUMNS, row))


def test_statistics_follow_the_life_of_an_index(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding vector_ip_ops) WITH (factory = 'IVF8,Flat')")
    built = stats(items)
    assert (built["factory"], built["metric"], built["dimensions"]) == ("IVF8,Flat", "ip", 8)
    assert (built["segments"], built["rows_indexed"], built["delta_rows"], built["dead_rows"]) == (1, 500, 0, 0)
    assert built["index_bytes"] == items.execute("SELECT pg_relation_size('built')").fetchone()[0]
    assert built["format_version"] >= 1
    copy_vectors(items, "items", VECTORS[500:507], ids=range(500, 507))
    items.execute("DELETE FROM items WHERE id < 20 OR id = 500")
    vacuum_dead_rows(items)
    vacuumed = stats(items)
    assert (vacuumed["rows_indexed"], vacuumed["delta_rows"], vacuumed["dead_rows"]) == (486, 6, 20)
    items.execute("REINDEX INDEX built")
    again = stats(items)
    assert (again["rows_indexed"], again["delta_rows"], again["dead_rows"]) == (486, 0, 0)


def test_statistics_of_an_empty_index(db):
    db.execute("CREATE TABLE items (id bigint, embedding vector(3))")
    db.execute("CREATE INDEX built ON items USING faiss (embedding vector_cosine_ops)")
    empty = stats(db)
    assert (empty["metric"], empty["dimensions"]) == ("cosine", 3)
    assert (empty["segments"], empty["rows_indexed"], empty["delta_rows"], empty["dead_rows"]) == (0, 0, 0, 0)
    assert empty["cache_bytes"] == 0


def test_cache_bytes_are_those_of_the_file_after_a_search(items, cluster):
    items.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF8,Flat')")
    items.execute(f"SELECT * FROM knn('built', '{QUERY}', 5)").fetchall()
    [[number]] = items.execute("SELECT 'built'::regclass::oid::int").fetchall()
    sizes = [p.stat().st_size for p in (cluster.data / "pgsql_tmp_vekter").iterdir() if f".{number}." in p.name]
    assert max(sizes) <= stats(items)["cache_bytes"] <= sum(sizes)


@pytest.mark.parametrize("relation", ("items_pkey", "a_view", "pg_class"))
def test_statistics_of_another_kind_of_relation_are_an_error(items, relation):
    items.execute("CREATE VIEW a_view AS SELECT * FROM items")
    seen, text = refusal(items, f"SELECT * FROM vekter_index_stats('{relation}')")
    assert seen in ("42809", "42704", "0A000", "22023") and relation in text
