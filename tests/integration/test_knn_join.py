"""knn_join(): the nearest rows of an index for each row of another table."""

import threading
import time
import uuid

import numpy as np
import psycopg
import pytest

from data import clustered, copy_vectors
from oracle import settings
from upkeep import wait_until

ROWS, LEFT, DIMENSIONS = 2_000, 150, 16
VECTORS = clustered(ROWS + LEFT, DIMENSIONS, seed=221)


def make_items(db):
    """`items` of 2,000 rows, and `asked` of 150 rows to join."""
    for name, vectors in (("items", VECTORS[:ROWS]), ("asked", VECTORS[ROWS:])):
        db.execute(f"CREATE TABLE {name} (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), who text DEFAULT 'all')")
        copy_vectors(db, name, vectors)


@pytest.fixture
def tables(items):
    return items


def create_index(db, factory="Flat"):
    db.execute(f"CREATE INDEX built ON items USING faiss (embedding) INCLUDE (id) WITH (factory = '{factory}')")


def joined(db, arguments="'asked', 'id', 'embedding', 'items', 5"):
    return sorted(db.execute(f"SELECT * FROM knn_join({arguments})").fetchall(), key=lambda row: (str(row[0]), row[2]))


def lateral(db, left="asked", k=5, where="true"):
    """The same, one by one."""
    return sorted(db.execute(f"SELECT a.id, n.* FROM {left} a CROSS JOIN LATERAL knn('items', a.embedding, {k}) n "
                             f"WHERE {where}").fetchall(), key=lambda row: (str(row[0]), row[2]))


def refusal(db, sql):
    with pytest.raises(psycopg.Error) as error:
        db.execute(sql)
    diag = error.value.diag
    return diag.sqlstate, f"{diag.message_primary} {diag.message_detail}", diag.message_hint or ""


# -- answers --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("factory", ("Flat", "HNSW16", "IVF16,Flat"))
def test_join_is_the_lateral_join_of_knn(tables, factory):
    create_index(tables, factory)
    assert joined(tables) == lateral(tables)
    copy_vectors(tables, "items", VECTORS[ROWS:] + np.float32(0.01), ids=10_000 + np.arange(LEFT))
    tables.execute("DELETE FROM items WHERE id % 3 = 0")
    tables.execute("UPDATE items SET who = 'x' WHERE id % 4 = 0")
    assert joined(tables) == lateral(tables)
    assert joined(tables, "'asked', 'id', 'embedding', 'built'") == lateral(tables, k=10)


def test_each_left_rows_neighbours_come_together_and_nearest_first(tables):
    create_index(tables)
    rows = tables.execute("SELECT * FROM knn_join('asked', 'id', 'embedding', 'items', 7)").fetchall()
    ids = [left for left, _, _ in rows]
    assert [ids[at] for at in range(0, len(ids), 7)] == list(dict.fromkeys(ids)) and len(set(ids)) == LEFT
    assert all(a[2] <= b[2] for a, b in zip(rows, rows[1:]) if a[0] == b[0])


def test_table_can_be_joined_with_itself(tables):
    create_index(tables)
    rows = joined(tables, "'items', 'id', 'embedding', 'items', 1")
    assert len(rows) == ROWS and all(left == id and distance == 0 for left, id, distance in rows)


def test_left_rows_without_a_vector_have_no_neighbours(tables):
    create_index(tables)
    tables.execute("UPDATE asked SET embedding = NULL WHERE id % 2 = 0")
    assert joined(tables) == lateral(tables, where="a.embedding IS NOT NULL")
    tables.execute("UPDATE asked SET embedding = NULL")
    assert joined(tables) == []


def test_more_left_rows_than_one_batch_takes(tables):
    create_index(tables)
    tables.execute("CREATE TABLE many AS SELECT g * 1000 + id AS id, embedding FROM asked, generate_series(1, 20) g")
    rows = joined(tables, "'many', 'id', 'embedding', 'items', 3")
    assert len(rows) == 20 * LEFT * 3
    assert rows == lateral(tables, "many", k=3)


def test_empty_sides_give_no_rows(tables):
    create_index(tables)
    tables.execute("CREATE TABLE nobody (id bigint, embedding vector(16))")
    assert joined(tables, "'nobody', 'id', 'embedding', 'items'") == []
    tables.execute("TRUNCATE items")
    assert joined(tables) == []


def test_views_partitioned_tables_and_arrays_stand_on_the_left(tables):
    create_index(tables)
    tables.execute("CREATE VIEW a_few AS SELECT id, embedding::real[] AS embedding FROM asked WHERE id < 10")
    assert joined(tables, "'a_few', 'id', 'embedding', 'items', 5") == lateral(tables, where="a.id < 10")
    tables.execute("CREATE TABLE parts (id bigint, embedding vector(16)) PARTITION BY HASH (id)")
    for part in range(2):
        tables.execute(f"CREATE TABLE parts_{part} PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER {part})")
    tables.execute("INSERT INTO parts SELECT id, embedding FROM asked")
    assert joined(tables, "'parts', 'id', 'embedding', 'items', 5") == lateral(tables)


def test_ids_of_another_type_come_as_that_type(tables):
    create_index(tables)
    tables.execute("CREATE TABLE named AS SELECT md5(id::text)::uuid AS id, 'n' || id AS name, embedding FROM asked")
    rows = joined(tables, "'named', 'id', 'embedding', 'items', 2, NULL, NULL, id_type => NULL::uuid")
    assert len(rows) == 2 * LEFT and all(isinstance(left, uuid.UUID) for left, _, _ in rows)
    names = joined(tables, "'named', 'name', 'embedding', 'items', 2, NULL, NULL, NULL::text")
    assert {left for left, _, _ in names} == {f"n{id}" for id in range(LEFT)}
    tables.execute("INSERT INTO named (id, embedding) SELECT NULL, embedding FROM asked LIMIT 1")
    assert None in {left for left, _, _ in joined(tables, "'named', 'id', 'embedding', 'items', 2, NULL, NULL, id_type => NULL::uuid")}
    sqlstate, message, hint = refusal(tables, "SELECT * FROM knn_join('named', 'id', 'embedding', 'items')")
    assert sqlstate == "42804" and "uuid" in message and "id_type => NULL::uuid" in hint


def test_search_argument_acts_as_on_knn(tables):
    create_index(tables, "IVF64,Flat")
    narrow = joined(tables, "'asked', 'id', 'embedding', 'items', 5, search => 'nprobe=1'")
    with settings(tables, **{"vekter.nprobe": 1}):
        assert narrow == joined(tables) == lateral(tables)
    assert narrow != joined(tables, "'asked', 'id', 'embedding', 'items', 5, 'nprobe=64'")


# -- errors ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, sqlstate, words", [
    ("'asked', 'nothing', 'embedding', 'items'", "42703", "nothing"),
    ("'asked', 'id', 'nothing', 'items'", "42703", "nothing"),
    ("'asked', 'id', 'id', 'items'", "42804", "vector"),
    ("'asked', 'id', 'embedding', 'asked'", "42704", "no faiss index"),
    ("'asked', 'id', 'embedding', 'items', 0", "22023", "k must be"),
    ("'built', 'id', 'embedding', 'items'", "42809", "built"),
])
def test_what_does_not_fit_is_refused(tables, arguments, sqlstate, words):
    create_index(tables)
    state, message, _ = refusal(tables, f"SELECT * FROM knn_join({arguments})")
    assert state == sqlstate and words in message


def test_left_vector_of_another_dimension_is_refused(tables):
    create_index(tables)
    tables.execute("CREATE TABLE mixed AS SELECT 1::bigint AS id, '[1,2,3]'::vector AS embedding")
    state, message, _ = refusal(tables, "SELECT * FROM knn_join('mixed', 'id', 'embedding', 'items')")
    assert state == "22000" and "expected 16 dimensions, not 3" in message and "embedding" in message


def test_null_arguments_give_no_rows(tables):
    create_index(tables)
    for null in range(5):
        arguments = ["'asked'", "'id'", "'embedding'", "'items'", "5"]
        arguments[null] = "NULL"
        assert joined(tables, ", ".join(arguments)) == []


# -- privileges -----------------------------------------------------------------------------------------------------

def test_privileges_and_row_level_security_hold_on_both_sides(tables):
    create_index(tables)
    tables.execute("DO $$ BEGIN CREATE ROLE joiner; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    for granted in ("items", "asked"):
        tables.execute(f"REVOKE ALL ON items, asked FROM joiner; GRANT SELECT ON {granted} TO joiner")
        tables.execute("SET ROLE joiner")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            joined(tables)
        tables.execute("RESET ROLE")
    tables.execute("GRANT SELECT ON items, asked TO joiner")
    for table, remainder in (("items", 1), ("asked", 2)):
        tables.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        tables.execute(f"CREATE POLICY own ON {table} FOR SELECT TO joiner USING (id % 5 = {remainder})")
    tables.execute("SET ROLE joiner")
    rows = joined(tables)
    assert rows == lateral(tables) and len(rows) == LEFT // 5 * 5
    assert all(left % 5 == 2 and id % 5 == 1 for left, id, _ in rows)
    tables.execute("RESET ROLE")


# -- while it runs --------------------------------------------------------------------------------------------------

def test_progress_is_shown_to_other_sessions_and_ends(cluster, database, tables):
    create_index(tables, "HNSW32")
    tables.execute("CREATE TABLE many AS SELECT id, CASE WHEN g > 1 THEN embedding END AS embedding "
                   "FROM asked, generate_series(1, 600) g")
    tables.execute("ANALYZE many")
    progress = "SELECT left_table::text, rows_done, rows_without_vector, rows_estimated FROM vekter_join_progress()"
    seen, failures = [], []

    def join():
        try:
            with cluster.connect(database) as conn, settings(conn, **{"vekter.ef_search": 2_000}):
                conn.execute("SELECT count(*) FROM knn_join('many', 'id', 'embedding', 'items', 50)")
        except psycopg.errors.QueryCanceled:
            pass
        except Exception as failure:
            failures.append(failure)

    thread = threading.Thread(target=join)
    thread.start()
    wait_until(lambda: seen.extend(tables.execute(progress).fetchall())
               or len({done for _, done, _, _ in seen}) >= 3, "three states of progress")
    started = time.monotonic()
    tables.execute("SELECT pg_cancel_backend(pid) FROM vekter_join_progress()")
    thread.join(60)
    assert not thread.is_alive() and time.monotonic() - started < 10 and not failures
    assert all(row[0] == "many" and row[3] == 600 * LEFT for row in seen)
    assert [row[1] for row in seen] == sorted(row[1] for row in seen) and seen[-1][2] == LEFT
    assert tables.execute(progress).fetchall() == []
    joined(tables)
    assert tables.execute(progress).fetchall() == []


def test_progress_of_a_surrounding_copy_is_left_alone(tables):
    create_index(tables)
    with tables.cursor() as cursor, cursor.copy("COPY (SELECT * FROM knn_join('asked', 'id', 'embedding', 'items', 2)) "
                                                "TO STDOUT") as copy:
        assert len(b"".join(copy).splitlines()) == 2 * LEFT


def test_result_larger_than_work_mem_goes_to_disk(tables):
    create_index(tables)
    with settings(tables, work_mem="64kB"):
        count = tables.execute("SELECT count(*), count(DISTINCT left_id) FROM "
                               "knn_join('asked', 'id', 'embedding', 'items', 1000)").fetchone()
    assert count == (1000 * LEFT, LEFT)


def test_join_runs_in_a_read_only_transaction_and_in_a_loop(tables):
    create_index(tables)
    expected = joined(tables)
    with tables.transaction():
        tables.execute("SET TRANSACTION READ ONLY")
        assert joined(tables) == expected
    rows = tables.execute("SELECT g, count(j.*) FROM generate_series(1, 3) g, "
                          "LATERAL knn_join('asked', 'id', 'embedding', 'items', g) j GROUP BY g ORDER BY g").fetchall()
    assert rows == [(k, k * LEFT) for k in (1, 2, 3)]
