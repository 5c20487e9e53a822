"""What ORDER BY ... LIMIT promises on an index that does not change: rows, order, plans, cursors, rescans."""

import psycopg
import pytest

from data import clustered, copy_vectors
from oracle import (ONLY_INDEX, WITHOUT_INDEX, apply, assert_nearest, assert_same_answer, indexes_used, is_ordered,
                    literal, nearest_sql, nodes_of, plan_nodes, settings, with_index, without_index)

ROWS, DIMENSIONS = 5_000, 16
FACTORIES = ("Flat", "HNSW16", "IVF32,Flat", "IVF32,PQ4", "IVF32,PQ8x4fs,RFlat", "SQ8")
VECTORS = clustered(ROWS + 20, DIMENSIONS, seed=11)
BASE, QUERIES = VECTORS[:ROWS], VECTORS[ROWS:]
QUERY = QUERIES[0]


@pytest.fixture(scope="module")
def library(new_module_cluster):
    """One connection to a table per factory, `items_0`, `items_1`, ..., and `items` with Flat; tests only read."""
    cluster = new_module_cluster()
    # Without statements that psycopg prepares by itself: the tests prepare and forget their own.
    with cluster.connect(prepare_threshold=None) as conn:
        conn.execute("CREATE EXTENSION vekter")
        conn.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), genre int)")
        copy_vectors(conn, "items", BASE)
        # genre 0 holds 1 % of the rows, far from most queries as near to them.
        conn.execute("UPDATE items SET genre = id % 100")
        conn.execute("VACUUM FULL items")
        for number, factory in enumerate(FACTORIES):
            conn.execute(f"CREATE TABLE items_{number} AS SELECT * FROM items")
            conn.execute(f"CREATE INDEX items_{number}_faiss ON items_{number} USING faiss (embedding) "
                         f"WITH (factory = '{factory}')")
        conn.execute("CREATE INDEX items_faiss ON items USING faiss (embedding) WITH (factory = 'Flat')")
        conn.execute("CREATE INDEX items_genre ON items (genre)")
        conn.execute("VACUUM ANALYZE")
        conn.commit()
        yield conn


@pytest.fixture
def conn(library):
    """The shared connection, with every setting at its default before and after."""
    library.execute("RESET ALL")
    yield library
    library.execute("ROLLBACK")
    library.execute("DEALLOCATE ALL")
    library.execute("RESET ALL")


tables = pytest.mark.parametrize("table", [f"items_{n}" for n in range(len(FACTORIES))], ids=FACTORIES)


# -- rows and order -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("limit", (1, 10, 999, ROWS, ROWS + 1, None))
def test_limit_gives_that_many_nearest_rows(conn, limit):
    assert_same_answer(conn, "items", QUERY, limit=limit, index="items_faiss")


def test_limit_zero_gives_no_row(conn):
    assert with_index(conn, nearest_sql("items", QUERY, 0)) == []


def test_offset_continues_where_the_limit_ended(conn):
    first = with_index(conn, nearest_sql("items", QUERY, 40))
    assert with_index(conn, nearest_sql("items", QUERY, 10) + " OFFSET 30") == first[30:]


@tables
def test_filtered_query_returns_its_full_limit(conn, table):
    for query in QUERIES[:5]:
        got = with_index(conn, nearest_sql(table, query, 45, where="genre = 0"))
        assert len(got) == len({id for id, _ in got}) == 45
        assert all(id % 100 == 0 for id, _ in got)


@tables
def test_filter_that_matches_no_row_ends(conn, table):
    assert with_index(conn, nearest_sql(table, QUERY, 5, where="genre = -1")) == []


@tables
def test_scan_without_limit_grows_to_every_row_once(conn, table):
    got = with_index(conn, nearest_sql(table, QUERY, None))
    assert sorted(id for id, _ in got) == list(range(ROWS))


@tables
def test_filter_equals_the_sequential_scan_when_it_takes_all_matches(conn, table):
    sql = nearest_sql(table, QUERY, None, where="genre = 3")
    assert sorted(with_index(conn, sql)) == sorted(without_index(conn, sql))


def test_filtered_flat_answer_is_exact(conn):
    for query in QUERIES:
        assert_same_answer(conn, "items", query, limit=20, where="genre BETWEEN 3 AND 4", index="items_faiss")


def test_distance_bound_in_the_filter(conn):
    distance = f"embedding <-> {literal(QUERY)}"
    bound = without_index(conn, nearest_sql("items", QUERY, 25))[-1][1]
    got = with_index(conn, nearest_sql("items", QUERY, 100, where=f"{distance} <= {bound!r}"))
    assert len(got) == 25


def test_fetch_first_with_ties_gives_all_ties(conn):
    conn.execute("CREATE TEMP TABLE tied AS SELECT i AS id, ARRAY[i / 10, 0, 0]::vector(3) AS embedding "
                 "FROM generate_series(0, 999) i")
    conn.execute("CREATE INDEX ON tied USING faiss (embedding) WITH (factory = 'Flat')")
    sql = nearest_sql("tied", [50, 0, 0], None) + " FETCH FIRST 5 ROWS WITH TIES"
    assert sorted(id for id, _ in with_index(conn, sql)) == list(range(500, 510))
    conn.execute("DROP TABLE tied")


# -- rescans, cursors, prepared statements --------------------------------------------------------------------------

@tables
def test_lateral_join_searches_again_for_every_outer_row(conn, table):
    conn.execute(f"CREATE TEMP TABLE queries (id bigint, embedding vector({DIMENSIONS}))")
    copy_vectors(conn, "queries", QUERIES)
    sql = (f"SELECT q.id, n.id, n.distance FROM queries q CROSS JOIN LATERAL (SELECT id, embedding <-> q.embedding "
           f"AS distance FROM {table} ORDER BY embedding <-> q.embedding LIMIT 5) n")
    got = with_index(conn, sql, f"{table}_faiss")
    one_by_one = [(number, *row) for number, query in enumerate(QUERIES)
                  for row in with_index(conn, nearest_sql(table, query, 5))]
    conn.execute("DROP TABLE queries")
    assert got == one_by_one


def test_lateral_join_with_null_queries_among_the_outer_rows(conn):
    sql = ("SELECT q.n, count(i.id) FROM (VALUES (1, NULL), (2, '{}'::vector), (3, NULL)) q (n, v) CROSS JOIN LATERAL "
           "(SELECT id FROM items ORDER BY embedding <-> q.v::vector LIMIT 5) i GROUP BY 1 ORDER BY 1"
           ).replace("'{}'::vector", literal(QUERY))
    assert with_index(conn, sql) == [(1, 5), (2, 5), (3, 5)]


@pytest.mark.parametrize("queries", (0, 1, 3))
def test_statistics_and_explain_count_one_search_for_each_query(conn, queries):
    sql = (f"SELECT n.id FROM generate_series(1, {queries}) CROSS JOIN LATERAL "
           f"(SELECT id FROM items ORDER BY embedding <-> {literal(QUERY)} LIMIT 5 + generate_series % 2) n")
    apply(conn, ONLY_INDEX)
    counted = "SELECT pg_stat_get_xact_numscans('items_faiss'::regclass)"
    with conn.transaction():
        before = conn.execute(counted).fetchone()[0]
        [[[top]]] = conn.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}").fetchall()
        assert conn.execute(counted).fetchone()[0] - before == queries
    [scan] = [node for node in nodes_of(top["Plan"]) if node.get("Index Name") == "items_faiss"]
    # PostgreSQL shows it from 18 on.
    assert scan.get("Index Searches") == (queries if conn.info.server_version >= 180000 else None)


def test_same_subquery_twice_in_one_plan(conn):
    one = nearest_sql("items", QUERIES[1], 7)
    other = nearest_sql("items", QUERIES[2], 7)
    together = with_index(conn, f"(({one}) UNION ALL ({other}))")
    assert sorted(together) == sorted(with_index(conn, one) + with_index(conn, other))


@tables
def test_cursor_fetches_the_rows_in_pieces(conn, table):
    whole = with_index(conn, nearest_sql(table, QUERY, None))
    conn.execute("BEGIN")
    with settings(conn, **ONLY_INDEX):
        conn.execute(f"DECLARE c CURSOR FOR {nearest_sql(table, QUERY, None)}")
    pieces = [conn.execute(f"FETCH {n} FROM c").fetchall() for n in (1, 4, 95, 900, "ALL")]
    conn.execute("COMMIT")
    assert [len(p) for p in pieces] == [1, 4, 95, 900, ROWS - 1000]
    assert sum(pieces, []) == whole


def test_scroll_cursor_goes_backward_and_forward(conn):
    whole = with_index(conn, nearest_sql("items", QUERY, 50))
    conn.execute("BEGIN")
    with settings(conn, **ONLY_INDEX):
        conn.execute(f"DECLARE c SCROLL CURSOR FOR {nearest_sql('items', QUERY, 50)}")
    assert conn.execute("FETCH 20 FROM c").fetchall() == whole[:20]
    assert conn.execute("FETCH BACKWARD 10 FROM c").fetchall() == whole[18:8:-1]
    assert conn.execute("FETCH ABSOLUTE 30 FROM c").fetchall() == [whole[29]]
    conn.execute("COMMIT")


def test_cursor_with_hold_outlives_its_transaction(conn):
    conn.execute("BEGIN")
    with settings(conn, **ONLY_INDEX):
        conn.execute(f"DECLARE c CURSOR WITH HOLD FOR {nearest_sql('items', QUERY, 50)}")
    first = conn.execute("FETCH 20 FROM c").fetchall()
    conn.execute("COMMIT")
    rest = conn.execute("FETCH ALL FROM c").fetchall()
    conn.execute("CLOSE c")
    assert first + rest == with_index(conn, nearest_sql("items", QUERY, 50))


@pytest.mark.parametrize("mode", ("auto", "force_generic_plan", "force_custom_plan"))
def test_prepared_statement_answers_for_each_of_its_arguments(conn, mode):
    conn.execute(f"SET plan_cache_mode = {mode}")
    conn.execute("PREPARE p (vector, int) AS SELECT id, embedding <-> $1 FROM items ORDER BY embedding <-> $1 LIMIT $2")
    for number, query in enumerate(QUERIES):
        execute = f"EXECUTE p ({literal(query)}, {number})"
        with settings(conn, enable_seqscan="off", enable_sort="off"):
            assert indexes_used(conn, execute) == {"items_faiss"}
            got = conn.execute(execute).fetchall()
        assert_nearest(got, without_index(conn, nearest_sql("items", query, None)), number)


def test_prepared_statement_takes_a_null_argument(conn):
    conn.execute("SET plan_cache_mode = force_generic_plan")
    conn.execute("PREPARE p (vector) AS SELECT id FROM items ORDER BY embedding <-> $1")
    with settings(conn, **ONLY_INDEX):
        assert indexes_used(conn, "EXECUTE p (NULL)") == {"items_faiss"}
        assert sorted(conn.execute("EXECUTE p (NULL)").fetchall()) == [(i,) for i in range(ROWS)]


@tables
def test_null_query_loses_no_row(conn, table):
    sql = f"SELECT id FROM {table} ORDER BY embedding <-> (SELECT NULL::vector)"
    assert sorted(with_index(conn, sql)) == [(i,) for i in range(ROWS)]
    assert len(with_index(conn, sql + " LIMIT 7")) == 7


def test_query_of_another_dimension_is_an_error(conn):
    with settings(conn, **ONLY_INDEX):
        with pytest.raises(psycopg.errors.DataException, match=f"different vector dimensions {DIMENSIONS} and 3"):
            conn.execute("SELECT id FROM items ORDER BY embedding <-> '[1,2,3]' LIMIT 1")
    conn.execute("RESET ALL")


def test_scan_inside_a_parallel_worker(conn):
    alone = with_index(conn, nearest_sql("items", QUERY, 300))
    # PostgreSQL 16 renamed the setting.
    force = "debug_parallel_query" if conn.info.server_version >= 160000 else "force_parallel_mode"
    with settings(conn, **{force: "on"}, **ONLY_INDEX):
        assert "Gather" in {n["Node Type"] for n in plan_nodes(conn, nearest_sql("items", QUERY, 300))}
        assert conn.execute(nearest_sql("items", QUERY, 300)).fetchall() == alone


# -- what is not in the index ---------------------------------------------------------------------------------------

@pytest.fixture
def with_nulls(db):
    """100 rows of which every tenth has no vector and every eleventh row's is zero."""
    db.execute("CREATE TABLE items (id bigint, embedding vector(2))")
    db.execute("INSERT INTO items SELECT i, CASE WHEN i % 10 = 0 THEN NULL WHEN i % 11 = 0 THEN '[0,0]' "
               "ELSE ARRAY[i, 1]::vector END FROM generate_series(1, 100) i")
    return db


ADDED_LATER = "INSERT INTO items VALUES (1000, NULL), (1001, '[0,0]'), (1002, '[1,1]')"
NULLS = {i for i in range(1, 101) if i % 10 == 0}
ZEROS = {i for i in range(1, 101) if i % 11 == 0} - NULLS


@pytest.mark.parametrize("metric, missing", [("l2", NULLS), ("ip", NULLS), ("cosine", NULLS | ZEROS), ("l1", NULLS)])
def test_null_rows_and_cosine_zero_vectors_are_not_indexed(with_nulls, metric, missing):
    db = with_nulls
    db.execute(f"CREATE INDEX built ON items USING faiss (embedding vector_{metric}_ops)")
    expected = set(range(1, 101)) - missing
    sql = nearest_sql("items", [1, 2], None, metric)
    assert {id for id, _ in with_index(db, sql)} == expected
    assert db.execute("SELECT rows_indexed, delta_rows FROM vekter_index_stats('built')").fetchone() == (
        len(expected), 0)
    db.execute(ADDED_LATER)
    added = {1002} if metric == "cosine" else {1001, 1002}
    assert {id for id, _ in with_index(db, sql)} == expected | added
    assert db.execute("SELECT delta_rows FROM vekter_index_stats('built')").fetchone() == (len(added),)


# -- when the planner takes it --------------------------------------------------------------------------------------

@pytest.mark.parametrize("table", [f"items_{n}" for n in range(len(FACTORIES))], ids=FACTORIES)
@pytest.mark.parametrize("limit", (1, 10, 100))
def test_index_is_chosen_for_a_limit_on_a_few_thousand_rows(conn, table, limit):
    assert indexes_used(conn, nearest_sql(table, QUERY, limit)) == {f"{table}_faiss"}


@pytest.mark.parametrize("rows, dimensions", [(3_000, 3), (3_000, 128), (3_000, 768), (20_000, 64)])
def test_index_is_chosen_whatever_the_width_of_the_rows(db, rows, dimensions):
    """Rows of 768 dimensions lie out of line, where the table itself has few pages."""
    db.execute(f"CREATE TABLE items (id bigint, embedding vector({dimensions}))")
    copy_vectors(db, "items", clustered(rows, dimensions, seed=12))
    db.execute("CREATE INDEX built ON items USING faiss (embedding)")
    db.execute("ANALYZE items")
    assert indexes_used(db, nearest_sql("items", [0.5] * dimensions, 10)) == {"built"}


@pytest.mark.parametrize("sql", (
    "SELECT id FROM items_0",
    "SELECT count(*) FROM items_0",
    "SELECT id FROM items_0 WHERE genre = 3",
    f"SELECT id FROM items_0 WHERE embedding <-> {literal(QUERY)} < 1",
    "SELECT id FROM items_0 ORDER BY id LIMIT 5",
    f"SELECT id FROM items_0 ORDER BY embedding <-> {literal(QUERY)} DESC LIMIT 5",
    f"SELECT id FROM items_0 ORDER BY embedding <#> {literal(QUERY)} LIMIT 5",
    f"SELECT id FROM items_0 ORDER BY embedding <=> {literal(QUERY)} LIMIT 5",
    f"SELECT id FROM items_0 ORDER BY (embedding <-> {literal(QUERY)}) + 1 LIMIT 5",
    "SELECT id FROM items_0 WHERE embedding IS NULL",
))
def test_index_is_never_used_without_its_order_by(conn, sql):
    for rule in ({}, {"enable_seqscan": "off"}, ONLY_INDEX):
        with settings(conn, **rule):
            assert not [n for n in plan_nodes(conn, sql) if "items_0_faiss" in str(n.get("Index Name"))]
            conn.execute(sql).fetchall()


def test_selective_btree_condition_makes_the_exact_sort_cheaper(conn):
    """Five rows match: fetching and sorting them is far cheaper than a search that grows over the whole table."""
    sql = nearest_sql("items", QUERY, 10, where="id BETWEEN 100 AND 104")
    names = {n.get("Index Name") for n in plan_nodes(conn, sql)}
    assert "items_pkey" in names and "items_faiss" not in names
    assert is_ordered(conn.execute(sql).fetchall())


def test_unselective_btree_condition_does_not_keep_the_index_away(conn):
    """The counter-case: nearly every row matches, so the search ends within its first batch."""
    assert indexes_used(conn, nearest_sql("items", QUERY, 10, where="id > 50")) == {"items_faiss"}


def test_whole_table_in_order_is_sorted_rather_than_searched(conn):
    with settings(conn, enable_seqscan="on"):
        assert indexes_used(conn, nearest_sql("items", QUERY, None)) == set()


def test_oracle_settings_really_avoid_the_index(conn):
    with settings(conn, **WITHOUT_INDEX):
        assert indexes_used(conn, nearest_sql("items", QUERY)) == set()
