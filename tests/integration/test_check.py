"""vekter_check() finds nothing in a sound index of any kind, whatever happens to it meanwhile."""

import threading

import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from upkeep import vacuum_dead_rows

ROWS, DIMENSIONS = 1_500, 8
VECTORS = clustered(2 * ROWS, DIMENSIONS, seed=211)
FACTORIES = ("Flat", "HNSW16", "IVF16,Flat", "IVF16,SQ8", "IVF16,PQ4x4fs,RFlat", "PCA4,IVF8,Flat", "LSH")


def make(db, factory="Flat", operator_class="vector_l2_ops", where=""):
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), note int DEFAULT 0) "
               "WITH (autovacuum_enabled = off, fillfactor = 60)")
    copy_vectors(db, "items", VECTORS[:ROWS])
    db.execute(f"CREATE INDEX built ON items USING faiss (embedding {operator_class}) "
               f"WITH (factory = '{factory}') {where}")


def check(db, index="built", heap=True):
    return db.execute("SELECT * FROM vekter_check(%s, %s)", [index, heap]).fetchall()


# -- kinds of indexes -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("heap", (False, True))
def test_sound_index_is_clean_in_each_state_of_its_life(db, factory, heap):
    make(db, factory)
    assert check(db, heap=heap) == []
    copy_vectors(db, "items", VECTORS[ROWS:], ids=range(ROWS, 2 * ROWS))
    assert check(db, heap=heap) == []
    db.execute("DELETE FROM items WHERE id % 3 = 0")
    assert check(db, heap=heap) == []
    vacuum_dead_rows(db)
    assert check(db, heap=heap) == []
    db.execute("INSERT INTO items SELECT id - 1, embedding FROM items WHERE id % 3 = 1")
    db.execute("UPDATE items SET note = note + 1")
    assert check(db, heap=heap) == []
    db.execute("VACUUM items")
    db.execute("DELETE FROM items")
    vacuum_dead_rows(db)
    assert check(db, heap=heap) == []
    db.execute("REINDEX INDEX built")
    assert check(db, heap=heap) == []


@pytest.mark.parametrize("operator_class", ("vector_l2_ops", "vector_ip_ops", "vector_cosine_ops", "vector_l1_ops"))
def test_rows_without_an_indexed_form_are_not_missed(db, operator_class):
    make(db, operator_class=operator_class)
    db.execute(f"INSERT INTO items VALUES (-1, NULL), (-2, '{to_text([0] * DIMENSIONS)}')")
    assert check(db) == []
    db.execute("REINDEX INDEX built")
    assert check(db) == []


def test_partial_index_answers_for_the_rows_of_its_predicate(db):
    make(db, where="WHERE note = 0")
    db.execute("UPDATE items SET note = 1 WHERE id % 2 = 0")
    copy_vectors(db, "items", VECTORS[ROWS:], ids=range(ROWS, 2 * ROWS))
    assert check(db) == []


def test_index_on_an_expression_is_compared_by_its_value(db):
    db.execute("CREATE TABLE items (id bigint, parts real[])")
    db.execute("INSERT INTO items SELECT i, ARRAY[i, 1]::real[] FROM generate_series(1, 500) i")
    db.execute("CREATE INDEX built ON items USING faiss ((parts::vector(2)))")
    db.execute("INSERT INTO items SELECT i, ARRAY[i, 2]::real[] FROM generate_series(501, 700) i")
    assert check(db) == []


@pytest.mark.parametrize("dimensions", (1, 2_024, 2_025, 5_000, 16_000))
def test_rows_longer_than_a_page_are_followed(db, dimensions):
    vectors = clustered(30, dimensions, seed=5)
    db.execute(f"CREATE TABLE items (id bigint, embedding vector({dimensions}))")
    db.execute("CREATE INDEX built ON items USING faiss (embedding)")
    copy_vectors(db, "items", vectors)
    assert check(db) == []
    db.execute("DELETE FROM items WHERE id % 2 = 0")
    vacuum_dead_rows(db)
    copy_vectors(db, "items", vectors)
    assert [problem for severity, _, problem in check(db) if severity == "error"] == []
    db.execute("VACUUM items")
    db.execute("VACUUM items")
    assert check(db) == []


@pytest.mark.parametrize("kind", ("", "UNLOGGED", "TEMP"))
def test_empty_table(db, kind):
    db.execute(f"CREATE {kind} TABLE items (id bigint, embedding vector(3))")
    db.execute("CREATE INDEX built ON items USING faiss (embedding)")
    assert check(db) == []
    db.execute("INSERT INTO items VALUES (1, '[1,2,3]')")
    assert check(db) == []


def test_own_uncommitted_rows_are_looked_for_and_an_abort_leaves_no_error(db):
    make(db)
    with db.transaction(force_rollback=True):
        copy_vectors(db, "items", VECTORS[ROWS:], ids=range(ROWS, 2 * ROWS))
        db.execute("DELETE FROM items WHERE id < 10")
        assert check(db) == []
    assert check(db) == []


def test_index_built_concurrently_under_load_is_clean(cluster, db, database):
    make(db)
    stop = threading.Event()

    def write():
        with cluster.connect(database) as conn:
            number = 10_000
            while not stop.is_set():
                number += 1
                conn.execute("INSERT INTO items SELECT %s, embedding FROM items WHERE id = 7", [number])
                conn.execute("UPDATE items SET embedding = embedding WHERE id %% 97 = %s", [number % 97])
                conn.execute("DELETE FROM items WHERE id = %s", [number - 20])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        db.execute("CREATE INDEX CONCURRENTLY later ON items USING faiss (embedding)")
        db.execute("REINDEX INDEX CONCURRENTLY built")
        for _ in range(10):
            assert check(db) == [] == check(db, "later")
            db.execute("VACUUM items")
    finally:
        stop.set()
        writer.join(60)
    assert check(db) == [] == check(db, "later")


def test_check_in_an_old_transaction_looks_at_what_is_there_now(cluster, db, database):
    make(db)
    with cluster.connect(database, autocommit=False) as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        # Its snapshot; without a lock on the table, which REINDEX would wait for.
        old.execute("SELECT 1")
        db.execute("UPDATE items SET note = note + 1, embedding = embedding")
        db.execute("DELETE FROM items WHERE id < 100")
        db.execute("REINDEX INDEX built")
        assert check(old) == []


def test_standby_under_load_is_clean(new_cluster):
    primary = new_cluster()
    primary.execute("CREATE EXTENSION vekter")
    with primary.connect() as conn:
        make(conn, "IVF16,Flat")
    standby = new_cluster.standby_of(primary, {"max_standby_streaming_delay": "-1"})
    stop = threading.Event()

    def write():
        with primary.connect() as conn:
            number = 0
            while not stop.is_set():
                number += 1
                conn.execute("DELETE FROM items WHERE id %% 7 = %s", [number % 7])
                conn.execute("VACUUM items")
                part = range(number % 7, ROWS, 7)
                copy_vectors(conn, "items", VECTORS[part.start:ROWS:7], ids=part)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with standby.connect() as reader:
            for _ in range(15):
                assert check(reader, heap=False) == []
                assert check(reader, heap=True) == []
    finally:
        stop.set()
        writer.join(60)
    standby.wait_for_replay(primary)
    with standby.connect() as reader, primary.connect() as conn:
        assert check(reader) == [] == check(conn)


# -- who may, and what for ------------------------------------------------------------------------------------------

@pytest.fixture
def stranger(db):
    db.execute("DO $$ BEGIN CREATE ROLE stranger; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    yield "stranger"
    db.execute("RESET ROLE")
    db.execute("DROP OWNED BY stranger")


def test_only_the_owner_may_check(db, stranger):
    make(db)
    db.execute("SET ROLE stranger")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="(owner of|denied for) index built"):
        check(db)
    db.execute("RESET ROLE")
    db.execute("ALTER TABLE items OWNER TO stranger")
    db.execute("SET ROLE stranger")
    assert check(db) == []


def test_functions_in_the_index_run_as_the_owner_of_the_table(db, stranger):
    """Otherwise a superuser who checks a stranger's index would lend him his rights."""
    make(db)
    db.execute("CREATE TABLE seen (who name)")
    db.execute("GRANT INSERT ON seen TO stranger")
    db.execute("GRANT CREATE ON SCHEMA public TO stranger")
    db.execute("ALTER TABLE items OWNER TO stranger")
    db.execute("SET ROLE stranger")
    db.execute("CREATE FUNCTION spy(v vector) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS "
               "$$ BEGIN RAISE NOTICE 'run by %', current_user; RETURN v; END $$")
    db.execute(f"CREATE INDEX spying ON items USING faiss ((spy(embedding)::vector({DIMENSIONS})))")
    db.execute("RESET ROLE")
    said = []
    db.add_notice_handler(lambda notice: said.append(notice.message_primary))
    assert check(db, "spying") == []
    assert set(said) == {"run by stranger"}
    assert db.execute("SELECT current_user").fetchone() == ("postgres",)


@pytest.mark.parametrize("function", ("vekter_check", "vekter_segments"))
def test_what_is_no_index_with_pages_is_refused(db, function):
    db.execute("CREATE TABLE parts (id bigint, embedding vector(3)) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10)")
    db.execute("CREATE INDEX whole ON parts USING faiss (embedding)")
    db.execute("CREATE INDEX btree ON part (id)")
    db.execute("CREATE VIEW view AS SELECT 1")
    for name, match in (("whole", "partitioned"), ("parts", "partitioned"), ("btree", "not a faiss index"),
                        ("view", "is a view")):
        with pytest.raises(psycopg.errors.WrongObjectType, match=match):
            db.execute(f"SELECT * FROM {function}(%s)", [name])
    assert db.execute(f"SELECT count(*) FROM {function}('part')").fetchone() == (0,)
    with pytest.raises(psycopg.errors.UndefinedTable):
        db.execute(f"SELECT * FROM {function}(12345::regclass)")


# -- vekter_segments ------------------------------------------------------------------------------------------------

def test_segments_are_listed(db):
    columns = "level, factory, rows, dead_rows, bytes > 0, cached"
    make(db, "IVF16,Flat")
    assert db.execute(f"SELECT {columns} FROM vekter_segments('built')").fetchall() == [
        (0, "IVF16,Flat", ROWS, 0, True, True)]
    db.execute("DELETE FROM items WHERE id < 100")
    vacuum_dead_rows(db)
    [row] = db.execute("SELECT id, rows, dead_rows FROM vekter_segments('items')").fetchall()
    assert len(row[0]) == 32 and row[1:] == (ROWS, 100)
    db.execute("CREATE TABLE large (id bigint, embedding vector(2))")
    db.execute("INSERT INTO large SELECT i, ARRAY[i, 1]::vector FROM generate_series(1, 17000) i")
    db.execute("CREATE INDEX ON large USING faiss (embedding) WITH (factory = 'Flat')")
    assert db.execute("SELECT level FROM vekter_segments('large')").fetchall() == [(2,)]
