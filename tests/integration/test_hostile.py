"""No input, however strange, crashes the server: each ends in an answer or in an error of the right class.

Each test runs against one shared server, whose log the fixture searches for crashes when the file is done.
"""

import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from oracle import ONLY_INDEX, apply, assert_same_answer, nearest_sql, settings, with_index
from upkeep import vacuum_dead_rows

VECTORS = clustered(1_010, 8, seed=131)
QUERY = to_text(VECTORS[-1])


def make_items(db):
    db.execute("CREATE TABLE items (id bigint PRIMARY KEY, embedding vector(8))")
    copy_vectors(db, "items", VECTORS[:1_000])
    db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'HNSW16')")


def survives(db, sql, *allowed):
    """Runs a statement to its rows or to an error; internal errors and lost connections are neither."""
    try:
        cursor = db.execute(sql)
        return cursor.fetchall() if cursor.description else []
    except psycopg.Error as error:
        assert error.sqlstate not in (None, "XX000", "XX001", "XX002"), f"{sql[:200]}: {error}"
        assert not allowed or error.sqlstate in allowed, f"{sql[:200]}: {error}"
        return error
    finally:
        assert db.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("k", (1_000_000, 2_147_483_647))
@pytest.mark.parametrize("factory", ("Flat", "HNSW16", "IVF8,Flat", "IVF8,PQ4x4fs,RFlat"))
def test_huge_k_gives_every_row(items, k, factory):
    items.execute("DROP INDEX built")
    items.execute(f"CREATE INDEX built ON items USING faiss (embedding) WITH (factory = '{factory}')")
    with settings(items, **{"vekter.nprobe": 8}):
        rows = survives(items, f"SELECT * FROM knn('items', '{QUERY}', {k})")
    assert len(rows) == len(set(rows)) == 1_000


@pytest.mark.parametrize("limit", (2**31, 2**63 - 1))
def test_huge_limit_gives_every_row(items, limit):
    assert len(with_index(items, nearest_sql("items", VECTORS[-1], limit))) == 1_000


def test_integer_extremes_as_k(items):
    for k in ("-2147483648", "0", "-1"):
        assert isinstance(survives(items, f"SELECT * FROM knn('items', '{QUERY}', {k})"), psycopg.Error)
    survives(items, f"SELECT * FROM knn('items', '{QUERY}', 2147483648)", "42883", "22003")


@pytest.mark.parametrize("name, values", [
    ("vekter.nprobe", ("-1", "2147483647", "2147483648", "1e99", "'x'", "''", "NULL", "65536")),
    ("vekter.ef_search", ("-1", "2147483647", "2147483648", "'x'", "100000")),
    ("vekter.k_factor", ("-1", "'NaN'", "'Infinity'", "1e308", "1e-308", "0.5", "'x'", "1000000")),
])
def test_extreme_settings_are_refused_or_work(items, name, values):
    for value in values:
        if not isinstance(survives(items, f"SET {name} = {value}", "22023", "42601", "22P02", "22003"), psycopg.Error):
            for factory in ("HNSW16", "IVF8,Flat", "IVF8,PQ4x4fs,RFlat", "PQ4"):
                items.execute("DROP INDEX IF EXISTS other")
                items.execute("CREATE INDEX other ON items USING faiss (embedding) "
                              f"WITH (factory = '{factory}')")
                assert len(survives(items, f"SELECT * FROM knn('other', '{QUERY}', 10)")) == 10
    survives(items, "SET vekter.no_such_setting = 1", "42602")


def test_any_null_among_the_arguments(items):
    for sql in ("SELECT knn(NULL, NULL, NULL)", "SELECT * FROM knn(NULL::regclass, NULL)",
                "SELECT vekter_create_index(NULL, NULL, NULL)", "SELECT * FROM vekter_index_stats(NULL)",
                "SELECT id FROM items ORDER BY embedding <-> NULL LIMIT 3"):
        survives(items, sql)


@pytest.mark.parametrize("value", ("[NaN,0,0,0,0,0,0,0]", "[Infinity,0,0,0,0,0,0,0]", "[1e39,0,0,0,0,0,0,0]", "[]",
                                   "[,]", "", "[1", "[\u0661]"))
def test_impossible_vectors_never_reach_the_index(items, value):
    assert isinstance(survives(items, f"INSERT INTO items VALUES (-1, '{value}')"), psycopg.Error)
    assert isinstance(survives(items, f"SELECT * FROM knn('items', '{value}', 5)"), psycopg.Error)


@pytest.mark.parametrize("metric", ("l2", "ip", "cosine"))
@pytest.mark.parametrize("factory", ("Flat", "HNSW16", "IVF8,Flat", "IVF8,SQ8", "IVF8,PQ4x4fs", "SQ8"))
def test_extreme_values_are_indexed_and_found(db, factory, metric):
    """Sums overflow to infinity or sink to zero; every row still comes out once."""
    db.execute("CREATE TABLE items (id bigint PRIMARY KEY, embedding vector(4))")
    huge, tiny = "3e38", "1e-40"
    db.execute("INSERT INTO items SELECT i, ARRAY[i, 1, -i, 2]::vector FROM generate_series(1, 600) i")
    db.execute(f"INSERT INTO items SELECT 1000 + i, '[{huge},-{huge},{huge},{huge}]' FROM generate_series(1, 20) i")
    db.execute(f"INSERT INTO items SELECT 2000 + i, '[{tiny},0,0,-{tiny}]' FROM generate_series(1, 20) i")
    db.execute(f"CREATE INDEX built ON items USING faiss (embedding vector_{metric}_ops) WITH (factory = '{factory}')")
    db.execute(f"INSERT INTO items VALUES (3000, '[{huge},{huge},{huge},{huge}]'), (3001, '[{tiny},{tiny},0,0]')")
    # A vector so short that its norm is zero has no cosine.
    expected = {id for id, norm in db.execute("SELECT id, vector_norm(embedding) FROM items")
                if metric != "cosine" or norm > 1e-38}
    for query in ([1, 2, 3, 4], [3e38, 3e38, -3e38, 3e38], [1e-40, 0, 0, 0]):
        effort = {"vekter.nprobe": 8, "vekter.ef_search": 1000, "statement_timeout": "20s"}
        with settings(db, **effort):
            found = [id for id, _ in with_index(db, nearest_sql("items", query, None, metric))]
        assert len(found) == len(set(found))
        assert expected <= set(found)
        assert len(db.execute(f"SELECT * FROM knn('items', '{to_text(query)}', 20)").fetchall()) == 20
    db.execute("REINDEX INDEX built")
    db.execute("DELETE FROM items WHERE id % 2 = 0")
    vacuum_dead_rows(db)
    found = [id for id, _ in with_index(db, nearest_sql("items", [1, 2, 3, 4], None, metric))]
    assert {id for id in expected if id % 2} <= set(found) and all(id % 2 for id in found)


@pytest.mark.parametrize("factory", ("Flat", "HNSW8", "IVF4,Flat", "SQ8", "PQ1", "LSH"))
def test_one_dimension(db, factory):
    db.execute("CREATE TABLE items (id bigint, embedding vector(1))")
    db.execute("INSERT INTO items SELECT i, ARRAY[i]::vector FROM generate_series(1, 1000) i")
    db.execute(f"CREATE INDEX built ON items USING faiss (embedding) WITH (factory = '{factory}')")
    found = with_index(db, nearest_sql("items", [500.25], None))
    if factory in ("Flat", "HNSW8"):
        assert [id for id, _ in found[:3]] == [500, 501, 499]
    assert len({id for id, _ in found}) == len(found) > 200


@pytest.mark.parametrize("factory", ("Flat", "HNSW8", "IVF4,Flat", "IVF4,SQ8", "auto"))
def test_sixteen_thousand_dimensions(db, factory):
    vectors = clustered(220, 16_000, seed=132, clusters=10)
    db.execute("CREATE TABLE items (id bigint, embedding vector(16000))")
    copy_vectors(db, "items", vectors[:200])
    db.execute(f"CREATE INDEX built ON items USING faiss (embedding) WITH (factory = '{factory}')")
    copy_vectors(db, "items", vectors[200:210], ids=range(200, 210))
    with settings(db, **{"vekter.nprobe": 4, "vekter.ef_search": 500}):
        if factory != "IVF4,SQ8":
            assert_same_answer(db, "items", vectors[210], limit=20)
        assert len(with_index(db, nearest_sql("items", vectors[211], None))) == 210
    db.execute("DELETE FROM items WHERE id % 2 = 0")
    vacuum_dead_rows(db)
    assert len(with_index(db, nearest_sql("items", vectors[211], 50))) == 50


def test_functions_given_relations_of_every_kind(items):
    items.execute("CREATE VIEW a_view AS SELECT * FROM items")
    items.execute("CREATE SEQUENCE a_sequence")
    items.execute("CREATE INDEX a_btree ON items (id)")
    kinds = [r[0] for r in items.execute("SELECT DISTINCT ON (relkind, relam) oid::regclass::text FROM pg_class")]
    for relation in kinds + ["a_view", "a_sequence", "a_btree"]:
        survives(items, f"SELECT * FROM knn('{relation}', '{QUERY}', 5)")
        survives(items, f"SELECT * FROM vekter_index_stats('{relation}')")
        survives(items, f"SELECT vekter_create_index('{relation}', 'id', 'embedding')")


def test_internal_functions_cannot_be_called_by_hand(items):
    names = [r[0] for r in items.execute(
        "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid JOIN pg_extension e "
        "ON e.oid = d.refobjid WHERE extname = 'vekter' AND 'internal'::regtype = ANY (p.proargtypes)")]
    assert names, "the handler at least takes internal"
    for name in names:
        function = name.split("(")[0]
        count = name.count(",") + 1
        survives(items, f"SELECT {function}({', '.join(['NULL'] * count)})")


def test_every_function_of_the_extension_takes_null_in_every_place(items):
    rows = items.execute(
        "SELECT p.proname, p.proargtypes::regtype[]::text[] FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid "
        "JOIN pg_extension e ON e.oid = d.refobjid WHERE extname = 'vekter' AND prokind = 'f' "
        "AND NOT 'internal'::regtype = ANY (p.proargtypes)").fetchall()
    assert len(rows) > 10
    for name, types in rows:
        survives(items, f"SELECT {name}({', '.join(f'NULL::{t}' for t in types)})")


def test_search_in_odd_places(items):
    distance = f"embedding <-> '{QUERY}'"
    items.execute("SET enable_seqscan = off")
    for sql in (f"SELECT count(*) FROM (SELECT DISTINCT id FROM items ORDER BY id, {distance} LIMIT 10) x"
                .replace("DISTINCT id", "DISTINCT ON (id) id"),
                f"SELECT (SELECT id FROM items ORDER BY {distance} LIMIT 1) FROM generate_series(1, 3)",
                f"WITH RECURSIVE r (id, n) AS (SELECT * FROM (SELECT id, 0 FROM items ORDER BY {distance} LIMIT 1) a "
                f"UNION ALL SELECT i.id, n + 1 FROM r, LATERAL (SELECT id FROM items ORDER BY embedding <-> (SELECT "
                f"embedding FROM items WHERE id = r.id) OFFSET 1 LIMIT 1) i WHERE n < 5) SELECT * FROM r",
                f"UPDATE items SET id = id WHERE id IN (SELECT id FROM items ORDER BY {distance} LIMIT 5) RETURNING id",
                f"DELETE FROM items WHERE id = (SELECT id FROM items ORDER BY {distance} LIMIT 1) RETURNING id",
                f"INSERT INTO items SELECT id + 100000, embedding FROM items ORDER BY {distance} LIMIT 20 RETURNING id",
                f"SELECT id FROM items TABLESAMPLE SYSTEM (50) ORDER BY {distance} LIMIT 3",
                f"SELECT id, row_number() OVER (ORDER BY {distance}) FROM items LIMIT 5",
                f"SELECT min({distance}) FROM items"):
        assert not isinstance(survives(items, sql), psycopg.Error), sql
    apply(items, ONLY_INDEX)
    assert_same_answer(items, "items", VECTORS[-1], limit=5)


def test_self_insertion_during_a_scan_ends(items):
    """Rows that the statement itself adds are not its own to find."""
    apply(items, ONLY_INDEX)
    items.execute(f"INSERT INTO items SELECT id + 1000000, embedding FROM items ORDER BY embedding <-> '{QUERY}'")
    assert items.execute("SELECT count(*) FROM items").fetchone() == (2_000,)


def test_large_number_of_indexes_in_one_session(db):
    for number in range(60):
        db.execute(f"CREATE TABLE t{number} (id bigint, embedding vector(8))")
        copy_vectors(db, f"t{number}", VECTORS[number:number + 50])
        db.execute(f"CREATE INDEX ON t{number} USING faiss (embedding) WITH (factory = 'HNSW8')")
    for number in range(60):
        assert with_index(db, nearest_sql(f"t{number}", VECTORS[number], 1))[0][0] == 0
