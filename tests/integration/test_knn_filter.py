"""knn(filter => ...): the nearest of the rows that pass, as a plain query with that condition would give them."""

import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from oracle import assert_nearest, nearest_sql, without_index

ROWS, DIMENSIONS = 4_000, 16
VECTORS = clustered(ROWS + 5, DIMENSIONS, seed=131)
QUERIES = VECTORS[ROWS:]
QUERY = QUERIES[0]
KNN = "SELECT * FROM knn('{name}', '{query}', {k}, filter => %s)"

# kind: 0 to 3 for 1/2, 1/4, 1/8 ... of the rows; NULL for a few.
CONDITIONS = ("kind = 'k0'", "kind = 'k4'", "kind = 'k9'", "kind IN ('k2', 'k7')", "kind = 'nothing'", "kind IS NULL",
              "NOT (kind = 'k0')", "price < 40", "price < 40 AND kind = 'k1'", "price < 3 OR kind = 'k8'",
              "title LIKE '%%7'", "id % 5 = 0", "true", "false", "NULL", "NULL::boolean",
              "id IN (SELECT id FROM chosen)", "EXISTS (SELECT FROM chosen c WHERE c.id = items.id)",
              "kind = 'k1' -- said in a comment", "kind = 'k1' /* and in another */ ", "(kind = 'k1') OR (kind = 'k3')")


def make_items(db):
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), kind text, price integer, "
               "title text) WITH (fillfactor = 70)")
    copy_vectors(db, "items", VECTORS[:ROWS])
    db.execute("UPDATE items SET kind = CASE WHEN id % 500 <> 0 THEN 'k' || floor(-ln((id * 7919 % 4000 + 1) / 4001.0)) "
               "END, price = id * 31 % 1000, title = 'title ' || id")
    db.execute("CREATE TABLE chosen AS SELECT id FROM items WHERE id % 11 = 3")
    db.execute("CREATE INDEX ON items (kind)")
    db.execute("CREATE INDEX ON items (price)")
    db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    db.execute("VACUUM ANALYZE items")


def knn(db, condition, k=10, query=QUERY, name="items"):
    return db.execute(KNN.format(name=name, query=to_text(query), k=k), [condition]).fetchall()


def exact(db, condition, query=QUERY):
    return without_index(db, nearest_sql("items", query, None, where=f"({condition})".replace("%%", "%")
                                         if "--" not in condition else f"({condition}\n)"))


def refusal(db, condition, name="items"):
    """The error that a filter ends with: (sqlstate, message, hint)."""
    with pytest.raises(psycopg.Error) as error:
        knn(db, condition, name=name)
    diag = error.value.diag
    return diag.sqlstate, diag.message_primary, diag.message_hint or ""


# -- answers --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("condition", CONDITIONS)
def test_exact_index_gives_the_nearest_rows_that_pass(items, condition):
    condition = condition.replace("%%", "%")
    for k in (1, 10, 300):
        for query in QUERIES[:2]:
            assert_nearest(knn(items, condition, k, query), exact(items, condition, query), k)


@pytest.mark.parametrize("factory", ("HNSW16", "IVF32,Flat", "IVF32,PQ4x4fs,RFlat", "SQ8", "IVF32,PQ4x4fs"))
def test_k_rows_come_from_every_family_whenever_k_rows_pass(items, factory):
    items.execute("DROP INDEX built")
    items.execute(f"CREATE INDEX built ON items USING faiss (embedding) WITH (factory = '{factory}')")
    for condition in ("kind = 'k0'", "kind = 'k2'", "kind = 'k5'", "price < 40", "id % 2 = 0"):
        right = found = 0
        for query in QUERIES:
            own = exact(items, condition, query)
            got = knn(items, condition, 10, query)
            distance = dict(own)
            assert len(got) == min(10, len(own))
            assert [d for _, d in got] == [distance[id] for id, _ in got], "a row that does not pass, or not its distance"
            assert [d for _, d in got] == sorted(d for _, d in got)
            right += len({id for id, _ in got} & {id for id, _ in own[:10]})
            found += len(got)
        assert right >= 0.8 * found, f"{condition}: {right} of {found}"


def test_an_index_on_the_columns_of_the_filter_is_read(items):
    scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'items_kind_idx'"
    [before] = items.execute(scans).fetchone()
    for condition in ("kind = 'k3'", "kind = 'k7'"):
        knn(items, condition)
    items.execute("SELECT pg_stat_force_next_flush()")
    items.execute("SELECT pg_stat_clear_snapshot()")
    [after] = items.execute(scans).fetchone()
    assert after == before + 2


def test_no_filter_is_the_same_as_none_at_all(items):
    assert knn(items, None) == items.execute(f"SELECT * FROM knn('items', '{to_text(QUERY)}')").fetchall()


def test_changes_are_seen_at_once(items):
    """Updated rows too, whose versions hang on the index entries of older ones, and rows of one's own transaction."""
    items.execute("UPDATE items SET title = 'new' WHERE id % 3 = 0")
    for condition in ("kind = 'k1'", "kind = 'k3'", "title = 'new'", "title = 'new' AND kind = 'k2'"):
        assert_nearest(knn(items, condition), exact(items, condition), 10)
    with items.transaction(force_rollback=True):
        items.execute("UPDATE items SET kind = 'moved' WHERE price < 50")
        items.execute("DELETE FROM items WHERE kind = 'k3' AND id % 2 = 0")
        copy_vectors(items, "items", QUERIES, ids=range(ROWS, ROWS + 5))
        items.execute("UPDATE items SET kind = 'fresh' WHERE id >= 4000")
        for condition in ("kind = 'moved'", "kind = 'k3'", "kind = 'fresh'", "kind = 'k1'"):
            assert_nearest(knn(items, condition), exact(items, condition), 10)
        assert len(knn(items, "kind = 'fresh'")) == 5
    items.execute("UPDATE items SET title = 'newer' WHERE kind = 'k2'")
    assert_nearest(knn(items, "kind = 'k2'"), exact(items, "kind = 'k2'"), 10)
    items.execute("DELETE FROM items WHERE kind = 'k2' AND id % 2 = 0")
    items.execute("VACUUM items")
    assert_nearest(knn(items, "kind = 'k2'", 100), exact(items, "kind = 'k2'"), 100)


def test_filter_of_the_same_text_follows_the_table(items):
    before = knn(items, "kind = 'k1'")
    items.execute("ALTER TABLE items RENAME COLUMN kind TO sort")
    assert refusal(items, "kind = 'k1'")[0] == "42703"
    assert knn(items, "sort = 'k1'") == before
    items.execute("ALTER TABLE items ADD kind text DEFAULT 'k1'")
    assert len(knn(items, "kind = 'k1'", ROWS)) == ROWS


def test_a_volatile_condition_is_asked_once_a_row(items):
    items.execute("CREATE SEQUENCE asked")
    got = knn(items, "nextval('asked') > 0", 10)
    assert_nearest(got, exact(items, "true"), 10)
    assert items.execute("SELECT last_value FROM asked").fetchone()[0] <= ROWS


def test_a_search_inside_the_filter_is_not_confined_to_what_passes(items):
    """The function looks for neighbours through the index that the query around it is searching among a few rows."""
    text = to_text(QUERIES[1])
    order = f"ORDER BY embedding <-> '{text}' LIMIT 3"
    items.execute(f"CREATE FUNCTION inner_search(bigint) RETURNS bigint[] STABLE LANGUAGE sql AS "
                  f"$$ SELECT array(SELECT id FROM items {order}) $$ SET enable_seqscan = off SET enable_sort = off")
    expected = [id for id, _ in exact(items, "true", QUERIES[1])[:3]]
    for condition in ("kind = 'k3' AND inner_search(id) = ARRAY{}::bigint[]", "kind = 'k0' AND inner_search(id) = ARRAY{}::bigint[]"):
        condition = condition.format(expected)
        assert_nearest(knn(items, condition), exact(items, condition.split(" AND ")[0]), 10)


def test_a_new_table_that_was_never_analysed_is_filtered(db):
    db.execute("CREATE TABLE fresh (id bigint PRIMARY KEY, kind integer, embedding vector(2))")
    db.execute("CREATE INDEX ON fresh (kind)")
    db.execute("CREATE INDEX ON fresh USING faiss (embedding)")
    db.execute("INSERT INTO fresh SELECT i, i % 50, ARRAY[i, 0]::vector FROM generate_series(1, 2000) i")
    got = db.execute("SELECT id FROM knn('fresh', '[1000.2, 0]', 3, filter => 'kind = 7')").fetchall()
    assert got == [(1007,), (957,), (1057,)]


def test_partial_index_and_filter_both_hold(items):
    items.execute("DROP INDEX built")
    items.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat') WHERE price < 500")
    for condition in ("kind = 'k0'", "kind = 'k3'", "price > 400"):
        assert_nearest(knn(items, condition), exact(items, f"price < 500 AND ({condition})"), 10)


def test_included_id_is_what_comes_back(items):
    items.execute("DROP INDEX built")
    items.execute("CREATE INDEX built ON items USING faiss (embedding) INCLUDE (price) WITH (factory = 'Flat')")
    rows = items.execute(f"SELECT price FROM items WHERE kind = 'k1' ORDER BY embedding <-> '{to_text(QUERY)}' LIMIT 5")
    assert [id for id, _ in knn(items, "kind = 'k1'", 5)] == [price for price, in rows]


def test_partitioned_table_is_filtered(db):
    db.execute("CREATE TABLE parts (id bigint PRIMARY KEY, kind text, embedding vector(2)) PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE parts_0 PARTITION OF parts FOR VALUES FROM (0) TO (500)")
    db.execute("CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (500) TO (1000)")
    db.execute("INSERT INTO parts SELECT i, 'k' || i % 4, ARRAY[i, 0]::vector FROM generate_series(0, 999) i")
    db.execute("CREATE INDEX ON parts (kind)")
    db.execute("CREATE INDEX built ON parts USING faiss (embedding) INCLUDE (id)")
    db.execute("ANALYZE parts")
    got = db.execute("SELECT id FROM knn('parts', '[499.6,0]', 4, filter => 'kind = ''k1''')").fetchall()
    assert got == [(501,), (497,), (505,), (493,)]


def test_empty_table_has_no_rows_that_pass(db):
    db.execute("CREATE TABLE empty (id bigint PRIMARY KEY, kind text, embedding vector(2))")
    db.execute("CREATE INDEX ON empty (kind)")
    db.execute("CREATE INDEX ON empty USING faiss (embedding)")
    assert db.execute("SELECT * FROM knn('empty', '[1,2]', filter => 'kind = ''a''')").fetchall() == []


def test_odd_names_are_names(db):
    db.execute('CREATE SCHEMA "odd "" schema"')
    db.execute('CREATE TABLE "odd "" schema"."Ta;ble" (id bigint PRIMARY KEY, "se""lect; --" text, embedding vector(2))')
    db.execute("""INSERT INTO "odd "" schema"."Ta;ble" VALUES (1, 'a', '[1,1]'), (2, '''; --', '[2,2]')""")
    db.execute('CREATE INDEX "in dex" ON "odd "" schema"."Ta;ble" USING faiss (embedding)')
    db.execute("""SET search_path = 'odd " schema', public""")
    got = db.execute("SELECT id FROM knn('\"Ta;ble\"', '[1,1]', filter => %s)",
                     ['''"se""lect; --" = '\'\'; --' AND "Ta;ble".id > 0''']).fetchall()
    assert got == [(2,)]


# -- what is no condition -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("condition, sqlstate", [
    ("", "42601"), ("   ", "42601"), ("-- nothing", "42601"), ("kind =", "42601"), ("kind = 'k1", "42601"),
    ("kind = 'k1'; DROP TABLE items", "42601"), ("true;", "42601"), ("; true", "42601"),
    ("true) OR (true", "42601"), ("true) ORDER BY 1 --", "42601"), ("true)) --", "42601"),
    ("true) UNION SELECT 1, 2 WHERE (true", "42601"), ("true UNION SELECT true", "42601"),
    ("true FROM pg_authid", "42601"), ("true WHERE true", "42601"), ("true INTO stolen", "42601"),
    ("true LIMIT 1", "42601"), ("true OFFSET 1", "42601"), ("true ORDER BY 1", "42601"), ("true FOR UPDATE", "42601"),
    ("true GROUP BY id", "42601"), ("true HAVING true", "42601"), ("DISTINCT true", "42601"), ("ALL true", "42601"),
    ("true AS condition", "42601"), ("true condition", "42601"), ("true, true", "42601"), ("*", "42601"),
    ("true /* open", "42601"), ("$$ open", "42601"), ("SELECT true", "42601"), ("WITH w AS (SELECT 1) SELECT true", "42601"),
    ("true WINDOW w AS ()", "42601"), ("true /* ) */ ) /* ( */", "42601"), ("E'\\", "42601"),
    ("nothing = 1", "42703"), ("other.kind = 'k1'", "42P01"), ("kind = 1", "42883"), ("no_function(id)", "42883"),
    ("id", "42804"), ("'maybe'", "22P02"), ("price = 'ten'", "22P02"), ("items", "42804"), ("items.*", "42804"),
    ("$1 IS NULL", "42P02"), ("$2 > 0", "42P02"), ("count(*) > 1", "42803"), ("row_number() OVER () = 1", "42P20"),
    ("generate_series(1, 2) > 1", "0A000"), ("unnest(ARRAY[true])", "0A000"), ("(SELECT 1, 2)", "42601"),
    ("EXISTS (DELETE FROM items)", "42601"), ("EXISTS (WITH d AS (DELETE FROM items RETURNING 1) SELECT FROM d)", "0A000"),
])
def test_what_is_not_one_condition_is_refused_with_postgres_own_error(items, condition, sqlstate):
    found, message, hint = refusal(items, condition)
    assert found == sqlstate, message
    assert "condition on the columns of" in hint
    assert len(knn(items, "true", ROWS)) == ROWS, "and nothing happened to the table"


def test_a_zero_byte_cannot_even_be_sent(items):
    with pytest.raises((psycopg.Error, ValueError)):
        knn(items, "true\0")


def test_postgres_own_hint_is_kept(items):
    assert "items.price" in refusal(items, "prise = 1")[2]


# -- whose rights ---------------------------------------------------------------------------------------------------

def test_filter_reads_no_column_that_the_caller_may_not_read(items):
    items.execute("DO $$ BEGIN CREATE ROLE reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    items.execute("GRANT SELECT (id, embedding, price) ON items TO reader")
    items.execute("SET ROLE reader")
    assert_nearest(knn(items, "price < 40"), exact(items, "price < 40"), 10)
    for condition in ("kind = 'k1'", "price < 40 OR kind = 'k1'", "id IN (SELECT id FROM chosen)"):
        sqlstate, _, _ = refusal(items, condition)
        assert sqlstate == "42501"
    items.execute("RESET ROLE")
    assert len(knn(items, "kind = 'k1'")) == 10


def test_row_level_security_holds_under_a_filter(items):
    items.execute("DO $$ BEGIN CREATE ROLE reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    items.execute("GRANT SELECT ON items TO reader")
    items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    items.execute("CREATE POLICY own ON items FOR SELECT TO reader USING (id % 2 = 0)")
    everything = exact(items, "kind = 'k1'")
    assert_nearest(knn(items, "kind = 'k1'"), everything, 10)
    items.execute("SET ROLE reader")
    even = [(id, d) for id, d in everything if id % 2 == 0]
    assert_nearest(knn(items, "kind = 'k1'", 50), even, 50)
    items.execute("RESET ROLE")
    assert_nearest(knn(items, "kind = 'k1'"), everything, 10)


def test_a_leaky_function_is_not_shown_rows_that_a_policy_hides(items):
    items.execute("DO $$ BEGIN CREATE ROLE reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    items.execute("GRANT SELECT ON items TO reader")
    items.execute("CREATE FUNCTION leak(id bigint) RETURNS boolean COST 0.0001 LANGUAGE plpgsql AS "
                  "$$ BEGIN IF id % 2 = 1 THEN RAISE 'leaked %', id; END IF; RETURN true; END $$")
    items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    items.execute("CREATE POLICY own ON items FOR SELECT TO reader USING (id % 2 = 0)")
    items.execute("SET ROLE reader")
    for condition in ("leak(id)", "kind = 'k1' AND leak(id)"):
        assert len(knn(items, condition)) == 10
