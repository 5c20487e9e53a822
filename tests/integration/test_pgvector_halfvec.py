"""faiss indexes on columns of pgvector's halfvec, in a database where pgvector was first.

Oracle: pgvector's own sequential scan, to the last bit.
"""

import numpy as np
import psycopg
import pytest

from beside_pgvector import INSTALL, cluster_with_pgvector
from data import clustered, copy_vectors, to_text
from oracle import OPERATORS, assert_clean, indexes_used, recall, without_index

ROWS, DIMENSIONS = 3_000, 24
VECTORS = clustered(ROWS + 20, DIMENSIONS, seed=501)
QUERIES = VECTORS[ROWS:]


@pytest.fixture(scope="module")
def server(new_module_cluster):
    cluster = cluster_with_pgvector(new_module_cluster)
    with cluster.connect(prepare_threshold=None) as conn:
        conn.execute("CREATE EXTENSION vector")
        conn.execute(f"CREATE TABLE singles (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}))")
        copy_vectors(conn, "singles", VECTORS[:ROWS])
        conn.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding halfvec({DIMENSIONS}), genre int)")
        conn.execute("INSERT INTO items SELECT id, embedding, id % 30 FROM singles ORDER BY id")
        conn.execute("INSERT INTO items VALUES (100000, NULL, 1)")
        conn.execute("CREATE INDEX ON items (genre)")
        conn.execute("VACUUM FULL ANALYZE")
        conn.execute(INSTALL)
    return cluster


@pytest.fixture
def conn(server):
    with server.connect(prepare_threshold=None) as conn:
        yield conn
        conn.execute("RESET ALL")
        conn.execute("DROP INDEX IF EXISTS built")


@pytest.fixture
def db(server):
    """A database of its own with both extensions; statements commit by themselves."""
    server.execute("CREATE DATABASE own")
    try:
        with server.connect("own", prepare_threshold=None) as db:
            db.execute("CREATE EXTENSION vector")
            db.execute(INSTALL)
            yield db
    finally:
        server.execute("DROP DATABASE own WITH (FORCE)")


def half(vector):
    """The SQL literal of a halfvec: pgvector rounds what is no half."""
    return f"'{to_text(vector)}'::public.halfvec"


def build(conn, metric="l2", factory="Flat", options=""):
    conn.execute(f"CREATE INDEX built ON items USING faiss (embedding halfvec_{metric}_ops) "
                 f"WITH (factory = '{factory}'{options})")
    conn.execute("ANALYZE items")


def nearest(query, metric="l2", limit=10, where="embedding IS NOT NULL", table="items", value="embedding"):
    distance = f"{value} {OPERATORS[metric]} {half(query)}"
    return f"SELECT id, {distance} FROM {table} WHERE {where} ORDER BY {distance} LIMIT {limit}"


def only_index(conn):
    conn.execute("SET enable_seqscan = off")
    conn.execute("SET enable_sort = off")


FACTORIES = ("Flat", "HNSW16", "IVF32,Flat", "IVF32,PQ12x4fs,RFlat", "SQ8", "HNSW16,SQfp16", "SQfp16", "IVF32,SQfp16")
# FAISS has L1 for floats only.
BUILT = [(metric, factory) for metric in OPERATORS for factory in FACTORIES[:3 if metric == "l1" else None]]


@pytest.mark.parametrize("metric, factory", BUILT)
def test_a_plain_query_is_answered_by_the_index_in_the_order_of_pgvectors_operator(conn, metric, factory):
    build(conn, metric, factory)
    found = exact = 0
    for query in QUERIES[:5]:
        for where in ("true", "genre = 7", "id % 3 = 0"):
            sql = nearest(query, metric, where=where)
            only_index(conn)
            assert "built" in indexes_used(conn, sql)
            got = conn.execute(sql).fetchall()
            conn.execute("RESET ALL")
            every = dict(without_index(conn, nearest(query, metric, limit=ROWS, where=f"{where} AND embedding IS NOT NULL")))
            assert [every[id] for id, _ in got] == [distance for _, distance in got], "not pgvector's distances"
            assert [distance for _, distance in got] == sorted(distance for _, distance in got)
            best = sorted(every.values())[:10]
            exact += len(best)
            found += sum(distance <= best[-1] for _, distance in got)
            if factory == "Flat" or (factory == "SQfp16" and metric in ("l2", "ip")):
                assert [distance for _, distance in got] == best
    assert found >= 0.9 * exact


@pytest.mark.parametrize("factory", ["Flat", "HNSW16,SQfp16"])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_a_scan_to_its_end_returns_each_row_once_and_in_order(conn, metric, factory):
    build(conn, metric, factory)
    only_index(conn)
    sql = nearest(QUERIES[3], metric, limit=ROWS + 10)
    assert indexes_used(conn, sql) == {"built"}
    got = conn.execute(sql).fetchall()
    conn.execute("RESET ALL")
    wanted = without_index(conn, sql)
    assert dict(got) == dict(wanted) and len(got) == ROWS
    assert [distance for _, distance in got] == [distance for _, distance in wanted]


def test_the_default_operator_class_is_l2(conn):
    conn.execute("CREATE INDEX built ON items USING faiss (embedding)")
    assert conn.execute("SELECT metric, rows_indexed FROM vekter.vekter_index_stats('built')").fetchone() == ("l2", ROWS)


def test_the_operator_classes_are_valid(conn):
    classes = dict(conn.execute("SELECT opcname, amvalidate(c.oid) FROM pg_opclass c JOIN pg_am a ON a.oid = opcmethod "
                                "WHERE amname = 'faiss' AND opcintype = 'halfvec'::regtype").fetchall())
    assert classes == {f"halfvec_{metric}_ops": True for metric in OPERATORS}


def test_where_pgvector_has_no_halfvec_the_classes_of_vector_are_made(db):
    """As before its version 0.7, which a type of another name stands for."""
    db.execute("DROP EXTENSION vekter_pgvector; ALTER TYPE halfvec RENAME TO other")
    db.execute("CREATE EXTENSION vekter_pgvector SCHEMA vekter")
    classes = db.execute("SELECT opcintype::regtype::text FROM pg_opclass c JOIN pg_am a ON a.oid = opcmethod "
                         "WHERE amname = 'faiss' AND opcnamespace = 'public'::regnamespace").fetchall()
    assert classes == [("vector",)] * 4


def test_pgvectors_distance_functions_use_the_index(conn):
    build(conn, "cosine")
    only_index(conn)
    for order in (f"cosine_distance(embedding, {half(QUERIES[0])})", f"1 - (embedding <=> {half(QUERIES[0])}) DESC"):
        sql = f"SELECT id FROM items WHERE embedding IS NOT NULL ORDER BY {order} LIMIT 5"
        assert indexes_used(conn, sql) == {"built"}
        assert conn.execute(sql).fetchall() == without_index(conn, sql)


def test_statements_of_applications_stay_what_they_are(conn):
    """With the schemas of both extensions in the search_path, no operator or function becomes ambiguous."""
    build(conn)
    text, statements = to_text(QUERIES[0]), []
    for query in (f"'{text}'", f"'{text}'::halfvec", f"'{text}'::public.vector", f"ARRAY{text}::real[]::halfvec"):
        statements.append(f"SELECT id FROM items WHERE embedding IS NOT NULL ORDER BY embedding <-> {query} LIMIT 5")
    statements += [
        "SELECT avg(embedding), sum(embedding) FROM items",
        f"SELECT l2_distance(embedding, '{text}'), inner_product(embedding, '{text}') FROM items WHERE id = 1",
        "SELECT embedding + embedding, embedding * embedding, embedding || embedding FROM items WHERE id = 1",
        "SELECT embedding = embedding, embedding < embedding FROM items WHERE id = 1",
        "SELECT vector_dims(embedding), l2_norm(embedding), l2_normalize(embedding), subvector(embedding, 1, 3), "
        "binary_quantize(embedding) FROM items WHERE id = 1",
        "SELECT embedding::public.vector, embedding::real[] FROM items WHERE id = 1",
        "SELECT a.embedding <-> b.embedding FROM items a, singles b WHERE a.id = 1 AND b.id = 2",
        "SELECT max(embedding <-> embedding) FROM items",
    ]
    expected = [conn.execute(sql).fetchall() for sql in statements]
    for path in ("public, vekter", "vekter, public"):
        conn.execute(f"SET search_path = {path}")
        assert [conn.execute(sql).fetchall() for sql in statements] == expected
    conn.execute("SET search_path = public, vekter")
    only_index(conn)
    assert all(indexes_used(conn, sql) == {"built"} for sql in statements[:4])


def test_knn_and_its_family_take_halves_and_other_vectors(conn):
    build(conn)
    expected = without_index(conn, nearest(QUERIES[0], limit=5))
    conn.execute("SET search_path = public, vekter")
    text = to_text(QUERIES[0])
    for query in (f"'{text}'", f"'{text}'::halfvec", f"'{text}'::public.vector", f"'{text}'::vekter.vector"):
        assert conn.execute(f"SELECT id, distance FROM knn('items', {query}, 5)").fetchall() == expected
    stored = "(SELECT embedding FROM items WHERE id = 4)"
    assert conn.execute(f"SELECT id, distance FROM knn('items', {stored}, 5)").fetchall() == \
        without_index(conn, nearest(VECTORS[4], limit=5))
    assert conn.execute(f"SELECT id FROM knn('items', '{text}', 5, filter => 'genre = 3')").fetchall() == \
        [(id,) for id, _ in without_index(conn, nearest(QUERIES[0], limit=5, where="genre = 3"))]
    assert conn.execute("SELECT id, distance FROM knn_like('items', 4, 3)").fetchall() == \
        without_index(conn, nearest(VECTORS[4], limit=3, where="id <> 4 AND embedding IS NOT NULL"))
    assert conn.execute(f"SELECT id, distance FROM knn_within('items', '{text}'::halfvec, {expected[-1][1]})").fetchall() == expected
    assert conn.execute(f"SELECT (item).id, distance FROM knn_rows(NULL::items, '{text}'::halfvec, 5)").fetchall() == expected
    for kind in ("halfvec", "public.vector", "vekter.vector"):
        assert conn.execute(f"SELECT id, distance FROM knn_batch('items', ARRAY['{text}']::{kind}[], 5)").fetchall() == expected
    joined = conn.execute("SELECT left_id, id, distance FROM knn_join('items', 'id', 'embedding', 'items', 2) ORDER BY 1, 3").fetchall()
    assert len(joined) == 2 * ROWS and all(own == id and distance == 0 for own, id, distance in joined[::2])
    by_singles = conn.execute("SELECT left_id, id FROM knn_join('singles', 'id', 'embedding', 'items', 1)").fetchall()
    assert len(by_singles) == ROWS and all(own == id for own, id in by_singles)
    assert conn.execute("SELECT vekter_recall('built')").fetchone() == (1.0,)


def test_clusters_and_indexes_are_made_of_columns_of_halves(conn):
    conn.execute("SET search_path = public, vekter")
    assert conn.execute("SELECT cluster FROM vekter_kmeans('items', 'id', 'embedding', 4)").rowcount == ROWS
    assert conn.execute("SELECT centroid FROM vekter_kmeans_centroids('items', 'id', 'embedding', 4)").rowcount == 4
    for metric in OPERATORS:
        [[name]] = conn.execute("SELECT vekter_create_index('items', 'id', 'embedding', factory => 'Flat', metric => %s, "
                                "name => 'built')::text", [metric]).fetchall()
        definition, = conn.execute("SELECT pg_get_indexdef('built'::regclass)").fetchone()
        assert name == "built" and (f"halfvec_{metric}_ops" in definition) == (metric != "l2")
        assert conn.execute("SELECT vekter_recall('built')").fetchone() == (1.0,)
        conn.execute("DROP INDEX built")


def test_a_query_that_is_no_half_is_rounded_as_pgvectors_cast_does(conn):
    build(conn, "l2", "HNSW16,SQfp16")
    conn.execute("SET search_path = public, vekter")
    long = (QUERIES[0].astype(np.float64) + 1e-5).astype(np.float32)
    assert (long.astype(np.float16).astype(np.float32) != long).any()
    text = to_text(long)
    expected = conn.execute(f"SELECT embedding <-> '{text}'::public.vector::halfvec FROM items ORDER BY 1 LIMIT 1").fetchall()
    assert conn.execute(f"SELECT distance FROM knn('items', '{text}', 1)").fetchall() == expected
    assert conn.execute(f"SELECT distance FROM knn_batch('items', ARRAY['{text}']::vekter.vector[], 1)").fetchall() == expected
    big = to_text(np.full(DIMENSIONS, 70_000, np.float32))
    for call in (f"knn('items', '{big}', 1)", f"knn_batch('items', ARRAY['{big}']::vekter.vector[], 1)",
                 f"vekter_quantize('built', '{big}')"):
        with pytest.raises(psycopg.errors.NumericValueOutOfRange) as ours:
            conn.execute(f"SELECT * FROM {call}")
        with pytest.raises(psycopg.errors.NumericValueOutOfRange) as theirs:
            conn.execute(f"SELECT '{big}'::public.vector::halfvec")
        assert ours.value.diag.message_primary == theirs.value.diag.message_primary


@pytest.mark.parametrize("metric, factory", [("l2", "HNSW16,SQfp16"), ("cosine", "IVF16,SQ8"), ("ip", "auto"), ("l1", "Flat")])
def test_rows_that_come_and_go_are_seen_through_seals_and_merges(conn, metric, factory):
    table = f"growing_{metric}"
    conn.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, embedding halfvec({DIMENSIONS}))")
    try:
        conn.execute(f"CREATE INDEX {table}_idx ON {table} USING faiss (embedding halfvec_{metric}_ops) "
                     f"WITH (factory = '{factory}', delta_limit = 64)")
        for part in range(6):
            conn.execute(f"INSERT INTO {table} SELECT id, embedding FROM singles WHERE id % 6 = {part}")
        conn.execute(f"UPDATE {table} SET embedding = s.embedding FROM singles s WHERE {table}.id = s.id AND s.id % 5 = 0")
        conn.execute(f"DELETE FROM {table} WHERE id % 7 = 0")
        conn.execute("SET search_path = public, vekter")
        for step in (f"VACUUM {table}", f"SELECT vekter_compact('{table}_idx')", f"REINDEX INDEX {table}_idx"):
            conn.execute(step)
            conn.execute(f"ANALYZE {table}")
            assert_clean(conn, f"{table}_idx")
            shares = []
            for query in QUERIES[:5]:
                sql = nearest(query, metric, table=table)
                only_index(conn)
                assert indexes_used(conn, sql) == {f"{table}_idx"}
                got = conn.execute(sql).fetchall()
                conn.execute("RESET enable_seqscan; RESET enable_sort")
                shares.append(recall(got, without_index(conn, sql)))
            assert sum(shares) >= 0.9 * len(shares), (step, shares)
        conn.execute(f"INSERT INTO {table} VALUES (200000, {half(QUERIES[1])})")
        # The largest inner product need not be a vector's own.
        wanted = [(200000,)] if metric != "ip" else conn.execute(
            f"SELECT id FROM {table} ORDER BY (embedding <#> {half(QUERIES[1])}) + 0.0 LIMIT 1").fetchall()
        assert conn.execute(f"SELECT id FROM knn('{table}', {half(QUERIES[1])}, 1)").fetchall() == wanted
    finally:
        conn.execute(f"DROP TABLE {table}")


def test_auto_keeps_halves_as_halves(db):
    rows = 12_000
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, single vector({DIMENSIONS}), embedding halfvec({DIMENSIONS}))")
    copy_vectors(db, "items", clustered(rows, DIMENSIONS, seed=502), columns="id, single")
    db.execute("UPDATE items SET embedding = single")
    db.execute("VACUUM FULL ANALYZE items")
    db.execute("CREATE INDEX of_halves ON items USING faiss (embedding)")
    db.execute("CREATE INDEX of_singles ON items USING faiss (single)")
    db.execute("SET search_path = public, vekter")
    stats = dict(db.execute("SELECT i, (vekter_index_stats(i)).factory FROM unnest(ARRAY['of_halves', 'of_singles']) i").fetchall())
    assert stats == {"of_halves": "HNSW32,SQfp16", "of_singles": "HNSW32"}
    reason, = db.execute("SELECT reason FROM vekter_index_stats('of_halves')").fetchone()
    assert "a graph of 16-bit floats takes" in reason
    assert db.execute("SELECT vekter_recall('of_halves') >= 0.95").fetchone() == (True,)
    # The rows are in the index: what it keeps of one is the row itself.
    assert db.execute("SELECT decoded::text = embedding::text, error FROM items, vekter_reconstruct('of_halves', id) "
                      "WHERE id = 77").fetchone() == (True, 0.0)
    for step in range(3):
        db.execute(f"INSERT INTO items SELECT id + {(step + 1) * rows}, single, single FROM items WHERE id < {rows}")
    db.execute("VACUUM items")
    db.execute("SELECT vekter_compact('of_halves')")
    assert db.execute("SELECT factory FROM vekter_index_stats('of_halves')").fetchone() == ("HNSW32,SQfp16",)
    assert_clean(db, "of_halves")


def test_an_exported_index_is_imported_again(conn):
    conn.execute("SET search_path = public, vekter")
    conn.execute("SELECT vekter_create_index('items', 'id', 'embedding', factory => 'HNSW16,SQfp16', name => 'built')")
    conn.execute("CREATE TEMP TABLE file AS SELECT vekter_export('built') AS data")
    conn.execute("DROP INDEX built")
    conn.execute("SELECT vekter_import('items', 'id', 'embedding', (SELECT data FROM file), name => 'built')")
    assert_clean(conn, "built")
    assert conn.execute("SELECT vekter_recall('built') >= 0.95").fetchone() == (True,)
    wanted = without_index(conn, nearest(QUERIES[2]))
    assert recall(conn.execute(f"SELECT id, distance FROM knn('built', {half(QUERIES[2])})").fetchall(), wanted) >= 0.9


@pytest.mark.parametrize("factory", ["HNSW16", "IVF16,SQ8", "HNSW16,SQfp16"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_an_index_of_the_rows_before_they_were_rounded_is_imported(conn, metric, factory):
    """As of programs that index a model's float32 embeddings, of which the table keeps halves."""
    conn.execute("SET search_path = public, vekter")
    conn.execute("SELECT vekter_create_index('singles', 'id', 'embedding', factory => %s, metric => %s, name => 'of_singles')",
                 [factory, metric])
    conn.execute("CREATE TEMP TABLE file AS SELECT vekter_export('of_singles') AS data")
    conn.execute("DROP INDEX of_singles")
    conn.execute("SELECT vekter_import('items', 'id', 'embedding', (SELECT data FROM file), %s, 'built')", [metric])
    conn.execute("ANALYZE items")
    assert_clean(conn, "built")
    assert conn.execute("SELECT vekter_recall('built') >= 0.9").fetchone() == (True,)
    conn.execute("SET search_path = public; SET enable_seqscan = off; SET enable_sort = off")
    sql = nearest(QUERIES[4], metric)
    assert indexes_used(conn, sql) == {"built"}
    got = conn.execute(sql).fetchall()
    conn.execute("RESET ALL")
    every = dict(without_index(conn, nearest(QUERIES[4], metric, limit=ROWS)))
    assert [every[id] for id, _ in got] == [distance for _, distance in got]


@pytest.mark.parametrize("type, dimensions", [("vector", 3_072), ("halfvec", 16_000)])
def test_long_rows_are_indexed_as_halves(db, type, dimensions):
    """More than 2,000 dimensions are too many for pgvector's own indexes of vector, and more than 4,000 of halfvec."""
    rows = clustered(220, dimensions, seed=503)
    value = "embedding" if type == "halfvec" else f"embedding::halfvec({dimensions})"
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding {type}({dimensions}))")
    with db.cursor() as cursor, cursor.copy("COPY items FROM STDIN") as copy:
        for id, row in enumerate(rows[:200]):
            copy.write_row((id, to_text(row)))
    db.execute(f"CREATE INDEX built ON items USING faiss (({value}) halfvec_cosine_ops) WITH (factory = 'HNSW16,SQfp16')")
    db.execute("INSERT INTO items SELECT id + 1000, embedding FROM items WHERE id < 10")
    db.execute("VACUUM ANALYZE items")
    for query in rows[200:205]:
        only_index(db)
        sql = nearest(query, "cosine", table="items", value=value)
        assert indexes_used(db, sql) == {"built"}
        got = db.execute(sql).fetchall()
        db.execute("RESET ALL")
        wanted = without_index(db, sql)
        assert recall(got, wanted) >= 0.9 and set(got) <= set(without_index(db, sql.replace("LIMIT 10", "LIMIT 300")))
        knn = db.execute(f"SELECT id, distance FROM vekter.knn('built', {half(query)})").fetchall()
        assert [distance for _, distance in knn] == [distance for _, distance in got]
    db.execute("SET search_path = public, vekter")
    assert_clean(db, "built")


def test_a_partial_index_covers_its_rows(conn):
    conn.execute("CREATE INDEX built ON items USING faiss (embedding halfvec_ip_ops) WHERE genre = 3")
    conn.execute("ANALYZE items")
    sql = nearest(QUERIES[0], "ip", where="genre = 3")
    only_index(conn)
    assert indexes_used(conn, sql) == {"built"}
    assert conn.execute(sql).fetchall() == without_index(conn, sql)


def test_columns_and_queries_of_other_dimensions_are_refused(conn, db):
    build(conn)
    conn.execute("SET enable_seqscan = off")
    for sql in ("SELECT id FROM items WHERE embedding IS NOT NULL ORDER BY embedding <-> '[1,2]' LIMIT 1",
                "SELECT * FROM vekter.knn('items', '[1,2]'::halfvec)",
                "INSERT INTO items VALUES (-1, '[1,2]')"):
        with pytest.raises(psycopg.errors.DataException):
            conn.execute(sql)
    db.execute("CREATE TABLE t (id int, h halfvec)")
    with pytest.raises(psycopg.errors.InvalidParameterValue) as refused:
        db.execute("CREATE INDEX ON t USING faiss (h)")
    assert "halfvec(384)" in refused.value.diag.message_hint
    with pytest.raises(psycopg.errors.InvalidParameterValue) as refused:
        db.execute("SELECT vekter.vekter_create_index('t', 'id', 'h')")
    assert "TYPE halfvec(n)" in refused.value.diag.message_hint


@pytest.mark.parametrize("column, what", [("sparsevec(4)", "sparsevec"), ("bit(4)", "bit")])
def test_sparse_and_bit_vectors_are_refused(db, column, what):
    db.execute(f"CREATE TABLE t (v {column})")
    with pytest.raises(psycopg.errors.UndefinedObject, match=f'data type {what} has no default operator class for access method "faiss"'):
        db.execute("CREATE INDEX ON t USING faiss (v)")


def test_damaged_halves_are_errors(db):
    """Bytes of any kind become a halfvec by a cast that only a superuser can make."""
    db.execute("CREATE CAST (bytea AS halfvec) WITHOUT FUNCTION")
    header = lambda dimensions: dimensions.to_bytes(2, "little", signed=True) + bytes(2)
    wrong = [b"", b"\1", bytes(4), header(2) + bytes(2), header(2) + bytes(6), header(-3) + bytes(6), header(16_001) + bytes(32_002)]
    db.execute("CREATE TABLE t (id int PRIMARY KEY, h halfvec(2))")
    db.execute("INSERT INTO t SELECT i, ARRAY[i, 1]::halfvec FROM generate_series(1, 20) i")
    db.execute("CREATE INDEX built ON t USING faiss (h)")
    db.execute("ALTER TABLE t ALTER h TYPE halfvec; ANALYZE t")
    db.execute("SET enable_seqscan = off")
    for value in wrong:
        for sql in ("INSERT INTO t VALUES (100, %s::bytea::halfvec)", "SELECT id FROM t ORDER BY h <-> %s::bytea::halfvec LIMIT 3",
                    "SELECT * FROM vekter.knn('t', %s::bytea::halfvec)"):
            with pytest.raises(psycopg.errors.DataCorrupted, match="malformed halfvec"):
                db.execute(sql, [value])
    for bits in (0x7C00, 0xFC00, 0x7E00, 0x7D01):
        odd = header(2) + bits.to_bytes(2, "little") + bytes(2)
        with pytest.raises(psycopg.errors.DataException):
            db.execute("SELECT * FROM vekter.knn('t', %s::bytea::halfvec)", [odd])
        # As a vector with such a value, such a row is in no index, and such a query finds rows in no order.
        db.execute("INSERT INTO t VALUES (%s, %s::bytea::halfvec)", [bits, odd])
        db.execute("SELECT id FROM t ORDER BY h <-> %s::bytea::halfvec LIMIT 3", [odd])
    assert db.execute("SELECT rows_indexed FROM vekter.vekter_index_stats('t')").fetchone() == (20,)


def test_a_dump_restores_with_its_indexes(server, conn):
    build(conn, "ip", "HNSW16,SQfp16")
    expected = without_index(conn, nearest(QUERIES[0], "ip"))
    server.execute("CREATE DATABASE restored")
    try:
        server.psql(server.tool("pg_dump", "-d", "postgres"), "restored")
        with server.connect("restored", prepare_threshold=None) as restored:
            restored.execute("ANALYZE items")
            only_index(restored)
            assert indexes_used(restored, nearest(QUERIES[0], "ip")) == {"built"}
            assert recall(restored.execute(nearest(QUERIES[0], "ip")).fetchall(), expected) >= 0.9
    finally:
        server.execute("DROP DATABASE restored WITH (FORCE)")


def test_pgvectors_indexes_of_halves_are_replaced(db):
    db.execute(f"CREATE TABLE items (id bigint, h halfvec({DIMENSIONS}), v vector({DIMENSIONS}))")
    copy_vectors(db, "items", VECTORS[:ROWS], columns="id, v")
    db.execute("UPDATE items SET h = v")
    db.execute("CREATE INDEX of_h ON items USING hnsw (h halfvec_cosine_ops)")
    db.execute(f"CREATE INDEX of_v ON items USING hnsw ((v::halfvec({DIMENSIONS})) halfvec_l2_ops)")
    db.execute("VACUUM ANALYZE items")
    statements = [text for text, in db.execute(
        "SELECT statement FROM vekter.vekter_replace_pgvector_indexes('items', drop_old => true)").fetchall()]
    compared = [result.fetchall() for result in map(db.execute, statements) if result.description]
    assert [(old[1], new[1]) for old, new in compared] == [("hnsw", "faiss")] * 2
    assert all(new[2] >= 0.95 for _, new in compared)
    left = dict(db.execute("SELECT c.relname, a.amname FROM pg_index i JOIN pg_class c ON c.oid = indexrelid "
                           "JOIN pg_am a ON a.oid = relam WHERE indrelid = 'items'::regclass").fetchall())
    # Where pgvector's index found more, it stays, and the new one keeps its own name.
    ours = {name for name, method in left.items() if method == "faiss"}
    assert len(ours) == 2 and ours <= {"of_h", "of_h_faiss", "of_v", "of_v_faiss"}
    only_index(db)
    for value, metric in (("h", "cosine"), (f"v::halfvec({DIMENSIONS})", "l2")):
        sql = nearest(QUERIES[0], metric, value=value, where="true")
        assert indexes_used(db, sql) <= ours and indexes_used(db, sql)
        assert recall(db.execute(sql).fetchall(), without_index(db, sql)) >= 0.9
