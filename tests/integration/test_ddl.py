"""CREATE INDEX and what ALTER, DROP, TRUNCATE, REINDEX and their like do to an index afterwards."""

import threading

import psycopg
import pytest

from data import clustered, copy_vectors
from oracle import assert_same_answer, indexes_used, literal, nearest_sql, settings, with_index
from upkeep import meanwhile, vacuum_dead_rows

ROWS, DIMENSIONS = 2_000, 8
VECTORS = clustered(ROWS + 1_000, DIMENSIONS, seed=21)
BASE, LATER = VECTORS[:ROWS], VECTORS[ROWS:]
QUERY = LATER[-1]
FACTORIES = ("Flat", "HNSW16", "IVF16,Flat")


def make_items(db):
    """2,000 rows, no index."""
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), genre int DEFAULT 0)")
    copy_vectors(db, "items", BASE)


def add(db, table="items", first=0, count=50):
    copy_vectors(db, table, LATER[first:first + count], ids=range(ROWS + first, ROWS + first + count))


def faiss_relations(db):
    return db.execute("SELECT count(*) FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE amname = 'faiss'"
                      ).fetchone()[0]


# -- rules of CREATE INDEX ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("definition, sqlstate", [
    ("faiss (embedding, other)", "0A000"),
    ("faiss (embedding) INCLUDE (id, genre)", "0A000"),
    ("faiss (embedding) INCLUDE (title)", None),
    ("faiss (embedding) INCLUDE (other)", None),
    ("faiss (id)", "42704"),
    ("faiss (title)", "42704"),
    ("faiss (loose)", None),
    ("faiss (embedding int8_ops)", "42704"),
    ("faiss (embedding DESC)", "0A000"),
    ("faiss (embedding NULLS FIRST)", "0A000"),
    ("faiss ((1))", None),
])
def test_create_index_refuses_what_the_index_cannot_hold(items, definition, sqlstate):
    items.execute(f"ALTER TABLE items ADD other vector({DIMENSIONS}), ADD loose vector, ADD title text")
    with pytest.raises(psycopg.Error) as refusal:
        items.execute(f"CREATE INDEX ON items USING {definition}")
    assert refusal.value.diag.sqlstate == sqlstate or sqlstate is None
    assert refusal.value.diag.sqlstate != "XX000", "an internal error is not an answer to a user"
    assert faiss_relations(items) == 0


def test_unique_index_is_refused(items):
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        items.execute("CREATE UNIQUE INDEX ON items USING faiss (embedding)")


def test_exclusion_constraint_is_refused(items):
    with pytest.raises(psycopg.Error):
        items.execute("ALTER TABLE items ADD EXCLUDE USING faiss (embedding WITH <->)")


def test_column_without_dimensions_is_refused_with_a_hint(db):
    db.execute("CREATE TABLE items (id bigint, embedding vector)")
    with pytest.raises(psycopg.Error, match="dimension") as refusal:
        db.execute("CREATE INDEX ON items USING faiss (embedding)")
    assert refusal.value.diag.sqlstate in ("22023", "42P16", "0A000", "22000", "42611")


def test_included_column_may_have_any_integer_type(items):
    for number, kind in enumerate(("smallint", "integer", "bigint")):
        items.execute(f"ALTER TABLE items ADD key{number} {kind}")
        items.execute(f"UPDATE items SET key{number} = id")
        items.execute(f"CREATE INDEX built{number} ON items USING faiss (embedding) INCLUDE (key{number})")
    assert faiss_relations(items) == 3


def test_create_index_if_not_exists_and_comment_and_index_definition(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding vector_ip_ops) INCLUDE (id) "
                  "WITH (factory = 'IVF16,Flat')")
    items.execute("CREATE INDEX IF NOT EXISTS built ON items USING faiss (embedding)")
    definition = items.execute("SELECT pg_get_indexdef('built'::regclass)").fetchone()[0]
    items.execute("DROP INDEX built")
    items.execute(definition)
    assert items.execute("SELECT pg_get_indexdef('built'::regclass)").fetchone()[0] == definition
    assert "IVF16,Flat" in definition and "INCLUDE (id)" in definition and "vector_ip_ops" in definition


# -- transactions ---------------------------------------------------------------------------------------------------

def test_rolled_back_create_index_leaves_nothing(items):
    before = items.execute("SELECT count(*) FROM pg_class").fetchone()
    items.execute("BEGIN")
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    assert_same_answer(items, "items", QUERY, index="built")
    items.execute("ROLLBACK")
    assert items.execute("SELECT count(*) FROM pg_class").fetchone() == before
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    assert_same_answer(items, "items", QUERY, index="built")


def test_rolled_back_rows_never_come_out(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    items.execute("BEGIN")
    add(items)
    assert_same_answer(items, "items", QUERY, limit=None)
    items.execute("ROLLBACK")
    assert_same_answer(items, "items", QUERY, limit=None)
    assert len(with_index(items, nearest_sql("items", QUERY, None))) == ROWS


def test_savepoints_take_back_their_own_rows_only(items):
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    items.execute("BEGIN")
    add(items, first=0, count=10)
    items.execute("SAVEPOINT a")
    add(items, first=10, count=10)
    items.execute("DELETE FROM items WHERE id < 20")
    assert_same_answer(items, "items", QUERY, limit=None)
    items.execute("ROLLBACK TO a")
    add(items, first=20, count=10)
    items.execute("RELEASE a")
    assert_same_answer(items, "items", QUERY, limit=None)
    items.execute("COMMIT")
    assert len(assert_same_answer(items, "items", QUERY, limit=None)) == ROWS + 20


def test_create_index_in_a_savepoint_that_fails(items):
    items.execute("BEGIN")
    items.execute("SAVEPOINT a")
    with pytest.raises(psycopg.Error):
        items.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'PQ3')")
    items.execute("ROLLBACK TO a")
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    items.execute("COMMIT")
    assert_same_answer(items, "items", QUERY, index="built")


# -- storage changes ------------------------------------------------------------------------------------------------

STORAGE_CHANGES = {
    "reindex": ["REINDEX INDEX built"],
    "reindex-concurrently": ["REINDEX INDEX CONCURRENTLY built"],
    "reindex-table-concurrently": ["REINDEX TABLE CONCURRENTLY items"],
    "vacuum-full": ["VACUUM FULL items"],
    "cluster": ["CLUSTER items USING items_pkey"],
    "set-logged": ["ALTER TABLE items SET UNLOGGED", "ALTER TABLE items SET LOGGED"],
    "rewrite": ["ALTER TABLE items ALTER genre TYPE bigint"],
    "rename-column": ["ALTER TABLE items RENAME embedding TO moved", "ALTER TABLE items RENAME moved TO embedding"],
    "rename-index": ["ALTER INDEX built RENAME TO other", "ALTER INDEX other RENAME TO built"],
    "add-drop-column": ["ALTER TABLE items ADD c text DEFAULT random()::text", "ALTER TABLE items DROP c"],
    "analyze": ["ANALYZE items"],
}


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("change", STORAGE_CHANGES)
def test_answers_are_the_same_after(items, change, factory):
    items.execute(f"CREATE INDEX built ON items USING faiss (embedding) INCLUDE (id) WITH (factory = '{factory}')")
    add(items)
    items.execute("DELETE FROM items WHERE id % 5 = 0")
    for statement in STORAGE_CHANGES[change]:
        items.execute(statement)
    with settings(items, **{"vekter.nprobe": 16, "vekter.ef_search": 1000}):
        assert_same_answer(items, "items", QUERY, limit=50, index="built")
        add(items, first=100)
        items.execute("UPDATE items SET id = id + 100000 WHERE id % 7 = 0")
        assert_same_answer(items, "items", QUERY, limit=50, index="built")


@pytest.mark.parametrize("factory", FACTORIES)
def test_truncate_empties_the_index_and_a_rollback_brings_it_back(items, factory):
    items.execute(f"CREATE INDEX built ON items USING faiss (embedding) WITH (factory = '{factory}')")
    items.execute("BEGIN")
    items.execute("TRUNCATE items")
    assert with_index(items, nearest_sql("items", QUERY)) == []
    add(items, count=5)
    assert_same_answer(items, "items", QUERY)
    items.execute("ROLLBACK")
    assert len(with_index(items, nearest_sql("items", QUERY, None))) == ROWS
    items.execute("TRUNCATE items")
    assert with_index(items, nearest_sql("items", QUERY)) == []
    add(items)
    assert_same_answer(items, "items", QUERY, limit=None)


def test_set_tablespace_moves_the_index(items, cluster, tmp_path_factory):
    folder = cluster.folder / "space"
    cluster.psql(f"\\! mkdir {folder}")
    items.execute(f"CREATE TABLESPACE elsewhere LOCATION '{folder}'")
    try:
        items.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'HNSW16')")
        items.execute("ALTER INDEX built SET TABLESPACE elsewhere")
        add(items)
        with settings(items, **{"vekter.ef_search": 1000}):
            assert_same_answer(items, "items", QUERY, index="built")
        items.execute("ALTER TABLE items SET TABLESPACE elsewhere")
        assert len(with_index(items, nearest_sql("items", QUERY, None), "built")) == ROWS + 50
    finally:
        items.execute("DROP TABLE items")
        items.execute("DROP TABLESPACE elsewhere")


def test_reindex_with_dead_toasted_rows(db):
    """Dead rows whose out-of-line values are gone must not break a rebuild."""
    db.execute("CREATE TABLE items (id bigint, embedding vector(3000))")
    vectors = clustered(60, 3000, seed=22)
    copy_vectors(db, "items", vectors[:50])
    db.execute("CREATE INDEX built ON items USING faiss (embedding)")
    for _ in range(3):
        db.execute("UPDATE items SET embedding = embedding WHERE id % 2 = 0")
        db.execute("DELETE FROM items WHERE id = (SELECT max(id) FROM items)")
        db.execute("REINDEX INDEX built")
        assert_same_answer(db, "items", vectors[-1], index="built")


# -- concurrently ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("statement", [
    "CREATE INDEX CONCURRENTLY built ON items USING faiss (embedding) WITH (factory = 'Flat')",
    "REINDEX INDEX CONCURRENTLY built",
])
def test_concurrent_build_misses_no_row_of_its_writers(items, cluster, database, statement):
    if statement.startswith("REINDEX"):
        items.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    stop, failures = threading.Event(), []

    def write(number):
        try:
            with cluster.connect(database) as writer:
                turn = 0
                while not stop.is_set():
                    vector = LATER[(turn * 3 + number) % 900]
                    key = 10_000 + turn * 3 + number
                    copy_vectors(writer, "items", vector[None], ids=[key])
                    writer.execute("UPDATE items SET genre = genre + 1 WHERE id = %s", [(turn * 7) % ROWS])
                    writer.execute("DELETE FROM items WHERE id = %s", [key - 30])
                    turn += 1
        except Exception as failure:
            failures.append(failure)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            items.execute(statement)
            if statement.startswith("CREATE"):
                items.execute("DROP INDEX CONCURRENTLY built")
        if statement.startswith("CREATE"):
            items.execute(statement)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert failures == []
    assert items.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'built'::regclass").fetchone() == (True,)
    assert_same_answer(items, "items", QUERY, limit=None, index="built")
    # One entry for each row: CONCURRENTLY asks the index what it holds, and adds what is missing.
    vacuum_dead_rows(items, options="(INDEX_CLEANUP ON)")
    assert items.execute("SELECT rows_indexed FROM vekter_index_stats('built')").fetchone() == items.execute(
        "SELECT count(*) FROM items").fetchone()


@pytest.mark.parametrize("factory", ("auto", "IVF16,Flat"))
def test_concurrent_build_takes_its_sample_by_its_snapshot(items, factory):
    """Both read some rows beforehand, to choose or to train; a server with assertions ends where it is by another."""
    items.execute("UPDATE items SET genre = 1 WHERE id % 3 = 0")
    items.execute(f"CREATE INDEX CONCURRENTLY built ON items USING faiss (embedding) WITH (factory = '{factory}')")
    items.execute("DELETE FROM items WHERE id % 7 = 0")
    items.execute("REINDEX INDEX CONCURRENTLY built")
    with settings(items, **{"vekter.nprobe": 16}):
        assert_same_answer(items, "items", QUERY, limit=None, index="built")


@pytest.mark.parametrize("call", [
    "vekter_compact('built')", "vekter_check('built', heap => true)", "vekter_segments('built')",
    "vekter_index_stats('built')", "vekter_operating_points('built')", "vekter_recall('built', 1, 1)",
    "vekter_quantize('built', {query})", "vekter_reconstruct('built', 1)", "vekter_export('built')",
    "knn('built', {query}, 1)", "knn_rows(NULL::items, {query}, 1)",
    "knn_batch('built', ARRAY[{query}], 1)",
])
def test_a_function_says_that_its_index_was_dropped_meanwhile(db, cluster, database, call):
    """At whatever moment of the call that is: the error is one for a user, not an internal one."""
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}))")
    copy_vectors(db, "items", BASE[:50])
    sql, refusals = f"SELECT * FROM {call.format(query=literal(QUERY))}", []

    def ask(conn):
        try:
            conn.execute(sql)
        except psycopg.Error as refusal:
            refusals.append(refusal)

    with meanwhile(cluster, database, ask):
        for _ in range(60):
            db.execute("CREATE INDEX built ON items USING faiss (embedding) INCLUDE (id)")
            db.execute("DROP INDEX built")
    # The last: of vekter_compact(), which waits for nobody who may wait for it.
    expected = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedObject, psycopg.errors.LockNotAvailable)
    assert refusals and [str(refusal) for refusal in refusals if not isinstance(refusal, expected)] == []


def test_cancelled_concurrent_build_leaves_an_invalid_index_that_can_be_dropped(items, cluster, database):
    with cluster.connect(database, autocommit=False) as holder:
        holder.execute("INSERT INTO items (id) VALUES (-1)")
        items.execute("SET statement_timeout = '500ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            items.execute("CREATE INDEX CONCURRENTLY built ON items USING faiss (embedding)")
        items.execute("RESET statement_timeout")
    with settings(items, enable_seqscan="off"):
        assert indexes_used(items, nearest_sql("items", QUERY)) == set()
    add(items)
    items.execute("DROP INDEX built")
    items.execute("CREATE INDEX built ON items USING faiss (embedding)")
    assert_same_answer(items, "items", QUERY, index="built")
