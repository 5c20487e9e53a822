"""knn_batch(): the answers of knn() for each query of an array, whatever the index, its state and the caller."""

import threading
import time

import numpy as np
import psycopg
import pytest

from data import clustered, copy_vectors, exact_neighbours, recall, to_text
from oracle import OPERATORS, assert_nearest, nearest_sql, settings, without_index
from upkeep import stats, vacuum_dead_rows

ROWS, DIMENSIONS = 3_000, 16
VECTORS = clustered(ROWS + 300, DIMENSIONS, seed=211)
QUERIES = VECTORS[ROWS : ROWS + 60]


def make_items(db):
    """`items` with 3,000 rows and a primary key, without an index."""
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), key integer)")
    copy_vectors(db, "items", VECTORS[:ROWS])


@pytest.fixture
def items(items):
    items.execute("SET vekter.background_compaction = off")
    return items


def create_index(db, factory="Flat", metric="l2"):
    db.execute(f"CREATE INDEX built ON items USING faiss (embedding vector_{metric}_ops) INCLUDE (id) "
               f"WITH (factory = '{factory}')")


def array(queries):
    """The text form of an array of vectors; None: NULL."""
    return "{" + ",".join("NULL" if q is None else f'"{to_text(q)}"' for q in queries) + "}"


def knn_batch(db, queries=QUERIES, k=10, name="items", arguments=""):
    """{query_no: [(id, distance), ...]} in the order of the rows, which is that of query_no and distance."""
    rows = db.execute(f"SELECT * FROM knn_batch('{name}', %s::vector[], {k}{arguments})", [array(queries)]).fetchall()
    assert [no for no, _, _ in rows] == sorted(no for no, _, _ in rows)
    found = {}
    for no, id, distance in rows:
        found.setdefault(no, []).append((id, distance))
    return found


def one_by_one(db, queries=QUERIES, k=10, name="items", arguments=""):
    return {no: db.execute(f"SELECT * FROM knn('{name}', '{to_text(q)}', {k}{arguments})").fetchall()
            for no, q in enumerate(queries, 1)}


def refusal(db, sql, *parameters):
    with pytest.raises(psycopg.Error) as error:
        db.execute(sql, *parameters)
    diag = error.value.diag
    return diag.sqlstate, diag.message_primary, diag.message_detail or ""


def change_in_every_way(db):
    """Several segments, tombstones, dead rows that are not vacuumed, HOT-updated rows, and a delta."""
    for first in (0, 60, 120):
        copy_vectors(db, "items", VECTORS[ROWS + first : ROWS + first + 60], ids=10_000 + first + np.arange(60))
        with settings(db, **{"vekter.delta_limit": "64kB"}):
            db.execute(f"DELETE FROM items WHERE id % 7 = {first // 60}")
            vacuum_dead_rows(db)
    db.execute("ALTER TABLE items SET (fillfactor = 50)")
    db.execute("DELETE FROM items WHERE id % 11 = 3")
    db.execute("UPDATE items SET key = id WHERE id % 5 = 0")
    db.execute("UPDATE items SET key = id + 1 WHERE id % 10 = 0")
    copy_vectors(db, "items", QUERIES[:20] + np.float32(0.01), ids=20_000 + np.arange(20))


# -- answers --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("factory, metric", [
    (factory, metric) for factory in ("Flat", "HNSW16", "IVF32,Flat", "IVF32,PQ4x4fs,RFlat", "SQ8") for metric in OPERATORS
    if metric != "l1" or "Q" not in factory])
def test_answers_are_those_of_the_queries_one_by_one(items, factory, metric):
    create_index(items, factory, metric)
    assert knn_batch(items) == one_by_one(items)
    change_in_every_way(items)
    assert stats(items)[0] >= 1 and stats(items)[1] > 0 and stats(items)[2] > 0
    for k in (1, 10, 400):
        assert knn_batch(items, k=k) == one_by_one(items, k=k)


@pytest.mark.parametrize("metric", OPERATORS)
def test_exact_index_answers_as_the_sequential_scan(items, metric):
    create_index(items, metric=metric)
    change_in_every_way(items)
    for no, neighbours in knn_batch(items, k=25).items():
        every_row = without_index(items, nearest_sql("items", QUERIES[no - 1], None, metric))
        assert_nearest(neighbours, every_row, 25)


def test_exact_index_stays_exact_far_from_the_origin(items):
    """Where norms are large and distances small, a matrix product cannot tell who is nearer."""
    items.execute("UPDATE items SET embedding = (embedding * %s::vector + %s::vector)",
                  [to_text(np.full(DIMENSIONS, 0.01)), to_text(np.full(DIMENSIONS, 1000.0))])
    create_index(items)
    stored = items.execute("SELECT embedding::text FROM items ORDER BY id LIMIT 100").fetchall()
    queries = [np.fromstring(text[1:-1], sep=",", dtype=np.float32) for text, in stored]
    assert knn_batch(items, queries) == one_by_one(items, queries)


def test_k_beyond_the_rows_brings_every_row(items):
    create_index(items, "HNSW16")
    found = knn_batch(items, QUERIES[:3], k=ROWS + 10)
    assert all(len({id for id, _ in neighbours}) == ROWS for neighbours in found.values())


def test_same_query_twice_is_answered_twice(items):
    create_index(items)
    found = knn_batch(items, [QUERIES[0], QUERIES[1], QUERIES[0], QUERIES[0]])
    assert found[1] == found[3] == found[4] != found[2]


def test_more_queries_than_one_batch_takes(items):
    create_index(items)
    queries = np.tile(QUERIES, (40, 1))
    found = knn_batch(items, queries, k=2)
    assert len(found) == 2_400
    expected = one_by_one(items, k=2)
    assert all(found[no] == expected[(no - 1) % 60 + 1] for no in found)


def test_recall_is_that_of_the_queries_one_by_one(items):
    create_index(items, "HNSW16")
    nearest = exact_neighbours(VECTORS[:ROWS], QUERIES, 10)
    alone, together = ([[id for id, _ in found[no]] for no in sorted(found)]
                       for found in (one_by_one(items), knn_batch(items)))
    assert recall(together, nearest) == recall(alone, nearest) >= 0.9


def test_zero_query_under_cosine_is_answered_as_alone(items):
    create_index(items, metric="cosine")
    queries = [QUERIES[0], np.zeros(DIMENSIONS), QUERIES[1]]
    found = items.execute("SELECT query_no, count(*) FROM knn_batch('items', %s::vector[], 5) GROUP BY 1 ORDER BY 1",
                          [array(queries)]).fetchall()
    assert found == [(1, 5), (2, 5), (3, 5)]


def test_query_too_long_for_the_index_type_is_still_answered(items):
    create_index(items, "IVF32,Flat")
    queries = [QUERIES[0], np.full(DIMENSIONS, 1e15), QUERIES[1]]
    assert knn_batch(items, queries) == one_by_one(items, queries)


def test_search_argument_and_settings_act_as_on_knn(items):
    create_index(items, "IVF64,Flat")
    narrow = knn_batch(items, arguments=", search => 'nprobe=1'")
    wide = knn_batch(items, arguments=", search => 'nprobe=64'")
    assert narrow == one_by_one(items, arguments=", search => 'nprobe=1'")
    assert wide == one_by_one(items, arguments=", 'nprobe=64'") != narrow
    for nprobe, expected in ((1, narrow), (64, wide)):
        with settings(items, **{"vekter.nprobe": nprobe}):
            assert knn_batch(items) == expected


@pytest.mark.parametrize("threads", (0, 1, 3))
def test_number_of_threads_changes_no_answer(items, threads):
    create_index(items, "IVF32,Flat")
    expected = one_by_one(items)
    with settings(items, **{"vekter.batch_threads": threads}):
        assert knn_batch(items) == expected


# -- arguments ------------------------------------------------------------------------------------------------------

def test_empty_array_and_empty_index_give_no_rows(items):
    items.execute("TRUNCATE items")
    create_index(items, "HNSW16")
    assert knn_batch(items) == {}
    copy_vectors(items, "items", VECTORS[:5])
    assert knn_batch(items, []) == {}
    assert knn_batch(items) == one_by_one(items), "rows of the delta alone"


def test_null_elements_give_no_rows_and_keep_the_numbers_of_the_others(items):
    create_index(items)
    alone = one_by_one(items)
    found = knn_batch(items, [None, QUERIES[1], None, QUERIES[3], None])
    assert found == {2: alone[2], 4: alone[4]}
    assert knn_batch(items, [None, None]) == {}


def test_query_no_is_the_subscript(items):
    create_index(items)
    rows = items.execute(f"SELECT DISTINCT query_no FROM knn_batch('items', ('[5:6]=' || %s)::vector[], 3) ORDER BY 1",
                         [array(QUERIES[:2])]).fetchall()
    assert rows == [(5,), (6,)]


def test_null_arguments_give_no_rows(items):
    create_index(items)
    text = array(QUERIES[:1])
    for arguments in (f"NULL, '{text}', 5", "'items', NULL, 5", f"'items', '{text}', NULL"):
        assert items.execute(f"SELECT * FROM knn_batch({arguments})").fetchall() == []


def test_k_defaults_to_ten(items):
    create_index(items)
    rows = items.execute("SELECT * FROM knn_batch('items', %s::vector[])", [array(QUERIES[:3])]).fetchall()
    assert len(rows) == 30


@pytest.mark.parametrize("k", (0, -1))
def test_k_below_one_is_refused(items, k):
    create_index(items)
    sqlstate, message, _ = refusal(items, f"SELECT * FROM knn_batch('items', '{array(QUERIES[:1])}', {k})")
    assert sqlstate == "22023" and "k must be at least 1" in message


def test_element_of_another_dimension_is_named(items):
    create_index(items)
    queries = [QUERIES[0], None, QUERIES[1][:5]]
    sqlstate, message, detail = refusal(items, "SELECT * FROM knn_batch('items', %s::vector[])", [array(queries)])
    assert sqlstate == "22000" and message == f"expected {DIMENSIONS} dimensions, not 5" and "Element 3" in detail


def test_array_of_arrays_is_refused(items):
    create_index(items)
    sqlstate, message, detail = refusal(
        items, "SELECT * FROM knn_batch('items', ARRAY[[%s::vector], [%s::vector]])", [to_text(QUERIES[0])] * 2)
    assert sqlstate == "22000" and "one-dimensional" in message and "2 dimensions" in detail


def test_unknown_search_parameter_is_refused(items):
    create_index(items)
    sqlstate, message, _ = refusal(items, f"SELECT * FROM knn_batch('items', '{array(QUERIES[:1])}', 5, 'nonsense=1')")
    assert sqlstate == "22023" and "nonsense" in message


# -- what the caller sees -------------------------------------------------------------------------------------------

def test_own_uncommitted_changes_are_seen(items):
    create_index(items)
    with items.transaction(force_rollback=True):
        copy_vectors(items, "items", QUERIES[:5], ids=-np.arange(1, 6))
        found = knn_batch(items, QUERIES[:5])
        assert [found[no][0] for no in range(1, 6)] == [(-no, 0.0) for no in range(1, 6)]
        items.execute("DELETE FROM items WHERE id IN (-1, -2)")
        assert knn_batch(items) == one_by_one(items)


def test_deleted_rows_do_not_shorten_the_answer(items):
    create_index(items, "HNSW16")
    near = {id for neighbours in knn_batch(items, QUERIES[:5], k=300).values() for id, _ in neighbours}
    items.execute("DELETE FROM items WHERE id = ANY(%s)", [list(near)])
    assert all(len(neighbours) == 20 for neighbours in knn_batch(items, QUERIES[:5], k=20).values())


def test_an_older_snapshot_keeps_its_answer(cluster, database, items):
    create_index(items)
    with cluster.connect(database, autocommit=False) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        before = one_by_one(reader, QUERIES[:10])
        items.execute("DELETE FROM items WHERE id % 2 = 0")
        copy_vectors(items, "items", QUERIES[:10], ids=30_000 + np.arange(10))
        items.execute("VACUUM items")
        assert knn_batch(reader, QUERIES[:10]) == before
    assert knn_batch(items, QUERIES[:1])[1][0] == (30_000, 0.0)


def test_a_policy_that_searches_the_same_index_has_a_newer_snapshot(items):
    """What its volatile function inserts is not in the batch's picture of the index, and must be found by it."""
    create_index(items)
    items.execute(f"""
        CREATE FUNCTION watch() RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER
        SET enable_seqscan = off SET enable_sort = off AS $$
        BEGIN
            INSERT INTO items VALUES (-1, '{to_text(QUERIES[0])}') ON CONFLICT DO NOTHING;
            RETURN -1 = (SELECT id FROM items ORDER BY embedding <-> '{to_text(QUERIES[0])}' LIMIT 1);
        END $$""")
    items.execute("DO $$ BEGIN CREATE ROLE batch_watched; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    items.execute("GRANT SELECT ON items TO batch_watched")
    items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    items.execute("CREATE POLICY watched ON items FOR SELECT TO batch_watched USING (watch() OR id < 0)")
    expected = knn_batch(items, QUERIES[:3])
    items.execute("SET ROLE batch_watched")
    assert knn_batch(items, QUERIES[:3]) == expected, "its own snapshot is older than what the policy inserts"
    items.execute("RESET ROLE")


def test_serializable_transactions_see_what_others_insert_as_a_conflict(cluster, database, items):
    create_index(items)
    items.execute("CREATE TABLE others (id bigint)")
    with cluster.connect(database, autocommit=False) as one, cluster.connect(database, autocommit=False) as two:
        for session in (one, two):
            session.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        knn_batch(one)
        two.execute("SELECT * FROM others").fetchall()
        copy_vectors(two, "items", QUERIES[:1], ids=[-1])
        one.execute("INSERT INTO others VALUES (1)")
        two.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            one.commit()


def test_row_level_security_and_privileges_hold(items):
    create_index(items)
    items.execute("DO $$ BEGIN CREATE ROLE batch_reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    items.execute("SET ROLE batch_reader")
    for name in ("items", "built"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            knn_batch(items, name=name)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            knn_batch(items, [], name=name)
    items.execute("RESET ROLE")
    items.execute("GRANT SELECT ON items TO batch_reader")
    items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    items.execute("CREATE POLICY own ON items FOR SELECT TO batch_reader USING (id % 9 = 1)")
    items.execute("SET ROLE batch_reader")
    found = knn_batch(items, k=15)
    assert found == one_by_one(items, k=15)
    assert all(len(neighbours) == 15 and all(id % 9 == 1 for id, _ in neighbours) for neighbours in found.values())
    items.execute("RESET ROLE")


def test_partitioned_table_and_expression_index_are_searched(db):
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS})) PARTITION BY RANGE (id)")
    for part in range(3):
        db.execute(f"CREATE TABLE items_{part} PARTITION OF items FOR VALUES FROM ({part * 1000}) TO ({part * 1000 + 1000})")
    copy_vectors(db, "items", VECTORS[:ROWS])
    create_index(db)
    assert knn_batch(db) == one_by_one(db)
    assert {id for id, _ in knn_batch(db)[1]} == set(exact_neighbours(VECTORS[:ROWS], QUERIES[:1], 10)[0])
    db.execute("CREATE TABLE queries (id bigint PRIMARY KEY, query text, number text, embedding real[])")
    db.execute("INSERT INTO queries SELECT id, 'x', 'y', embedding::real[] FROM items WHERE id < 500")
    db.execute(f"CREATE INDEX made ON queries USING faiss ((embedding::vector({DIMENSIONS}))) WHERE id < 400")
    assert knn_batch(db, name="queries") == one_by_one(db, name="queries")


def test_result_can_go_into_the_table_that_is_searched(items):
    create_index(items)
    items.execute("INSERT INTO items SELECT 50000 + row_number() OVER (), %s, b.id "
                  "FROM knn_batch('items', %s::vector[], 10) b", [to_text(QUERIES[0]), array(QUERIES)])
    assert items.execute("SELECT count(*) FROM items WHERE id > 50000").fetchone() == (600,)


# -- cancelling -----------------------------------------------------------------------------------------------------

def test_cancel_ends_it_soon_and_the_session_goes_on(items):
    create_index(items, "HNSW32")
    with settings(items, **{"vekter.ef_search": 3_000}):
        queries = array(np.tile(QUERIES, (600, 1)))
        started = threading.Event()

        def cancel():
            started.wait()
            time.sleep(0.5)
            items.cancel()

        thread = threading.Thread(target=cancel)
        thread.start()
        started.set()
        with pytest.raises(psycopg.errors.QueryCanceled):
            items.execute("SELECT count(*) FROM knn_batch('items', %s::vector[], 100)", [queries])
        thread.join()
    assert knn_batch(items) == one_by_one(items)
