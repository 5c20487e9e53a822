"""knn_like(), knn_within() and knn_rows(): neighbours of a row, within a radius, as whole rows."""

import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from oracle import OPERATORS, assert_nearest, nearest_sql, plan_nodes, without_index

ROWS, DIMENSIONS = 3_000, 16
VECTORS = clustered(ROWS + 10, DIMENSIONS, seed=141)
QUERY = VECTORS[ROWS]
TEXT = to_text(QUERY)


def make_items(db):
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), gone text, key uuid, kind text)")
    copy_vectors(db, "items", VECTORS[:ROWS])
    db.execute("UPDATE items SET key = gen_random_uuid(), kind = 'k' || id % 9")
    db.execute("ALTER TABLE items DROP COLUMN gone")
    db.execute("CREATE INDEX ON items (kind)")
    db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    db.execute("VACUUM ANALYZE items")


def fetch(db, sql, *arguments):
    return db.execute(sql, arguments).fetchall()


def exact(db, query=QUERY, metric="l2", where="true"):
    return without_index(db, nearest_sql("items", query, None, metric, where=where))


def sqlstate(db, sql, *arguments):
    with pytest.raises(psycopg.Error) as error:
        db.execute(sql, arguments)
    return error.value.sqlstate


# -- knn_like -------------------------------------------------------------------------------------------------------

def test_like_gives_the_neighbours_of_a_row_without_itself(items):
    for id in (0, 7, 2999):
        others = exact(items, VECTORS[id], where=f"id <> {id}")
        assert_nearest(fetch(items, "SELECT * FROM knn_like('items', %s)", id), others, 10)
        assert_nearest(fetch(items, "SELECT * FROM knn_like('built', %s, 100)", id), others, 100)
        of_kind = exact(items, VECTORS[id], where=f"id <> {id} AND kind = 'k1'")
        assert_nearest(fetch(items, "SELECT * FROM knn_like('items', %s, 20, filter => 'kind = ''k1''')", id), of_kind, 20)


def test_like_keeps_another_row_with_the_same_vector(items):
    copy_vectors(items, "items", VECTORS[5:6], ids=[70000])
    assert fetch(items, "SELECT * FROM knn_like('items', 5, 1)") == [(70000, 0.0)]


def test_like_of_a_row_that_is_not_there_or_not_alone_is_an_error(items):
    assert sqlstate(items, "SELECT * FROM knn_like('items', 99999)") == "P0002"
    items.execute("INSERT INTO items VALUES (99999, NULL)")
    assert sqlstate(items, "SELECT * FROM knn_like('items', 99999)") == "22004"
    items.execute("CREATE TABLE twins (id bigint, embedding vector(2))")
    items.execute("INSERT INTO twins VALUES (1, '[1,1]'), (1, '[2,2]'), (2, '[3,3]')")
    items.execute("CREATE INDEX ON twins USING faiss (embedding) INCLUDE (id)")
    assert sqlstate(items, "SELECT * FROM knn_like('twins', 1)") == "21000"
    assert len(fetch(items, "SELECT * FROM knn_like('twins', 2)")) == 2


def test_like_shows_no_row_that_a_policy_hides(items):
    items.execute("DO $$ BEGIN CREATE ROLE reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    items.execute("GRANT SELECT ON items TO reader")
    items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    items.execute("CREATE POLICY own ON items FOR SELECT TO reader USING (id % 2 = 0)")
    items.execute("SET ROLE reader")
    assert sqlstate(items, "SELECT * FROM knn_like('items', 7)") == "P0002"
    assert all(id % 2 == 0 for id, _ in fetch(items, "SELECT * FROM knn_like('items', 8, 50)"))
    items.execute("RESET ROLE")


# -- knn_within -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("factory, metric", [
    (f, m) for f in ("Flat", "IVF16,Flat", "HNSW16", "SQ8") for m in OPERATORS if (f, m) != ("SQ8", "l1")])
def test_within_gives_every_row_up_to_the_radius(items, metric, factory):
    items.execute("DROP INDEX built")
    items.execute(f"CREATE INDEX built ON items USING faiss (embedding vector_{metric}_ops) WITH (factory = '{factory}')")
    rows = exact(items, metric=metric)
    for place in (0, 9, 500, ROWS - 1):
        radius = rows[place][1]
        inside = [(id, d) for id, d in rows if d <= radius]
        got = fetch(items, f"SELECT * FROM knn_within('items', '{TEXT}', %s)", radius)
        assert [d for _, d in got] == sorted(d for _, d in got)
        assert set(got) <= set(inside)
        assert len(got) >= (len(inside) if factory in ("Flat", "SQ8") else 0.8 * len(inside))


def test_within_has_the_radius_itself_inside_and_nothing_below_the_nearest(items):
    rows = exact(items)
    nearest = rows[0][1]
    assert fetch(items, f"SELECT * FROM knn_within('items', '{TEXT}', %s)", nearest) == rows[:1]
    for radius in (nearest * 0.999, 0.0, -1.0, float("-inf")):
        assert fetch(items, f"SELECT * FROM knn_within('items', '{TEXT}', %s)", radius) == []
    assert len(fetch(items, f"SELECT * FROM knn_within('items', '{TEXT}', 'Infinity')")) == ROWS


def test_within_takes_a_number_of_rows_and_a_filter(items):
    rows = exact(items, where="kind = 'k4'")
    radius = rows[40][1]
    assert_nearest(fetch(items, f"SELECT * FROM knn_within('items', '{TEXT}', %s, 7, filter => 'kind = ''k4''')", radius),
                   rows, 7)
    got = fetch(items, f"SELECT * FROM knn_within('items', '{TEXT}', %s, filter => 'kind = ''k4''')", radius)
    assert_nearest(got, rows[:41], 41)


def test_within_refuses_what_is_no_radius(items):
    assert sqlstate(items, f"SELECT * FROM knn_within('items', '{TEXT}', 'NaN')") == "22023"
    assert sqlstate(items, f"SELECT * FROM knn_within('items', '{TEXT}', 1, 0)") == "22023"


def test_where_distance_below_a_bound_is_right_with_a_limit_and_without(items):
    rows = exact(items)
    bound = rows[25][1]
    sql = f"SELECT id, embedding <-> '{TEXT}' FROM items WHERE embedding <-> '{TEXT}' < {bound!r} ORDER BY embedding <-> '{TEXT}'"
    assert_nearest(fetch(items, sql), rows[:25], 25)
    items.execute("SET enable_seqscan = off")
    items.execute("SET enable_sort = off")
    assert "built" in {node.get("Index Name") for node in plan_nodes(items, sql + " LIMIT 10")}
    assert_nearest(fetch(items, sql + " LIMIT 10"), rows[:25], 10)
    assert_nearest(fetch(items, sql + " LIMIT 100"), rows[:25], 100)
    assert_nearest(fetch(items, sql), rows[:25], 25)


# -- knn_rows -------------------------------------------------------------------------------------------------------

def test_rows_come_whole_whatever_their_key(items):
    items.execute("ALTER TABLE items DROP CONSTRAINT items_pkey, ADD PRIMARY KEY (key, kind)")
    got = fetch(items, f"SELECT (item).id, distance, (item).key = i.key AND (item).kind = i.kind, pg_typeof(item)::text "
                       f"FROM knn_rows(NULL::items, '{TEXT}', 12) JOIN items i ON i.id = (item).id ORDER BY distance")
    assert_nearest([(id, distance) for id, distance, _, _ in got], exact(items), 12)
    assert {(same, kind) for _, _, same, kind in got} == {(True, "items")}
    star = items.execute(f"SELECT (item).*, distance FROM knn_rows(NULL::items, '{TEXT}')")
    assert [c.name for c in star.description] == ["id", "embedding", "key", "kind", "distance"]
    assert len(star.fetchall()) == 10


def test_rows_follow_a_change_of_the_table(items):
    sql = f"SELECT (item).* FROM knn_rows(NULL::items, '{TEXT}', 1)"
    before = fetch(items, sql)[0]
    items.execute("ALTER TABLE items ADD added integer DEFAULT 5")
    assert fetch(items, sql)[0] == (*before, 5)
    items.execute("ALTER TABLE items DROP COLUMN kind")
    assert fetch(items, sql)[0] == (*before[:3], 5)


def test_rows_take_a_filter_and_an_index_of_the_table(items):
    sql = f"SELECT (item).id, distance FROM knn_rows(NULL::items, '{TEXT}', 9, %s::regclass, filter => 'kind = ''k2''')"
    assert_nearest(fetch(items, sql, "built"), exact(items, where="kind = 'k2'"), 9)
    items.execute("CREATE INDEX second ON items USING faiss (embedding vector_ip_ops)")
    assert sqlstate(items, sql, None) == "42725" or sqlstate(items, sql, None) == "42P08"
    assert_nearest(fetch(items, sql, "built"), exact(items, where="kind = 'k2'"), 9)
    items.execute("CREATE TABLE others (LIKE items)")
    items.execute("CREATE INDEX other ON others USING faiss (embedding)")
    assert sqlstate(items, sql, "other") == "22023"


@pytest.mark.parametrize("of", ("NULL::integer", "NULL::pair", "NULL::a_view", "ROW(1)", "NULL::unindexed"))
def test_rows_of_what_is_no_indexed_table_are_refused(items, of):
    items.execute("CREATE TYPE pair AS (a integer, b integer)")
    items.execute("CREATE VIEW a_view AS SELECT * FROM items")
    items.execute("CREATE TABLE unindexed (a integer)")
    assert sqlstate(items, f"SELECT * FROM knn_rows({of}, '{TEXT}')") not in ("XX000", "00000")


def test_rows_obey_privileges_and_policies(items):
    items.execute("DO $$ BEGIN CREATE ROLE reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    items.execute("GRANT SELECT (id, embedding) ON items TO reader")
    items.execute("SET ROLE reader")
    assert sqlstate(items, f"SELECT * FROM knn_rows(NULL::items, '{TEXT}')") == "42501", "a whole row has all columns"
    items.execute("RESET ROLE")
    items.execute("GRANT SELECT ON items TO reader")
    items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    items.execute("CREATE POLICY own ON items FOR SELECT TO reader USING (id % 2 = 0)")
    items.execute("SET ROLE reader")
    ids = fetch(items, f"SELECT (item).id FROM knn_rows(NULL::items, '{TEXT}', 50)")
    assert len(ids) == 50 and all(id % 2 == 0 for id, in ids)
    items.execute("RESET ROLE")


def test_rows_of_a_partitioned_table_have_its_type(db):
    db.execute('CREATE TABLE "Odd table" (id integer, kind text, embedding vector(2), PRIMARY KEY (id)) PARTITION BY RANGE (id)')
    db.execute('CREATE TABLE part_0 PARTITION OF "Odd table" FOR VALUES FROM (0) TO (50)')
    db.execute("CREATE TABLE part_1 (embedding vector(2), kind text, id integer NOT NULL)")
    db.execute('ALTER TABLE "Odd table" ATTACH PARTITION part_1 FOR VALUES FROM (50) TO (100)')
    db.execute("""INSERT INTO "Odd table" SELECT i, 'k' || i % 2, ARRAY[i, 0]::vector FROM generate_series(0, 99) i""")
    db.execute('CREATE INDEX built ON "Odd table" USING faiss (embedding)')
    got = fetch(db, """SELECT (item).id, (item).kind, distance FROM knn_rows(NULL::"Odd table", '[49.75, 0]', 3)""")
    assert got == [(50, "k0", 0.25), (49, "k1", 0.75), (51, "k1", 1.25)]


# -- all of them ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("call", (
    "knn_like(NULL, 1)", "knn_like('items', NULL)", "knn_like('items', 1, NULL)",
    f"knn_within(NULL, '{TEXT}', 1)", "knn_within('items', NULL, 1)", f"knn_within('items', '{TEXT}', NULL)",
    "knn_rows(NULL::items, NULL)", f"knn_rows(NULL::items, '{TEXT}', NULL)"))
def test_null_arguments_give_no_rows(items, call):
    assert fetch(items, f"SELECT * FROM {call}") == []


@pytest.mark.parametrize("call, state", (
    ("knn_like('items', 1, 0)", "22023"), (f"knn_rows(NULL::items, '{TEXT}', -1)", "22023"),
    ("knn_within('items', '[1,2]', 1)", "22000"), ("knn_rows(NULL::items, '[1,2]')", "22000"),
    ("knn_like('items', 1, filter => 'true; true')", "42601"),
    (f"knn_within('items', '{TEXT}', 1, filter => 'kind')", "42804"),
    (f"knn_within('items', '{TEXT}', 1, search => 'nonsense=1')", "22023"),
    (f"knn_rows(NULL::items, '{TEXT}', filter => '$1 IS NULL')", "42P02")))
def test_wrong_arguments_are_refused(items, call, state):
    assert sqlstate(items, f"SELECT * FROM {call}") == state


def test_an_empty_table_has_no_neighbours(db):
    db.execute("CREATE TABLE empty (id bigint PRIMARY KEY, embedding vector(2))")
    db.execute("CREATE INDEX ON empty USING faiss (embedding)")
    assert fetch(db, "SELECT * FROM knn_within('empty', '[1,2]', 10)") == []
    assert fetch(db, "SELECT * FROM knn_rows(NULL::empty, '[1,2]')") == []
    assert sqlstate(db, "SELECT * FROM knn_like('empty', 1)") == "P0002"


def test_partial_index_and_included_id_hold_for_each(items):
    items.execute("DROP INDEX built")
    items.execute("CREATE INDEX built ON items USING faiss (embedding) INCLUDE (id) WITH (factory = 'Flat') WHERE kind = 'k3'")
    inside = exact(items, where="kind = 'k3'")
    assert_nearest(fetch(items, f"SELECT * FROM knn_within('items', '{TEXT}', %s)", inside[20][1]), inside[:21], 21)
    assert_nearest(fetch(items, f"SELECT (item).id, distance FROM knn_rows(NULL::items, '{TEXT}')"), inside, 10)
    others = exact(items, VECTORS[5], where="kind = 'k3' AND id <> 5")
    assert_nearest(fetch(items, "SELECT * FROM knn_like('items', 5)"), others, 10)
