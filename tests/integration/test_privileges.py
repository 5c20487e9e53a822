"""knn() shows nobody a row or a column that a plain SELECT would not; vekter_create_index makes what one may make."""

import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from oracle import ONLY_INDEX, apply

VECTORS = clustered(310, 8, seed=121)
QUERY = to_text(VECTORS[-1])
KNN = f"SELECT id, distance FROM knn('items', '{QUERY}', 300)"


@pytest.fixture
def items(db):
    """300 rows, two owners; the roles `reader` (no rights) and `owner` (of the table)."""
    for role in ("reader", "owner"):
        db.execute(f"DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    db.execute("CREATE TABLE items (id bigint PRIMARY KEY, embedding vector(8), who text DEFAULT 'public')")
    copy_vectors(db, "items", VECTORS[:300])
    db.execute("UPDATE items SET who = 'reader' WHERE id % 3 = 0")
    db.execute("ALTER TABLE items OWNER TO owner")
    db.execute("CREATE INDEX built ON items USING faiss (embedding) INCLUDE (id)")
    yield db
    db.execute("RESET ROLE")


def count(db, sql=KNN):
    return len(db.execute(sql).fetchall())


@pytest.mark.parametrize("name", ("items", "built"))
def test_without_select_nothing_is_shown(items, name):
    items.execute("SET ROLE reader")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        items.execute(KNN.replace("items", name))


def test_with_select_everything_is_shown(items):
    items.execute("GRANT SELECT ON items TO reader")
    items.execute("SET ROLE reader")
    assert count(items) == 300


@pytest.mark.parametrize("columns, allowed", [("id", False), ("embedding", False), ("who", False),
                                              ("id, embedding", True)])
def test_column_privileges_are_those_of_the_id_and_the_vector(items, columns, allowed):
    items.execute(f"GRANT SELECT ({columns}) ON items TO reader")
    items.execute("SET ROLE reader")
    if allowed:
        assert count(items) == 300
    else:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            items.execute(KNN)


def test_row_level_security_of_the_caller_is_respected(items):
    items.execute("GRANT SELECT ON items TO reader")
    items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    items.execute("CREATE POLICY own ON items FOR SELECT TO reader USING (who = current_user)")
    assert count(items) == 300, "a superuser bypasses the policy"
    items.execute("SET ROLE reader")
    ids = [id for id, _ in items.execute(KNN).fetchall()]
    assert sorted(ids) == list(range(0, 300, 3))
    few = items.execute(f"SELECT id FROM knn('items', '{QUERY}', 20)").fetchall()
    assert [id for id, in few] == ids[:20], "hidden rows must not shorten the answer"
    with_order_by = items.execute(f"SELECT id FROM items ORDER BY embedding <-> '{QUERY}' LIMIT 20").fetchall()
    assert with_order_by == few
    items.execute("SET ROLE owner")
    assert count(items) == 300, "the owner bypasses the policy unless it is forced"
    items.execute("RESET ROLE")
    items.execute("ALTER TABLE items FORCE ROW LEVEL SECURITY")
    items.execute("SET ROLE owner")
    assert count(items) == 0


def test_policy_is_asked_again_after_a_change_of_role(items):
    """The counter-case of a cached plan: one session, two roles, two answers."""
    items.execute("GRANT SELECT ON items TO reader, owner")
    items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    items.execute("CREATE POLICY own ON items FOR SELECT TO reader USING (who = current_user)")
    for _ in range(3):
        items.execute("SET ROLE reader")
        assert count(items) == 100
        items.execute("SET ROLE owner")
        assert count(items) == 300


def test_search_path_of_the_caller_leads_knn_nowhere_else(items):
    """Objects in the caller's schemas do not stand in for the table, its columns' operators or the functions used."""
    items.execute("GRANT SELECT ON items TO reader")
    expected = items.execute(KNN).fetchall()
    items.execute("CREATE SCHEMA trap")
    items.execute("CREATE TABLE trap.items (id bigint, embedding vector(8))")
    items.execute("CREATE FUNCTION trap.l2_distance(vector, vector) RETURNS float8 LANGUAGE sql "
                  "AS 'SELECT 1.0::float8'")
    items.execute("CREATE OPERATOR trap.<-> (LEFTARG = vector, RIGHTARG = vector, FUNCTION = trap.l2_distance)")
    items.execute("SET search_path = trap, public")
    assert items.execute(f"SELECT id, distance FROM knn('public.items', '{QUERY}', 300)").fetchall() == expected
    items.execute("RESET search_path")


def test_function_of_a_policy_cannot_be_leaked_through_order(items):
    """A leaky WHERE function of the caller must not see hidden rows."""
    items.execute("GRANT SELECT ON items TO reader")
    items.execute("GRANT CREATE ON SCHEMA public TO reader")
    items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
    items.execute("CREATE POLICY own ON items FOR SELECT TO reader USING (who = current_user)")
    items.execute("SET ROLE reader")
    apply(items, ONLY_INDEX)
    seen = []
    items.add_notice_handler(lambda d: seen.append(int(d.message_primary)))
    items.execute("CREATE FUNCTION leak(i bigint) RETURNS bool COST 0.0000001 LANGUAGE plpgsql AS "
                  "$$ BEGIN RAISE NOTICE '%', i; RETURN true; END $$")
    items.execute(f"SELECT id FROM items WHERE leak(id) ORDER BY embedding <-> '{QUERY}' LIMIT 20").fetchall()
    assert seen and all(id % 3 == 0 for id in seen)


def test_create_index_needs_the_ownership_of_the_table(items):
    items.execute("GRANT ALL ON items TO reader")
    items.execute("GRANT CREATE ON SCHEMA public TO reader, owner")
    items.execute("SET ROLE reader")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        items.execute("SELECT vekter_create_index('items', 'id', 'embedding')")
    items.execute("SET ROLE owner")
    items.execute("SELECT vekter_create_index('items', 'id', 'embedding', name => 'second')")
    assert items.execute("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'second'").fetchone() == (
        "owner",)


def test_statistics_show_no_rows_and_need_no_more_than_the_table(items):
    items.execute("SET ROLE owner")
    assert items.execute("SELECT rows_indexed FROM vekter_index_stats('built')").fetchone() == (300,)


@pytest.mark.parametrize("call", ("vekter_compact('items')", "vekter_check('built')"))
def test_maintenance_is_for_the_owner_and_who_may_maintain_the_table(items, call):
    """Since PostgreSQL 17, ALL holds MAINTAIN."""
    has_maintain = items.info.server_version >= 170000
    items.execute("GRANT SELECT, INSERT ON items TO reader")
    items.execute("SET ROLE reader")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as refusal:
        items.execute(f"SELECT {call}")
    assert refusal.value.diag.message_primary == ("permission denied for index built" if has_maintain else
                                                  "must be owner of index built")
    items.execute("RESET ROLE")
    items.execute("GRANT ALL ON items TO reader")
    items.execute("SET ROLE reader")
    if has_maintain:
        items.execute(f"SELECT {call}")
    else:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            items.execute(f"SELECT {call}")
    items.execute("SET ROLE owner")
    items.execute(f"SELECT {call}")


def test_settings_may_be_changed_by_anyone(items):
    items.execute("SET ROLE reader")
    for name, value in (("vekter.nprobe", 5), ("vekter.ef_search", 50), ("vekter.k_factor", 2.5)):
        items.execute(f"SET {name} = {value}")
        assert float(items.execute(f"SHOW {name}").fetchone()[0]) == value
