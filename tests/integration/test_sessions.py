"""Several sessions at once: what each sees of the others, while rows are written and indexes are built."""

import threading
import time

import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from oracle import (ONLY_INDEX, apply, assert_nearest, assert_same_answer, literal, nearest_sql, with_index,
                    without_index)

DIMENSIONS = 8
VECTORS = clustered(4_100, DIMENSIONS, seed=51)
QUERY = VECTORS[-1]


@pytest.fixture
def items(db):
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), note int DEFAULT 0)")
    copy_vectors(db, "items", VECTORS[:500])
    db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    return db


@pytest.fixture
def other(cluster, database):
    with cluster.connect(database) as connection:
        yield connection


def ids(conn, limit=None):
    return [id for id, _ in with_index(conn, nearest_sql("items", QUERY, limit), "built")]


def test_sessions_see_commits_at_once_and_never_uncommitted_rows(items, other):
    before = ids(other)
    for turn in range(20):
        items.execute("BEGIN")
        copy_vectors(items, "items", VECTORS[500 + turn][None], ids=[500 + turn])
        items.execute("UPDATE items SET embedding = %s WHERE id = %s", [nearest_point(turn), turn])
        items.execute("DELETE FROM items WHERE id = %s", [100 + turn])
        assert 500 + turn in ids(items) and 100 + turn not in ids(items)
        assert ids(other) == before, "another session's uncommitted work is visible"
        assert_same_answer(other, "items", QUERY, limit=20)
        if turn % 2:
            items.execute("COMMIT")
            before = ids(items)
            assert ids(other) == before, "a commit is not visible at once"
            assert 500 + turn in before and 100 + turn not in before and before[0] == turn
        else:
            items.execute("ROLLBACK")
            assert ids(items) == ids(other) == before
        assert_same_answer(other, "items", QUERY, limit=20)


def nearest_point(turn):
    """The text of a point nearer to QUERY than every earlier one."""
    return "[" + ",".join(str(float(x) + 0.001 / (turn + 1)) for x in QUERY) + "]"


def test_repeatable_read_keeps_its_picture(items, other):
    other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    before = ids(other)
    copy_vectors(items, "items", VECTORS[500:600], ids=range(500, 600))
    items.execute("DELETE FROM items WHERE id < 100")
    assert ids(other) == before
    other.execute("COMMIT")
    assert ids(other) == ids(items) != before


@pytest.mark.parametrize("changed", (False, True))
def test_a_transaction_older_than_the_index_searches_what_it_sees(items, other, changed):
    """With HOT chains of which it sees another member than the index has, PostgreSQL gives it plans without the index."""
    items.execute("DROP INDEX built")
    items.execute("ALTER TABLE items SET (fillfactor = 50)")
    items.execute("VACUUM FULL items")
    other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    mine = without_index(other, nearest_sql("items", QUERY, 20))
    if changed:
        items.execute("UPDATE items SET embedding = %s WHERE id IN (%s, 3)", [nearest_point(0), mine[0][0]])
    items.execute("DELETE FROM items WHERE id = %s", [mine[1][0]])
    items.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    assert items.execute("SELECT indcheckxmin FROM pg_index WHERE indexrelid = 'built'::regclass").fetchone() == (changed,)
    query = literal(QUERY)
    assert_nearest(other.execute(nearest_sql("items", QUERY, 20)).fetchall(), mine, 20)
    for relation in ("items", "built"):
        for call in (f"knn('{relation}', {query}, 20)",
                     f"knn('{relation}', {query}, 20, filter => 'id >= 0')",
                     f"knn_within('{relation}', {query}, {mine[19][1]})",
                     f"knn_batch('{relation}', ARRAY[{query}], 20)"):
            assert_nearest(other.execute(f"SELECT id, distance FROM {call}").fetchall(), mine, 20)
        like = other.execute(f"SELECT id FROM knn_like('{relation}', {mine[0][0]}, 19)").fetchall()
        own = other.execute(f"SELECT embedding FROM items WHERE id = {mine[0][0]}").fetchone()[0]
        assert like == other.execute(f"SELECT id FROM items WHERE id <> {mine[0][0]} ORDER BY embedding <-> '{own}' "
                                     "LIMIT 19").fetchall()
    assert other.execute("SELECT rows_indexed FROM vekter_index_stats('built')").rowcount == 1
    if changed:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="newer than the transaction") as refused:
            other.execute("SELECT vekter_recall('built', 5, 10)")
        assert "new transaction" in refused.value.diag.message_hint
    else:
        assert other.execute("SELECT vekter_recall('built', 5, 10)").fetchone() == (1.0,)
    other.execute("ROLLBACK")
    assert other.execute("SELECT vekter_recall('built', 5, 10)").fetchone() == (1.0,)
    assert_same_answer(other, "items", QUERY, limit=20)


def test_an_old_transaction_that_has_written_finds_tables_and_columns_under_their_present_names(items, other):
    other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    other.execute("INSERT INTO items VALUES (10000, %s)", [to_text(QUERY)])
    items.execute("CREATE TABLE later (key bigint NOT NULL, place vector(2))")
    assert other.execute("SELECT vekter_create_index('later', 'key', 'place')::text").fetchone() == ("later_place_idx",)
    assert other.execute("SELECT count(*) FROM knn('later', '[1,2]', 5)").fetchone() == (0,)
    assert other.execute(f"SELECT id, distance FROM knn('items', {literal(QUERY)}, 1)").fetchone() == (10000, 0)
    other.execute("COMMIT")
    other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    other.execute("SELECT 1")
    items.execute("ALTER TABLE items RENAME embedding TO place")
    for _ in range(2):
        # In a transaction that is older than the new name, and in one that is not.
        assert other.execute(f"SELECT id, distance FROM knn('items', {literal(QUERY)}, 1)").fetchone() == (10000, 0)
        other.execute("COMMIT")


def test_four_connections_insert_at_once_and_no_row_is_lost(items, cluster, database):
    failures = run_at_once([lambda conn, n=n: copy_in_pieces(conn, n) for n in range(4)], cluster, database)
    assert failures == []
    assert sorted(ids(items)) == list(range(500)) + list(range(1000, 4600))
    assert_same_answer(items, "items", QUERY, limit=200)


def copy_in_pieces(conn, number):
    for piece in range(30):
        first = 1000 + number * 900 + piece * 30
        copy_vectors(conn, "items", VECTORS[first - 1000:][:30], ids=range(first, first + 30))


def run_at_once(works, cluster, database):
    """Runs each function with a connection of its own in a thread; the exceptions that came out."""
    failures = []

    def guarded(work):
        try:
            with cluster.connect(database) as conn:
                work(conn)
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(t.is_alive() for t in threads), "sessions wait for each other for ever"
    return failures


def test_searches_vacuums_and_writers_at_once_agree_with_the_table(items, cluster, database):
    """Each search runs with its oracle in one REPEATABLE READ snapshot, while others write, delete and vacuum."""
    stop = threading.Event()

    def write(conn, number):
        for turn in range(500):
            key = 10_000 * (number + 1) + turn
            copy_vectors(conn, "items", VECTORS[turn][None] + 0.01 * number, ids=[key])
            conn.execute("UPDATE items SET note = note + 1, embedding = embedding WHERE id %% 97 = %s", [turn % 97])
            conn.execute("DELETE FROM items WHERE id = %s", [key - 20])

    def vacuum(conn):
        while not stop.is_set():
            conn.execute("VACUUM items")

    def search(conn):
        while not stop.is_set():
            conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            assert_same_answer(conn, "items", QUERY, limit=30, index="built")
            assert_same_answer(conn, "items", QUERY, limit=None, index="built")
            conn.execute("COMMIT")

    def writers(conn):
        failures.extend(run_at_once([lambda c, n=n: write(c, n) for n in range(2)], cluster, database))
        stop.set()

    failures = []
    failures += run_at_once([writers, vacuum, search, search], cluster, database)
    assert failures == []
    assert_same_answer(items, "items", QUERY, limit=None)


def test_select_for_update_follows_a_concurrent_change(items, other):
    items.execute("BEGIN")
    items.execute("UPDATE items SET note = 7 WHERE id IN (SELECT id FROM items)")
    found = []
    waiter = threading.Thread(target=lambda: found.extend(locked(other)))
    waiter.start()
    time.sleep(0.3)
    items.execute("COMMIT")
    waiter.join(30)
    assert [note for _, note in found] == [7] * 5


def locked(conn):
    apply(conn, ONLY_INDEX)
    sql = nearest_sql("items", QUERY, 5)
    return conn.execute(f"SELECT id, note FROM items ORDER BY {sql.split('ORDER BY ')[1]} FOR UPDATE").fetchall()


def test_search_is_not_blocked_by_an_open_writer_or_vacuum(items, other):
    items.execute("BEGIN")
    copy_vectors(items, "items", VECTORS[500:510], ids=range(500, 510))
    other.execute("SET lock_timeout = '2s'")
    other.execute("SET statement_timeout = '20s'")
    assert len(ids(other)) == 500
    copy_vectors(other, "items", VECTORS[600:610], ids=range(600, 610))
    assert len(ids(other)) == 510
    items.execute("COMMIT")
    assert len(ids(other)) == 520


def test_search_and_insert_wait_for_no_build_that_is_concurrent(items, other, cluster, database):
    """CREATE INDEX CONCURRENTLY waits for old transactions; meanwhile searches and inserts go on."""
    with cluster.connect(database, autocommit=False) as old:
        old.execute("SELECT pg_current_xact_id()")
        builder = threading.Thread(target=lambda: items.execute(
            "CREATE INDEX CONCURRENTLY second ON items USING faiss (embedding) WITH (factory = 'HNSW16')"))
        builder.start()
        wait_for(other, "SELECT count(*) FROM pg_stat_progress_create_index")
        other.execute("SET lock_timeout = '2s'")
        copy_vectors(other, "items", VECTORS[600:610], ids=range(600, 610))
        # By either index: the build may be over by now.
        assert len(with_index(other, nearest_sql("items", QUERY, None))) == 510
    builder.join(60)
    assert not builder.is_alive()
    found = [id for id, _ in with_index(other, nearest_sql("items", QUERY, None))]
    assert sorted(found) == [id for id, in other.execute("SELECT id FROM items ORDER BY id")]


def wait_for(conn, sql, timeout_s=30):
    """Polls until the query's first column is true; its row."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        row = conn.execute(sql).fetchone()
        if row and row[0]:
            return row
        time.sleep(0.01)
    raise TimeoutError(sql)


def test_drop_index_waits_for_a_search_and_then_happens(items, other):
    other.execute("BEGIN")
    apply(other, ONLY_INDEX)
    other.execute(f"DECLARE c CURSOR FOR {nearest_sql('items', QUERY, None)}")
    other.execute("FETCH 5 FROM c")
    items.execute("SET lock_timeout = '300ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        items.execute("DROP INDEX built")
    other.execute("COMMIT")
    items.execute("DROP INDEX built")


def test_serializable_transactions_notice_each_other(items, other):
    """Each reads what is nearest and then adds a row: in no serial order can both have seen what they saw."""
    for conn, number in ((items, 9_001), (other, 9_002)):
        conn.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        assert len(ids(conn, 5)) == 5
        copy_vectors(conn, "items", QUERY[None], ids=[number])
    items.execute("COMMIT")
    with pytest.raises(psycopg.errors.SerializationFailure):
        other.execute("COMMIT")
    assert ids(items, 1) == [9_001]
