"""A plain ORDER BY comes in the operator's order, to the last bit, and searches for as many rows as are wanted.

PostgreSQL relies on the order of an index scan: GROUP BY, DISTINCT, merges, incremental sorts and window functions give
wrong answers where it is wrong. And `recall`, `ef_search`, `nprobe` and `search` mean in a plain query what they mean in
knn().
"""

import pytest

from data import clustered, copy_vectors
from oracle import ONLY_INDEX, OPERATORS, apply, indexes_used, literal, nodes_of, settings, with_index, without_index

ROWS, DIMENSIONS = 6_000, 24
# One of each way through the index: exact, graph, lists, lossy codes, refined codes.
FACTORIES = ("Flat", "HNSW16", "IVF64,Flat", "IVF64,PQ6", "IVF64,PQ12x4fs,RFlat", "SQ8")
METRICS = ("l2", "cosine", "ip")
VECTORS = clustered(ROWS + 30, DIMENSIONS, seed=77)
QUERIES = VECTORS[ROWS:]


@pytest.fixture(scope="module")
def library(new_module_cluster):
    cluster = new_module_cluster()
    with cluster.connect(prepare_threshold=None) as conn:
        conn.execute("CREATE EXTENSION vekter")
        conn.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}) NOT NULL, genre int)")
        copy_vectors(conn, "items", VECTORS[:ROWS])
        conn.execute("UPDATE items SET genre = id % 20")
        conn.execute("CREATE TABLE owners (genre int, name text)")
        conn.execute("INSERT INTO owners SELECT i, 'owner ' || i FROM generate_series(0, 19) i WHERE i % 4 = 0")
        conn.execute("VACUUM FULL items")
        conn.execute("VACUUM ANALYZE")
        yield conn


@pytest.fixture
def conn(library):
    library.execute("RESET ALL")
    yield library
    library.execute("ROLLBACK")
    library.execute("DEALLOCATE ALL")
    library.execute("RESET ALL")


@pytest.fixture(scope="module", params=[*((f, "l2") for f in FACTORIES), ("HNSW16", "cosine"), ("Flat", "ip"),
                                        ("IVF64,Flat", "cosine"), ("IVF64,Flat", "ip")], ids="-".join)
def built(library, request):
    """The operator of the only index on the table."""
    factory, metric = request.param
    library.execute(f"CREATE INDEX built ON items USING faiss (embedding vector_{metric}_ops) INCLUDE (id) "
                    f"WITH (factory = '{factory}')")
    library.execute("ANALYZE items")
    yield OPERATORS[metric]
    library.execute("DROP INDEX built")


def assert_in_order(conn, sql, column=-1):
    distances = [row[column] for row in with_index(conn, sql, "built")]
    assert distances == sorted(distances)
    return distances


@pytest.mark.parametrize("shape", (
    "SELECT id, {d} FROM items ORDER BY {d} LIMIT 100",
    "SELECT id, {d} FROM items ORDER BY {d} LIMIT 1000",
    "SELECT id, {d} FROM items WHERE genre = 3 ORDER BY {d} LIMIT 10",
    "SELECT id, {d} FROM items WHERE genre < 6 ORDER BY {d} LIMIT 200",
    "SELECT i.id, {d} FROM items i JOIN owners USING (genre) ORDER BY {d} LIMIT 40",
    "SELECT id, {d} FROM items ORDER BY {d}",
    "SELECT id, {d} FROM items ORDER BY {d}, id DESC LIMIT 50",
    "SELECT id, d FROM (SELECT id, {d} AS d FROM items ORDER BY {d} OFFSET 5) s LIMIT 50",
))
def test_rows_come_in_the_operators_order_to_the_last_bit(conn, built, shape):
    for query in QUERIES[:8]:
        assert_in_order(conn, shape.format(d=f"embedding {built} {literal(query)}"))


def test_cursor_comes_in_order_and_gives_every_row_once(conn, built):
    distance = f"embedding {built} {literal(QUERIES[0])}"
    with settings(conn, **ONLY_INDEX), conn.transaction():
        conn.execute(f"DECLARE c CURSOR FOR SELECT id, {distance} FROM items ORDER BY {distance}")
        rows = [row for _ in range(ROWS // 500 + 1) for row in conn.execute("FETCH 500 FROM c").fetchall()]
    assert sorted(id for id, _ in rows) == list(range(ROWS))
    assert [d for _, d in rows] == sorted(d for _, d in rows)


def test_groups_of_equal_distances_are_whole(conn, built):
    """Each value of the distance is one group, however FAISS rounds it."""
    distance = f"embedding {built} {literal(QUERIES[1])}"
    groups = with_index(conn, f"SELECT {distance}, count(*) FROM items GROUP BY 1 ORDER BY 1 LIMIT 300", "built")
    assert len({d for d, _ in groups}) == len(groups) == 300


def test_distances_that_differ_by_rounding_only_are_in_order(db):
    """6,000 points of the unit circle, and the four distances from its centre that rounding makes."""
    db.execute("CREATE TABLE circle (id int, v vector(2))")
    db.execute("INSERT INTO circle SELECT i, ARRAY[cos(i), sin(i)]::real[] FROM generate_series(1, 6000) i")
    db.execute("CREATE INDEX built ON circle USING faiss (v) WITH (factory = 'Flat')")
    db.execute("ANALYZE circle")
    sql = "SELECT v <-> '[0,0]' AS d, count(*) FROM circle GROUP BY 1 ORDER BY 1 LIMIT 50"
    assert with_index(db, sql, "built") == without_index(db, sql)


def test_relaxed_order_returns_every_row_of_a_growing_scan(conn, built):
    """A nested loop reads on until its LIMIT is reached: here to the end, as nothing matches."""
    distance = f"embedding {built} {literal(QUERIES[2])}"
    conn.execute("SET vekter.iterative_scan = relaxed_order")
    sql = (f"SELECT i.id FROM items i JOIN owners o ON o.genre = i.genre AND length(o.name) > i.id * 0 + 100 "
           f"ORDER BY {distance} LIMIT 5")
    assert with_index(conn, sql, "built") == []
    conn.execute("RESET vekter.iterative_scan")


# -- how many rows are searched for ---------------------------------------------------------------------------------

LIMITED = {
    "a constant": "SELECT id FROM items ORDER BY {d} LIMIT 10",
    "OFFSET": "SELECT id FROM items ORDER BY {d} LIMIT 4 OFFSET 6",
    "FETCH FIRST": "SELECT id FROM items ORDER BY {d} FETCH FIRST 10 ROWS ONLY",
    "an expression": "SELECT id FROM items ORDER BY {d} LIMIT 5 + length('abcde')",
    "a subquery's value": "SELECT id FROM items ORDER BY {d} LIMIT (SELECT 10)",
    "a projection": "SELECT id + 0, {d} FROM items ORDER BY {d} LIMIT 10",
    "a subquery": "SELECT id FROM (SELECT id FROM items ORDER BY {d}) s LIMIT 10",
    "a barrier": "SELECT id FROM behind_a_barrier LIMIT 10",
    "locks": "SELECT id FROM items ORDER BY {d} LIMIT 10 FOR UPDATE",
    "a lateral join": "SELECT n.id FROM (VALUES (1)) v, LATERAL (SELECT id FROM items ORDER BY {d} LIMIT 10) n",
    "row_number": "SELECT id FROM (SELECT id, row_number() OVER (ORDER BY {d}) AS n FROM items) s WHERE n <= 10",
}


@pytest.fixture(scope="module")
def lists(library):
    library.execute("CREATE INDEX lists ON items USING faiss (embedding) INCLUDE (id) WITH (factory = 'IVF256,Flat')")
    library.execute("ANALYZE items")
    yield
    library.execute("DROP INDEX lists")


@pytest.mark.parametrize("shape", LIMITED.values(), ids=LIMITED.keys())
def test_parameters_mean_what_they_mean_in_knn(conn, lists, shape):
    """One list of 256 holds few of the nearest rows: who searched for more would see more lists, or all rows."""
    conn.execute("SET vekter.nprobe = 1")
    differ = 0
    for query in QUERIES[:12]:
        distance = f"embedding <-> {literal(query)}"
        conn.execute(f"CREATE OR REPLACE VIEW behind_a_barrier WITH (security_barrier) AS "
                     f"SELECT id FROM items ORDER BY {distance}")
        found = [row[0] for row in with_index(conn, shape.format(d=distance), "lists")]
        of_knn = [id for id, _ in conn.execute(f"SELECT id, distance FROM knn('lists', {literal(query)}, 10)")]
        exact = [id for id, in without_index(conn, f"SELECT id FROM items ORDER BY {distance} LIMIT 10")]
        assert found == of_knn[-len(found):]
        differ += found != exact[-len(found):]
    assert differ > 0, "a search of one list finds everything: the test would not see a wider one"
    conn.execute("DROP VIEW behind_a_barrier")


@pytest.mark.parametrize("mode", ("force_custom_plan", "force_generic_plan"))
def test_parameters_hold_in_prepared_statements_whatever_the_plan(conn, lists, mode):
    conn.execute("SET vekter.nprobe = 1")
    conn.execute(f"SET plan_cache_mode = {mode}")
    apply(conn, ONLY_INDEX)
    conn.execute("PREPARE nearest (vector, bigint) AS SELECT id FROM items ORDER BY embedding <-> $1 LIMIT $2")
    for query in QUERIES[:6]:
        found = [id for id, in conn.execute(f"EXECUTE nearest ({literal(query)}, 10)")]
        assert found == [id for id, _ in conn.execute(f"SELECT id, distance FROM knn('lists', {literal(query)}, 10)")]
    [(count,)] = conn.execute("SELECT count(*) FROM items").fetchall()
    assert len(conn.execute(f"EXECUTE nearest ({literal(QUERIES[0])}, NULL)").fetchall()) == count


def test_functions_in_sql_and_in_plpgsql_search_as_the_statement_does(conn, lists):
    conn.execute("SET vekter.nprobe = 1")
    body = "SELECT id FROM items ORDER BY embedding <-> q LIMIT wanted"
    conn.execute(f"CREATE FUNCTION of_sql(q vector, wanted int) RETURNS SETOF bigint LANGUAGE sql STABLE AS '{body}'")
    conn.execute(f"CREATE FUNCTION of_plpgsql(q vector, wanted int) RETURNS SETOF bigint LANGUAGE plpgsql STABLE AS "
                 f"'BEGIN RETURN QUERY {body}; END'")
    apply(conn, ONLY_INDEX)
    for query in QUERIES[:6]:
        expected = [id for id, _ in conn.execute(f"SELECT id, distance FROM knn('lists', {literal(query)}, 10)")]
        for function in ("of_sql", "of_plpgsql"):
            assert [id for id, in conn.execute(f"SELECT {function}({literal(query)}, 10)")] == expected
    conn.execute("DROP FUNCTION of_sql, of_plpgsql")


def test_partitions_each_search_for_the_limit(db):
    db.execute(f"CREATE TABLE parts (id bigint, embedding vector({DIMENSIONS})) PARTITION BY RANGE (id)")
    for at in range(3):
        db.execute(f"CREATE TABLE parts_{at} PARTITION OF parts FOR VALUES FROM ({at * 2000}) TO ({at * 2000 + 2000})")
    copy_vectors(db, "parts", VECTORS[:ROWS])
    db.execute("CREATE INDEX ON parts USING faiss (embedding) WITH (factory = 'Flat')")
    db.execute("ANALYZE parts")
    for query in QUERIES[:5]:
        distance = f"embedding <-> {literal(query)}"
        for where in ("true", "id % 10 = 3"):
            sql = f"SELECT id, {distance} FROM parts WHERE {where} ORDER BY {distance} LIMIT 25"
            assert with_index(db, sql) == without_index(db, sql)
            with settings(db, **ONLY_INDEX):
                assert len(indexes_used(db, sql)) == 3


def test_explain_shows_how_few_rows_a_scan_returns(conn, lists):
    """With the LIMIT known a scan is asked for no more rows than it returns."""
    distance = f"embedding <-> {literal(QUERIES[0])}"
    apply(conn, ONLY_INDEX)
    [[[top]]] = conn.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) SELECT id FROM items ORDER BY {distance} LIMIT 7").fetchall()
    [scan] = [node for node in nodes_of(top["Plan"]) if node.get("Index Name") == "lists"]
    assert scan["Actual Rows"] == 7
