"""faiss indexes on columns of pgvector's type, in a database where pgvector was first: the tables, their types and the
statements of applications stay as they are.

Oracle: pgvector's own sequential scan.
"""

import psycopg
import pytest

from beside_pgvector import INSTALL, cluster_with_pgvector
from data import clustered, copy_vectors, to_text
from oracle import OPERATORS, assert_clean, indexes_used, literal, recall, without_index

ROWS, DIMENSIONS = 3_000, 24
VECTORS = clustered(ROWS + 20, DIMENSIONS, seed=401)
QUERIES = VECTORS[ROWS:]


@pytest.fixture(scope="module")
def server(new_module_cluster):
    cluster = cluster_with_pgvector(new_module_cluster)
    with cluster.connect(prepare_threshold=None) as conn:
        conn.execute("CREATE EXTENSION vector")
        conn.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), genre int)")
        copy_vectors(conn, "items", VECTORS[:ROWS])
        conn.execute("UPDATE items SET genre = id % 30")
        conn.execute("INSERT INTO items VALUES (100000, NULL, 1)")
        conn.execute("CREATE INDEX ON items (genre)")
        conn.execute("VACUUM FULL ANALYZE items")
        conn.execute(INSTALL)
    return cluster


@pytest.fixture
def conn(server):
    with server.connect(prepare_threshold=None) as conn:
        yield conn
        conn.execute("DROP INDEX IF EXISTS built")


def build(conn, metric, factory="Flat"):
    conn.execute(f"CREATE INDEX built ON items USING faiss (embedding vector_{metric}_ops) WITH (factory = '{factory}')")
    conn.execute("ANALYZE items")


def nearest(query, metric="l2", limit=10, where="embedding IS NOT NULL"):
    distance = f"embedding {OPERATORS[metric]} {literal(query)}"
    return f"SELECT id, {distance} FROM items WHERE {where} ORDER BY {distance} LIMIT {limit}"


FACTORIES = ("Flat", "HNSW16", "IVF32,Flat", "IVF32,PQ12x4fs,RFlat", "SQ8")
# FAISS has L1 for floats only.
BUILT = [(metric, factory) for metric in OPERATORS for factory in FACTORIES[:3 if metric == "l1" else None]]


@pytest.mark.parametrize("metric, factory", BUILT)
def test_a_plain_query_is_answered_by_the_index_in_the_order_of_pgvectors_operator(conn, metric, factory):
    build(conn, metric, factory)
    found = exact = 0
    for query in QUERIES[:5]:
        for where in ("true", "genre = 7", "id % 3 = 0"):
            sql = nearest(query, metric, where=where)
            conn.execute("SET enable_seqscan = off")
            conn.execute("SET enable_sort = off")
            assert "built" in indexes_used(conn, sql)
            got = conn.execute(sql).fetchall()
            conn.execute("RESET ALL")
            every = dict(without_index(conn, nearest(query, metric, limit=ROWS, where=f"{where} AND embedding IS NOT NULL")))
            assert [every[id] for id, _ in got] == [distance for _, distance in got], "not pgvector's distances"
            assert [distance for _, distance in got] == sorted(distance for _, distance in got)
            best = sorted(every.values())[:10]
            exact += len(best)
            found += sum(distance <= best[-1] for _, distance in got)
            if factory == "Flat":
                assert [distance for _, distance in got] == best
    assert found >= 0.9 * exact


def test_the_default_operator_class_is_l2(conn):
    conn.execute("CREATE INDEX built ON items USING faiss (embedding)")
    assert conn.execute("SELECT metric, rows_indexed FROM vekter.vekter_index_stats('built')").fetchone() == ("l2", ROWS)


def test_pgvectors_distance_functions_use_the_index(conn):
    build(conn, "cosine")
    conn.execute("SET enable_seqscan = off")
    conn.execute("SET enable_sort = off")
    for order in (f"cosine_distance(embedding, {literal(QUERIES[0])})", f"1 - (embedding <=> {literal(QUERIES[0])}) DESC"):
        sql = f"SELECT id FROM items WHERE embedding IS NOT NULL ORDER BY {order} LIMIT 5"
        assert indexes_used(conn, sql) == {"built"}
        got = conn.execute(sql).fetchall()
        assert got == without_index(conn, sql)


def test_knn_and_its_family_take_pgvectors_type(conn):
    build(conn, "l2")
    expected = without_index(conn, nearest(QUERIES[0], limit=5))
    conn.execute("SET search_path = public, vekter")
    text = to_text(QUERIES[0])
    for query in (f"'{text}'", f"'{text}'::public.vector", "(SELECT embedding FROM items WHERE id = 4)"):
        want = expected if "SELECT" not in query else without_index(conn, nearest(VECTORS[4], limit=5))
        assert conn.execute(f"SELECT id, distance FROM knn('items', {query}, 5)").fetchall() == want
    assert conn.execute(f"SELECT id FROM knn('items', '{text}', 5, filter => 'genre = 3')").fetchall() == \
        [(id,) for id, _ in without_index(conn, nearest(QUERIES[0], limit=5, where="genre = 3"))]
    assert conn.execute("SELECT id FROM knn_like('items', 4, 3)").rowcount == 3
    assert conn.execute(f"SELECT id FROM knn_within('items', '{text}'::public.vector, 100)").rowcount == ROWS
    assert conn.execute(f"SELECT (item).id FROM knn_rows(NULL::items, '{text}'::public.vector, 3)").rowcount == 3
    assert conn.execute(f"SELECT id FROM knn_batch('items', ARRAY['{text}']::public.vector[], 5)").fetchall() == \
        [(id,) for id, _ in expected]
    assert conn.execute("SELECT left_id FROM knn_join('items', 'id', 'embedding', 'items', 2)").rowcount == 2 * ROWS
    assert conn.execute("SELECT vekter_recall('built')").fetchone() == (1.0,)
    assert conn.execute("SELECT cluster FROM vekter_kmeans('items', 'id', 'embedding', 4)").rowcount == ROWS
    conn.execute("DROP INDEX built")
    [[name]] = conn.execute("SELECT vekter_create_index('items', 'id', 'embedding', metric => 'cosine', name => 'built')::text"
                            ).fetchall()
    assert name == "built"
    assert recall(conn.execute(nearest(QUERIES[0], "cosine")).fetchall(),
                  without_index(conn, nearest(QUERIES[0], "cosine"))) >= 0.9


def test_rows_that_come_and_go_are_seen(conn):
    build(conn, "l2", "HNSW16")
    try:
        conn.execute(f"INSERT INTO items VALUES (200000, {literal(QUERIES[1])}, 1)")
        conn.execute("SET enable_seqscan = off")
        assert conn.execute(nearest(QUERIES[1], limit=1)).fetchall() == [(200000, 0.0)]
        conn.execute(f"UPDATE items SET embedding = {literal(QUERIES[2])} WHERE id = 200000")
        assert conn.execute(nearest(QUERIES[2], limit=1)).fetchall() == [(200000, 0.0)]
        assert conn.execute(nearest(QUERIES[1], limit=1)).fetchone()[0] != 200000
    finally:
        conn.execute("DELETE FROM items WHERE id = 200000")
    conn.execute("VACUUM items")
    assert 200000 not in [id for id, _ in conn.execute(nearest(QUERIES[2])).fetchall()]
    conn.execute("SET search_path = public, vekter")
    assert_clean(conn, "built")


def test_a_dump_restores_with_its_indexes(server, conn):
    build(conn, "ip")
    expected = conn.execute(nearest(QUERIES[0], "ip")).fetchall()
    server.execute("CREATE DATABASE restored")
    try:
        server.psql(server.tool("pg_dump", "-d", "postgres"), "restored")
        with server.connect("restored", prepare_threshold=None) as restored:
            restored.execute("ANALYZE items")
            restored.execute("SET enable_seqscan = off")
            restored.execute("SET enable_sort = off")
            assert indexes_used(restored, nearest(QUERIES[0], "ip")) == {"built"}
            assert restored.execute(nearest(QUERIES[0], "ip")).fetchall() == expected
    finally:
        server.execute("DROP DATABASE restored WITH (FORCE)")


@pytest.mark.parametrize("first", ["vekter_pgvector", "vekter", "vector"])
def test_the_extensions_drop_in_any_order(server, first):
    server.execute("CREATE DATABASE emptied")
    try:
        with server.connect("emptied") as db:
            db.execute("CREATE EXTENSION vector")
            db.execute(INSTALL)
            db.execute("CREATE TABLE t (id int, embedding public.vector(2)); INSERT INTO t VALUES (1, '[1,2]')")
            db.execute("CREATE INDEX ON t USING faiss (embedding)")
            with pytest.raises(psycopg.errors.DependentObjectsStillExist):
                db.execute(f"DROP EXTENSION {first}")
            db.execute(f"DROP EXTENSION {first} CASCADE")
            assert db.execute("SELECT FROM pg_extension WHERE extname = 'vekter_pgvector'").rowcount == 0
            db.execute("DROP EXTENSION IF EXISTS vekter CASCADE; DROP EXTENSION IF EXISTS vector CASCADE")
            assert db.execute("SELECT FROM t").rowcount == 1
            assert db.execute("SELECT FROM pg_opclass o JOIN pg_am a ON a.oid = opcmethod AND amname = 'faiss'").rowcount == 0
    finally:
        server.execute("DROP DATABASE emptied WITH (FORCE)")

# -- replacing pgvector's indexes -------------------------------------------------------------------------------------

@pytest.fixture
def library(server):
    """A database with pgvector's indexes of several kinds, one of them on partitions; statements commit by themselves."""
    server.execute("CREATE DATABASE library")
    try:
        with server.connect("library", prepare_threshold=None) as db:
            db.execute("CREATE EXTENSION vector")
            db.execute(INSTALL)
            db.execute('CREATE SCHEMA "My books"')
            db.execute(f'CREATE TABLE "My books"."Tracks" (id bigint, "The embedding" vector({DIMENSIONS}), genre int)')
            copy_vectors(db, '"My books"."Tracks"', VECTORS[:ROWS], columns='id, "The embedding"')
            db.execute('CREATE INDEX "By meaning" ON "My books"."Tracks" USING hnsw ("The embedding" vector_cosine_ops)')
            db.execute('CREATE INDEX ON "My books"."Tracks" USING ivfflat ("The embedding" vector_l2_ops) WITH (lists = 10) '
                       "WHERE id % 2 = 0")
            db.execute(f"CREATE TABLE parts (id bigint, embedding vector({DIMENSIONS})) PARTITION BY RANGE (id)")
            for at in range(2):
                db.execute(f"CREATE TABLE part_{at} PARTITION OF parts FOR VALUES FROM ({at * 1500}) TO ({(at + 1) * 1500})")
            copy_vectors(db, "parts", VECTORS[:ROWS])
            db.execute("CREATE INDEX parts_embedding ON parts USING hnsw (embedding vector_l2_ops)")
            db.execute("VACUUM ANALYZE")
            yield db
    finally:
        server.execute("DROP DATABASE library WITH (FORCE)")


def replace(db, table, **arguments):
    """Runs the statements, as psql's \\gexec does; what they return."""
    named = "".join(f", {name} => {value!r}" for name, value in arguments.items())
    statements = [text for text, in db.execute(
        f"SELECT statement FROM vekter.vekter_replace_pgvector_indexes(%s{named})", [table]).fetchall()]
    results = [db.execute(statement) for statement in statements]
    return statements, [result.fetchall() for result in results if result.description]


def indexes_of(db, table):
    return {(name, method) for name, method in db.execute(
        "SELECT c.relname, a.amname FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = relam "
        "WHERE indrelid = %s::regclass AND indisvalid", [table])}


def test_statements_replace_each_index_and_compare_the_two(library):
    _, compared = replace(library, '"My books"."Tracks"', factory="Flat")
    assert len(compared) == 2
    for old, new in compared:
        assert old[1] in ("hnsw", "ivfflat") and new[1] == "faiss"
        assert new[2] == 1.0 and 0 < old[2] <= 1, "recall"
        assert min(old[3], new[3], old[4], new[4]) > 0, "milliseconds and bytes"
    assert indexes_of(library, '"My books"."Tracks"') == {
        ("By meaning", "hnsw"), ("By meaning_faiss", "faiss"),
        ("Tracks_The embedding_idx", "ivfflat"), ("Tracks_The embedding_idx_faiss", "faiss")}
    library.execute('SET search_path = public, "My books"')
    definition, = library.execute("SELECT pg_get_indexdef('\"Tracks_The embedding_idx_faiss\"'::regclass)").fetchone()
    assert "vector_l2_ops" not in definition and definition.endswith("WHERE ((id % (2)::bigint) = 0)")
    before = {(name, method) for name, method in indexes_of(library, '"My books"."Tracks"') if method != "faiss"}
    # Once more: nothing is made again, and then the old ones go.
    statements, _ = replace(library, '"My books"."Tracks"', factory="Flat", drop_old=True)
    assert not [statement for statement in statements if statement.startswith("CREATE")]
    # Under their names, which migrations and CREATE INDEX IF NOT EXISTS know.
    assert indexes_of(library, '"My books"."Tracks"') == {(name, "faiss") for name, _ in before}


def test_an_index_that_finds_less_does_not_replace_the_other(library):
    notices = []
    library.add_notice_handler(lambda notice: notices.append((notice.severity, notice.message_primary, notice.message_detail)))
    library.execute("SET ivfflat.probes = 10")
    library.execute("SET vekter.nprobe = 1")
    replace(library, '"My books"."Tracks"', factory="IVF50,Flat", drop_old=True)
    kept = [(message, detail) for severity, message, detail in notices if severity == "WARNING"]
    assert ('index "By meaning" is kept' in [message for message, _ in kept]
            and all("of the nearest rows" in detail for _, detail in kept))
    assert {method for _, method in indexes_of(library, '"My books"."Tracks"')} >= {"hnsw", "faiss"}


def test_an_interrupted_replacement_goes_on(library):
    library.execute("SET vekter.failpoint = 'build.segment_stored=error'")
    with pytest.raises(psycopg.Error):
        replace(library, '"My books"."Tracks"', factory="Flat")
    library.execute("SET vekter.failpoint = ''")
    assert "faiss" not in {method for _, method in indexes_of(library, '"My books"."Tracks"')}
    statements, _ = replace(library, '"My books"."Tracks"', factory="Flat")
    assert statements[0].startswith("DROP INDEX CONCURRENTLY")
    assert sum(method == "faiss" for _, method in indexes_of(library, '"My books"."Tracks"')) == 2


def test_the_index_of_a_partitioned_table_is_replaced_partition_by_partition(library):
    _, compared = replace(library, "parts", factory="Flat")
    assert len(compared) == 2
    assert indexes_of(library, "parts") == {("parts_embedding", "hnsw"), ("parts_embedding_faiss", "faiss")}
    replace(library, "parts", factory="Flat", drop_old=True)
    assert indexes_of(library, "parts") == {("parts_embedding", "faiss")}
    assert [indexes_of(library, f"part_{at}") for at in range(2)] == [
        {(f"part_{at}_embedding_idx", "faiss")} for at in range(2)]
    assert {method for at in range(2) for _, method in indexes_of(library, f"part_{at}")} == {"faiss"}
    library.execute("SET enable_seqscan = off")
    library.execute("SET enable_sort = off")
    sql = f"SELECT id FROM parts ORDER BY embedding <-> {literal(QUERIES[0])} LIMIT 10"
    assert len(indexes_used(library, sql)) == 2
    assert library.execute(sql).fetchall() == without_index(library, sql)


def test_indexes_of_different_answers_are_not_compared(library):
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        library.execute("SELECT vekter.vekter_compare_indexes(ARRAY['part_0_embedding_idx', 'part_1_embedding_idx']::regclass[])")
    with pytest.raises(psycopg.errors.WrongObjectType):
        library.execute("SELECT vekter.vekter_compare_indexes(ARRAY['parts']::regclass[])")
    assert library.execute("SELECT FROM vekter.vekter_compare_indexes('{}')").rowcount == 0


def test_indexes_of_one_models_rows_among_others_are_replaced(library):
    """pgvector's way to keep vectors of several dimensions in one column."""
    library.execute("CREATE TABLE mixed (id int, model text, v vector)")
    library.execute("INSERT INTO mixed SELECT i, 'a', ARRAY[i, i % 7, 1]::vector FROM generate_series(1, 200) i")
    library.execute("INSERT INTO mixed SELECT i, 'b', ARRAY[i, 1]::vector FROM generate_series(1, 200) i")
    library.execute("CREATE INDEX of_a ON mixed USING hnsw ((v::vector(3)) vector_l2_ops) WHERE model = 'a'")
    library.execute("ANALYZE mixed")
    _, [[old, new]] = replace(library, "mixed", drop_old=True)
    assert (old[1], new[1], new[2]) == ("hnsw", "faiss", 1.0)
    assert indexes_of(library, "mixed") == {("of_a", "faiss")}


def test_what_faiss_cannot_index_is_named(library):
    notices = []
    library.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    library.execute("CREATE TABLE halves (h sparsevec(4))")
    library.execute("CREATE INDEX sparse ON halves USING hnsw (h sparsevec_l2_ops)")
    assert replace(library, "halves") == ([], [])
    assert notices == ['index "sparse" is not replaced']
