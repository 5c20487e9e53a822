"""A WHERE before the search: the plan's own scan node looks at the condition while it searches, or before.

Oracle: the same query without the index. On an exact index the answers are equal; on others every row passes, comes with
its own distance, in order, and as many come as there are.
"""

import threading

import psycopg
import pytest

from data import clustered, copy_vectors
from oracle import ONLY_INDEX, apply, indexes_used, literal, nodes_of, plan_nodes, settings, with_index, without_index
from upkeep import wait_until

ROWS, DIMENSIONS = 8_000, 16
FACTORIES = ("Flat", "HNSW16", "IVF64,Flat", "IVF64,PQ4", "IVF64,PQ8x4fs,RFlat", "SQ8")
VECTORS = clustered(ROWS + 30, DIMENSIONS, seed=91)
QUERIES = VECTORS[ROWS:]
D = f"embedding <-> {literal(QUERIES[0])}"


@pytest.fixture(scope="module")
def server(new_module_cluster):
    cluster = new_module_cluster()
    with cluster.connect() as conn:
        conn.execute("CREATE EXTENSION vekter")
        conn.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}) NOT NULL, genre int, "
                     "price numeric, tags text[], attributes jsonb, maybe vector(16))")
        copy_vectors(conn, "items", VECTORS[:ROWS])
        # One genre in 5 % of the rows, one in one row; the rest in genre 1.
        conn.execute("UPDATE items SET genre = CASE WHEN id = 17 THEN 3 WHEN id % 20 = 0 THEN 2 ELSE 1 END, "
                     "price = id % 100, tags = ARRAY['t' || id % 50, 'u' || id % 7], "
                     "attributes = jsonb_build_object('kind', id % 30), "
                     "maybe = CASE WHEN id % 3 > 0 THEN embedding END")
        conn.execute("VACUUM FULL items")
        conn.execute("CREATE INDEX items_genre ON items (genre)")
        conn.execute("CREATE INDEX items_price ON items (price)")
        conn.execute("CREATE INDEX items_tags ON items USING gin (tags)")
        conn.execute("CREATE INDEX items_attributes ON items USING gin (attributes)")
        conn.execute("VACUUM ANALYZE")
    return cluster


@pytest.fixture(scope="module", params=FACTORIES)
def factory(server, request):
    server.execute(f"CREATE INDEX built ON items USING faiss (embedding) WITH (factory = '{request.param}')")
    server.execute("ANALYZE items")
    yield request.param
    server.execute("DROP INDEX built")


@pytest.fixture(scope="module")
def exact(server):
    server.execute("CREATE INDEX exact ON items USING faiss (embedding) WITH (factory = 'Flat')")
    server.execute("CREATE INDEX exact_maybe ON items USING faiss (maybe) WITH (factory = 'Flat')")
    server.execute("ANALYZE items")
    yield
    server.execute("DROP INDEX exact, exact_maybe")


@pytest.fixture
def conn(server):
    with server.connect(prepare_threshold=None) as conn:
        yield conn


def scan_node(conn, sql):
    """The node that searches, with what EXPLAIN ANALYZE counted."""
    [[[top]]] = conn.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}").fetchall()
    [node] = [node for node in nodes_of(top["Plan"]) if node["Node Type"] == "Custom Scan"]
    return node


CONDITIONS = {
    "a rare value of a B-tree": "genre = 3",
    "5 % of a B-tree": "genre = 2",
    "nearly every row": "genre = 1",
    "no row": "genre = 99",
    "a range": "price BETWEEN 10 AND 12",
    "AND": "genre = 2 AND price > 40",
    "OR": "genre = 3 OR price = 7",
    "IN": "price IN (3, 4, 5)",
    "an array": "tags @> ARRAY['t7']",
    "jsonb": "attributes @> '{\"kind\": 4}'",
    "an expression without an index": "id % 37 = 5",
    "a volatile function": "genre = 2 AND random() >= 0",
    "a subquery": "genre = (SELECT max(genre) FROM items) - 1",
    "the primary key": "id = 4711",
    "a null": "genre = NULL::int",
}


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS.keys())
def test_filtered_query_gives_every_row_it_can_in_order(conn, factory, condition):
    expected = without_index(conn, f"SELECT id, {D} FROM items WHERE {condition} ORDER BY {D}")
    own = dict(expected)
    for limit in (1, 10, 500):
        with settings(conn, **ONLY_INDEX):
            got = conn.execute(f"SELECT id, {D} FROM items WHERE {condition} ORDER BY {D} LIMIT {limit}").fetchall()
        assert len(got) == len({id for id, _ in got}) == min(limit, len(expected))
        assert all(own[id] == distance for id, distance in got)
        assert [d for _, d in got] == sorted(d for _, d in got)
        if factory == "Flat":
            assert [d for _, d in got] == [d for _, d in expected[:limit]]


@pytest.mark.parametrize("mode", ("force_custom_plan", "force_generic_plan"))
def test_prepared_statement_is_right_for_values_of_any_frequency(conn, factory, mode):
    conn.execute(f"SET plan_cache_mode = {mode}")
    conn.execute(f"PREPARE p (int) AS SELECT id, {D} FROM items WHERE genre = $1 ORDER BY {D} LIMIT 30")
    with settings(conn, **ONLY_INDEX):
        for genre in (1, 2, 3, 99, 2, 1):
            expected = without_index(conn, f"SELECT id, {D} FROM items WHERE genre = {genre} ORDER BY {D} LIMIT 30")
            got = conn.execute(f"EXECUTE p ({genre})").fetchall()
            assert len(got) == len(expected) and {d for _, d in got} <= {d for _, d in without_index(
                conn, f"SELECT id, {D} FROM items WHERE genre = {genre}")}
            if factory == "Flat" or genre > 1:
                assert got == expected


def test_few_rows_are_found_through_the_tables_own_index(conn, exact):
    node = scan_node(conn, f"SELECT id FROM items WHERE genre = 2 ORDER BY {D} LIMIT 10")
    assert node["Index Name"] == "exact" and node["Filter"] == "(genre = 2)" and "Order By" in node
    assert "items_genre" in {child.get("Index Name") for child in nodes_of(node)}
    # All that are looked at pass.
    assert node.get("Rows Removed by Filter", 0) == 0


def test_explain_counts_the_rows_that_did_not_pass(conn, exact):
    with settings(conn, **ONLY_INDEX):
        node = scan_node(conn, f"SELECT id FROM items WHERE id % 2 = 0 ORDER BY {D} LIMIT 10")
    last = with_index(conn, f"SELECT id, {D} FROM items WHERE id % 2 = 0 ORDER BY 2 LIMIT 10")[-1][1]
    [nearer] = conn.execute(f"SELECT count(*) FROM items WHERE {D} < {last!r} AND id % 2 <> 0").fetchone()
    assert node["Actual Rows"] == 10
    assert node["Rows Removed by Filter"] == nearer


# -- shapes of the order --------------------------------------------------------------------------------------------

ORDERS = (
    "{d}", "1 - ({d}) DESC", "-({d}) DESC", "({d}) * -1 DESC", "({d}) * 2", "2 * ({d})", "({d}) / 3", "l2_distance(embedding, {q})",
    "l2_distance({q}, embedding)", "100 * (1 - ({d})) DESC", "{d}, id", "{d} NULLS FIRST", "1 - l2_distance(embedding, {q}) DESC",
)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("where", ("true", "genre = 2"))
def test_index_serves_every_order_that_follows_the_distance(conn, exact, order, where):
    for query in QUERIES[:3]:
        order_by = order.format(d=f"embedding <-> {literal(query)}", q=literal(query))
        sql = f"SELECT id FROM items WHERE {where} ORDER BY {order_by} LIMIT 20"
        assert with_index(conn, sql, "exact") == without_index(conn, sql)


@pytest.mark.parametrize("order", (
    "1 - ({d})", "{d} DESC", "-({d})", "({d}) * -1", "({d}) + 0", "({d}) * random()", "({d}) * id", "1 / ({d})", "abs(({d}) - 1)",
    "1 - (maybe <-> {q}) DESC", "maybe <-> {q} NULLS FIRST",
))
def test_index_is_not_used_for_another_order(conn, exact, order):
    sql = f"SELECT id FROM items ORDER BY {order.format(d=D, q=literal(QUERIES[0]))} LIMIT 20"
    with settings(conn, **ONLY_INDEX):
        assert indexes_used(conn, sql) == set()


def test_nulls_first_needs_a_condition_that_no_null_passes(conn, exact):
    similarity = f"1 - (maybe <-> {literal(QUERIES[0])})"
    for where in (f"{similarity} > -3", "maybe IS NOT NULL"):
        sql = f"SELECT id FROM items WHERE {where} ORDER BY {similarity} DESC LIMIT 20"
        assert with_index(conn, sql, "exact_maybe") == without_index(conn, sql)


# -- a radius -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("condition", ("{d} < {r}", "{d} <= {r}", "{r} > {d}", "1 - ({d}) > 1 - {r}", "({d}) * -1 > -{r}",
                                       "-({d}) >= -{r}", "{d} < {r} AND genre = 1", "l2_distance(embedding, {q}) < {r}"))
@pytest.mark.parametrize("limit", ("LIMIT 1000", ""))
def test_condition_on_the_distance_ends_the_scan(conn, factory, condition, limit):
    query = QUERIES[3]
    distance = f"embedding <-> {literal(query)}"
    radius = without_index(conn, f"SELECT id, {distance} FROM items ORDER BY 2 LIMIT 40")[-1][1]
    where = condition.format(d=distance, r=repr(radius), q=literal(query))
    sql = f"SELECT id, {distance} FROM items WHERE {where} ORDER BY {distance} {limit}"
    expected = without_index(conn, sql)
    got = with_index(conn, sql, "built")
    assert set(got) <= set(expected) and [d for _, d in got] == sorted(d for _, d in got)
    assert len(got) >= 0.9 * len(expected)
    if factory == "Flat":
        assert got == expected
    with settings(conn, **ONLY_INDEX):
        assert scan_node(conn, sql).get("Rows Removed by Filter", 0) < ROWS / 4


def test_radius_of_a_functions_argument_ends_the_scan(conn, exact):
    conn.execute("CREATE FUNCTION pg_temp.match(q vector, threshold float8, wanted int) RETURNS TABLE (id bigint, similarity float8) "
                 "LANGUAGE sql STABLE AS 'SELECT i.id, 1 - (i.embedding <-> q) FROM items i "
                 "WHERE 1 - (i.embedding <-> q) > threshold ORDER BY 1 - (i.embedding <-> q) DESC LIMIT wanted'")
    sql = f"SELECT * FROM pg_temp.match({literal(QUERIES[0])}, -1.5, 50)"
    with settings(conn, **ONLY_INDEX):
        found = conn.execute(sql).fetchall()
    assert found == without_index(conn, sql)


@pytest.mark.parametrize("bound", ("NULL", "'NaN'", "'Infinity'", "'-Infinity'", "-1"))
def test_radius_may_be_any_value(conn, exact, bound):
    sql = f"SELECT id FROM items WHERE {D} < {bound}::float8 ORDER BY {D} LIMIT 10"
    assert with_index(conn, sql) == without_index(conn, sql) if bound != "NULL" else conn.execute(sql).fetchall() == []


# -- as PostgreSQL's own scans --------------------------------------------------------------------------------------

def test_columns_of_the_system_and_whole_rows_come_through(conn, exact):
    sql = f"SELECT ctid, xmin, tableoid::regclass, id, i FROM items i WHERE genre = 2 ORDER BY {D} LIMIT 5"
    assert with_index(conn, sql, "exact") == without_index(conn, sql)


def test_rescans_take_new_parameters(conn, exact):
    sql = ("SELECT g, n.id FROM generate_series(1, 3) g, LATERAL (SELECT id FROM items WHERE genre = g "
           f"ORDER BY {D} LIMIT 4) n")
    assert sorted(with_index(conn, sql, "exact")) == sorted(without_index(conn, sql))


def test_policies_hide_rows_and_do_not_take_any_away(server, conn, exact):
    conn.execute("CREATE ROLE reader; GRANT SELECT ON items TO reader; ALTER TABLE items ENABLE ROW LEVEL SECURITY; "
                 "CREATE POLICY p ON items TO reader USING (genre = 2)")
    try:
        conn.execute("SET ROLE reader")
        sql = f"SELECT id, {D} FROM items ORDER BY {D} LIMIT 15"
        got = with_index(conn, sql, "exact")
        assert len(got) == 15 and got == without_index(conn, sql)
    finally:
        conn.execute("RESET ROLE; DROP POLICY p ON items; ALTER TABLE items DISABLE ROW LEVEL SECURITY; DROP OWNED BY reader; "
                     "DROP ROLE reader")


def test_row_that_changes_while_it_is_waited_for_is_looked_at_again(server, conn, exact):
    """READ COMMITTED: the condition is checked on the row's new version once its lock is free."""
    apply(conn, ONLY_INDEX)
    sql = f"SELECT id FROM items WHERE genre = 2 ORDER BY {D} LIMIT 3"
    before = [id for id, in conn.execute(sql.replace("LIMIT 3", "LIMIT 4"))]
    with server.connect(autocommit=False) as other:
        other.execute("UPDATE items SET genre = 1 WHERE id = %s", [before[1]])
        found = []
        waiter = threading.Thread(target=lambda: found.extend(id for id, in conn.execute(f"{sql} FOR UPDATE")))
        waiter.start()
        wait_until(lambda: server.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND pid = %s", [conn.info.backend_pid]),
                   "the other session waits for the row")
        other.commit()
    waiter.join()
    assert found == [before[0], before[2], before[3]]
    conn.execute("UPDATE items SET genre = 2 WHERE id = %s", [before[1]])


def test_serializable_transactions_see_the_read(server, exact):
    """Write skew over filtered searches: one of the two must fail."""
    sql = f"SELECT id FROM items WHERE genre = 2 ORDER BY {D} LIMIT 3"
    with server.connect(autocommit=False) as one, server.connect(autocommit=False) as two:
        for at, conn in enumerate((one, two)):
            conn.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            for name, value in ONLY_INDEX.items():
                conn.execute(f"SET LOCAL {name} = {value}")
            conn.execute(sql).fetchall()
        for at, conn in enumerate((one, two)):
            conn.execute("INSERT INTO items (id, embedding, genre) VALUES (%s, %s::vector, 2)", [1_000_000 + at, str(QUERIES[0].tolist())])
        one.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            two.commit()
    server.execute("DELETE FROM items WHERE id >= 1000000")


def test_dead_and_new_rows_are_seen_as_the_snapshot_sees_them(server, conn, exact):
    sql = f"SELECT id, {D} FROM items WHERE genre = 2 ORDER BY {D} LIMIT 20"
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        before = without_index(conn, sql)
        with server.connect() as other:
            other.execute("DELETE FROM items WHERE id = %s", [before[0][0]])
            other.execute("INSERT INTO items (id, embedding, genre) SELECT 2000000, embedding, 2 FROM items WHERE id = %s", [before[1][0]])
        assert with_index(conn, sql, "exact") == before
    after = with_index(conn, sql, "exact")
    assert [d for _, d in after] == [d for _, d in without_index(conn, sql)] and before[0] not in after
    server.execute("DELETE FROM items WHERE id = 2000000")


def test_what_is_not_the_whole_table_is_left_to_postgresql(conn, exact):
    apply(conn, ONLY_INDEX)
    for source, where in (("items TABLESAMPLE SYSTEM (50) REPEATABLE (1)", "genre = 2"), ("items", "genre = 2 AND false")):
        sql = f"SELECT id FROM {source} WHERE {where} ORDER BY {D} LIMIT 5"
        assert indexes_used(conn, sql) == set()
        assert conn.execute(sql).fetchall() == without_index(conn, sql)


def test_disabled_index_scans_disable_the_node(conn, exact):
    with settings(conn, enable_indexscan="off"):
        assert not [n for n in plan_nodes(conn, f"SELECT id FROM items WHERE genre = 2 ORDER BY {D} LIMIT 5")
                    if n["Node Type"] == "Custom Scan"]
