"""knn() and the planner: the hint is for knn()'s own query, however that is planned, and plans stay as long as they are right."""

import threading

import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from oracle import assert_nearest, nearest_sql, settings, without_index
from upkeep import wait_until

ROWS, DIMENSIONS = 3_000, 8
VECTORS = clustered(ROWS + 1, DIMENSIONS, seed=151)
QUERY = VECTORS[ROWS]
TEXT = to_text(QUERY)


def make_items(db):
    """3,000 rows; `place` is a row's rank by its distance to the query. An index finds all neighbours unless told otherwise."""
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), place integer)")
    copy_vectors(db, "items", VECTORS[:ROWS])
    db.execute("UPDATE items i SET place = r.place FROM (SELECT id, row_number() OVER (ORDER BY "
               f"embedding <-> '{TEXT}') AS place FROM items) r WHERE r.id = i.id")
    db.execute("CREATE INDEX ON items (place)")
    db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF32,Flat', search = 'nprobe=32')")
    db.execute("VACUUM ANALYZE items")


def counted(db, what, sql, *arguments):
    """The result of a statement, and by how much it raised a counter of the index `built`."""
    counter = f"SELECT pg_stat_get_xact_{what}('built'::regclass)"
    with db.transaction():
        before = db.execute(counter).fetchone()[0]
        rows = db.execute(sql, arguments).fetchall()
        return rows, db.execute(counter).fetchone()[0] - before


def exact(db, limit, where="true"):
    return without_index(db, nearest_sql("items", QUERY, limit, where=where))


# -- the hint -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", ("auto", "force_custom_plan", "force_generic_plan"))
def test_a_search_among_few_rows_looks_at_few_in_plans_of_any_kind(items, mode):
    far, near = exact(items, 5, where="place > 2990"), exact(items, 20)
    radius = (near[9][1] + near[10][1]) / 2
    with settings(items, plan_cache_mode=mode):
        for _ in range(7):
            found, fetched = counted(items, "tuples_fetched",
                                     f"SELECT * FROM knn('items', '{TEXT}', 5, filter => 'place > 2990')")
            assert_nearest(found, far, 5)
            assert fetched <= 10
            found, fetched = counted(items, "tuples_fetched", f"SELECT * FROM knn_within('items', '{TEXT}', %s)", radius)
            assert_nearest(found, near[:10], 10)
            assert fetched <= 12


def test_plans_that_others_make_meanwhile_do_not_follow_the_hint(items):
    """Functions in a filter, that run for its rows or while it is planned, keep the plans of their queries."""
    for name in ("of_row(bigint)", "of_plan()"):
        items.execute(f"CREATE FUNCTION {name} RETURNS bigint STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(*) "
                      f"FROM (SELECT FROM items ORDER BY embedding <-> '{TEXT}' OFFSET 0) a); END $$")
    condition = f"of_row(id) = {ROWS} AND id < of_plan()"
    found = items.execute(f"SELECT * FROM knn('items', '{TEXT}', 2, filter => %s)", [condition]).fetchall()
    assert_nearest(found, exact(items, 2), 2)
    for call in ("of_row(1)", "of_plan()"):
        assert counted(items, "numscans", f"SELECT {call}") == ([(ROWS,)], 0), "a sort of all rows costs less"


def test_searches_inside_another_search_go_by_their_own_parameters(items):
    """One for the same vector in the same index, as a filter and a policy make it."""
    narrow = items.execute(f"SELECT id FROM knn('items', '{TEXT}', 100, 'nprobe=1')").fetchall()
    expected = [id for id, _ in exact(items, 100)]
    assert [id for id, in narrow] != expected
    items.execute(f"CREATE FUNCTION neighbours(bigint) RETURNS bigint[] STABLE LANGUAGE sql SECURITY DEFINER AS "
                  f"$$ SELECT array(SELECT id FROM items ORDER BY embedding <-> '{TEXT}' LIMIT 100) $$ "
                  "SET enable_seqscan = off SET enable_sort = off")
    condition = f"neighbours(id) = ARRAY{expected}::bigint[]"
    answer = items.execute(f"SELECT id FROM knn('items', '{TEXT}', 2, 'nprobe=1', filter => %s)", [condition]).fetchall()
    assert answer == narrow[:2]
    answer = items.execute(f"SELECT id FROM knn_within('items', '{TEXT}', 1e9, 2, 'nprobe=1', filter => %s)", [condition])
    assert answer.fetchall() == narrow[:2]
    items.execute("DO $$ BEGIN CREATE ROLE reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    items.execute("GRANT SELECT ON items TO reader")
    items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    items.execute(f"CREATE POLICY own ON items FOR SELECT TO reader USING ({condition})")
    items.execute("SET ROLE reader")
    answer = items.execute(f"SELECT id FROM knn_batch('items', ARRAY['{TEXT}']::vector[], 2, 'nprobe=1')").fetchall()
    assert answer == narrow[:2]
    items.execute("RESET ROLE")


def test_a_filter_on_a_table_that_was_never_analysed_is_weighed_by_the_tables_size(db):
    db.execute("CREATE TABLE fresh (id bigint PRIMARY KEY, kind integer, embedding vector(2)) WITH (autovacuum_enabled = off)")
    db.execute("INSERT INTO fresh SELECT i, i / 15, ARRAY[i, 0]::vector FROM generate_series(1, 4000) i")
    db.execute("CREATE INDEX ON fresh (kind)")
    db.execute("CREATE INDEX built ON fresh USING faiss (embedding)")
    # CREATE INDEX counts rows.
    db.execute("UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE oid = 'fresh'::regclass")
    kinds = ", ".join(map(str, range(1, 21)))
    found, fetched = counted(db, "tuples_fetched", f"SELECT id FROM knn('fresh', '[3900, 0]', 1, filter => 'kind IN ({kinds})')")
    assert found == [(314,)] and fetched <= 2


# -- prepared queries -----------------------------------------------------------------------------------------------

CALLS = (f"SELECT * FROM knn('items', '{TEXT}', 3)", f"SELECT * FROM knn('built', '{TEXT}', 3, filter => 'id > 7')",
         f"SELECT * FROM knn_within('items', '{TEXT}', 1e9, 3)", f"SELECT (item).id FROM knn_rows(NULL::items, '{TEXT}', 3)",
         "SELECT * FROM knn('of_first', '[1]', 1)")
UNRELATED = ("CREATE TABLE other (id integer, v vector(2))", "INSERT INTO other SELECT i, '[1, 2]' FROM generate_series(1, 99) i",
             "CREATE INDEX ON other (id)", "CREATE INDEX ON other USING faiss (v)", "ANALYZE other", "VACUUM other",
             "ALTER TABLE other ADD note text", "CREATE FUNCTION one() RETURNS integer LANGUAGE sql RETURN 1",
             "ALTER FUNCTION one() RENAME TO uno", "CREATE TYPE pair AS (a integer, b integer)", "DROP TYPE pair",
             "TRUNCATE other", "DROP TABLE other")


@pytest.fixture
def prepared(items):
    """The calls were made in this session; an index of them is on an expression with a function of its own."""
    items.execute("CREATE SCHEMA own")
    items.execute("CREATE FUNCTION own.first(v vector) RETURNS vector(1) IMMUTABLE STRICT LANGUAGE plpgsql AS "
                  "$$ BEGIN RETURN public.subvector(v, 1, 1); END $$")
    items.execute("CREATE TABLE firsts AS SELECT * FROM items LIMIT 50")
    items.execute("CREATE INDEX of_first ON firsts USING faiss ((own.first(embedding)::vector(1))) INCLUDE (id)")
    for call in CALLS:
        items.execute(call)
    return items


def parses(db):
    """How many queries PostgreSQL parses for the calls."""
    seen = []

    def note(diagnostic):
        if diagnostic.message_primary.startswith("parse tree"):
            seen.append(1)

    db.add_notice_handler(note)
    with settings(db, debug_print_parse="on", client_min_messages="log"):
        seen.clear()
        for call in CALLS:
            db.execute(call)
        count = len(seen)
    db.remove_notice_handler(note)
    return count


def test_changes_elsewhere_leave_prepared_queries_alone(cluster, database, prepared):
    prepared.prepare_threshold = None
    assert parses(prepared) == len(CALLS), "each call is parsed, and nothing else"
    with cluster.connect(database) as other:
        for statement in UNRELATED:
            other.execute(statement)
            assert parses(prepared) == len(CALLS), statement
    for statement in UNRELATED[:6]:
        prepared.execute(statement)
        assert parses(prepared) == len(CALLS), statement


def test_what_prepared_queries_name_may_change(cluster, database, prepared):
    """After each change the calls answer as they do in a session that has prepared nothing."""
    def outcome(db):
        return [answer_or_error(db, call) for call in CALLS]

    with cluster.connect(database) as other:
        for statement in ("ALTER TABLE items RENAME COLUMN embedding TO e", "ALTER TABLE items ALTER id TYPE integer",
                          "REINDEX INDEX CONCURRENTLY built", "ALTER INDEX built SET (search = 'nprobe=1')",
                          "ALTER FUNCTION own.first RENAME TO head", "ALTER SCHEMA own RENAME TO theirs",
                          "ALTER FUNCTION theirs.head SET SCHEMA public", "DROP INDEX built",
                          "CREATE INDEX built ON items USING faiss (e vector_ip_ops)", "ALTER TABLE firsts SET SCHEMA theirs",
                          "ALTER TABLE items SET SCHEMA theirs", "ALTER EXTENSION vekter SET SCHEMA theirs"):
            other.execute(statement)
            for db in (prepared, other):
                db.execute("SET search_path = public, theirs")
            with cluster.connect(database) as fresh:
                fresh.execute("SET search_path = public, theirs")
                expected = outcome(fresh)
            assert outcome(prepared) == expected, statement
            errors = [answer for answer in expected if isinstance(answer, str)]
            assert len(errors) == (4 if statement == "DROP INDEX built" else 1 if "EXTENSION" in statement else 0), errors


def answer_or_error(db, call):
    try:
        return db.execute(call).fetchall()
    except psycopg.Error as error:
        return error.sqlstate


# -- rebuilds -------------------------------------------------------------------------------------------------------

def test_a_rebuild_and_what_a_cancelled_one_leaves_disturb_nobody(cluster, database, items):
    """While the new index is there, and for good where the rebuild was cancelled."""
    expected = items.execute(f"SELECT * FROM knn('items', '{TEXT}', 3)").fetchall()

    def rebuild():
        with cluster.connect(database, application_name="rebuild") as db:
            try:
                db.execute("REINDEX INDEX CONCURRENTLY built")
            except psycopg.errors.QueryCanceled:
                pass

    thread = threading.Thread(target=rebuild)
    with cluster.connect(database) as writer:
        writer.execute("BEGIN")
        writer.execute("LOCK TABLE items IN ROW EXCLUSIVE MODE")
        thread.start()
        try:
            wait_until(lambda: items.execute("SELECT to_regclass('built_ccnew')").fetchone() != (None,), "the new index")
            for _ in range(2):
                assert items.execute(f"SELECT * FROM knn('items', '{TEXT}', 3)").fetchall() == expected
                assert items.execute("SELECT rows_indexed FROM vekter_index_stats('items')").fetchall() == [(ROWS,)]
                items.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'rebuild'")
                thread.join(60)
        finally:
            writer.execute("ROLLBACK")
    assert not thread.is_alive()
    assert items.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'built_ccnew'::regclass").fetchone() == (False,)


def test_indexes_that_come_and_go_are_no_error(cluster, database, items):
    """Rebuilds one after the other: each call finds an index that stays until it has ended."""
    text = f"'{TEXT}'"
    calls = (f"SELECT id FROM knn('items', {text}, 3, 'nprobe=32')", f"SELECT id FROM knn_within('items', {text}, 1e9, 3)",
             f"SELECT id FROM knn_batch('items', ARRAY[{text}]::vector[], 3)",
             "SELECT rows_indexed FROM vekter_index_stats('items')", "SELECT id FROM knn_like('items', 3, 3)")
    expected = [items.execute(call).fetchall() for call in calls]
    is_over, failures = threading.Event(), []

    def ask():
        with cluster.connect(database) as db:
            while not is_over.is_set():
                try:
                    assert [db.execute(call).fetchall() for call in calls] == expected
                except Exception as failure:
                    failures.append(failure)

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(8):
            items.execute("REINDEX INDEX CONCURRENTLY built")
            items.execute("CREATE INDEX CONCURRENTLY anew ON items USING faiss (embedding) WITH (factory = 'IVF32,Flat', "
                          "search = 'nprobe=32')")
            items.execute("DROP INDEX CONCURRENTLY built")
            items.execute("ALTER INDEX anew RENAME TO built")
    finally:
        is_over.set()
        for asker in askers:
            asker.join(60)
    assert not failures
