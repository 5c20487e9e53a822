"""An error of PostgreSQL's keeps all of its fields in a session that has loaded vekter, and where it passes through vekter.

Oracle: the same statement in a session that has not loaded it.
"""

import psycopg
import pytest

FIELDS = ("severity_nonlocalized", "sqlstate", "message_primary", "message_detail", "message_hint", "statement_position",
          "internal_position", "internal_query", "context", "schema_name", "table_name", "column_name", "datatype_name",
          "constraint_name", "source_file", "source_line", "source_function")

SETUP = """
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE rows (id int PRIMARY KEY, x int CHECK (x > 0), y int NOT NULL DEFAULT 1, p int REFERENCES parents);
INSERT INTO rows VALUES (1, 1);
CREATE FUNCTION fails(int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN 1 / ($1 - $1) > 0; END $$;
CREATE FUNCTION fails_in_a_statement(int) RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN EXECUTE 'SELECT * FROM nowhere'; RETURN true; END $$;
CREATE FUNCTION says_which(int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE found text;
BEGIN
    INSERT INTO rows VALUES ($1, 1);
    RETURN 'none';
EXCEPTION WHEN unique_violation THEN
    GET STACKED DIAGNOSTICS found = CONSTRAINT_NAME;
    RETURN found;
END $$;
"""

STATEMENTS = (
    "INSERT INTO rows VALUES (1, 1)",
    "INSERT INTO rows VALUES (2, -1)",
    "INSERT INTO rows (id, y) VALUES (3, NULL)",
    "INSERT INTO rows (id, p) VALUES (4, 7)",
    "SELECT (-1)::positive",
    "SELECT nothing FROM rows",
    "SELECT fails(id) FROM rows",
    "SELECT fails_in_a_statement(id) FROM rows",
    "DO $$ BEGIN PERFORM fails(1); END $$",
    "SELECT 'x'::int",
)


def error_of(connection, statement):
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(statement)
    return {field: getattr(caught.value.diag, field) for field in FIELDS}


@pytest.fixture
def sessions(cluster, database):
    """A session that has loaded vekter, and one that has not."""
    with cluster.connect(database) as with_vekter, cluster.connect(database) as without:
        without.execute(SETUP)
        with_vekter.execute("LOAD 'vekter'")
        yield with_vekter, without


@pytest.mark.parametrize("statement", STATEMENTS)
def test_an_error_is_the_same_in_a_session_that_has_loaded_vekter(sessions, statement):
    with_vekter, without = sessions
    assert error_of(with_vekter, statement) == error_of(without, statement)


def test_a_function_reads_the_constraint_of_an_error_that_it_catches(sessions):
    for session in sessions:
        assert session.execute("SELECT says_which(1)").fetchone() == ("rows_pkey",)


@pytest.mark.parametrize("filter", ("fails(id)", "fails_in_a_statement(id)"))
def test_an_error_in_a_condition_that_vekter_evaluates_keeps_its_context(sessions, filter):
    with_vekter, without = sessions
    with_vekter.execute("""
        CREATE TABLE items (id int PRIMARY KEY, v vector(2));
        INSERT INTO items SELECT i, ARRAY[i, 1] FROM generate_series(1, 500) i;
        CREATE INDEX ON items USING faiss (v) WITH (factory = 'Flat');
        ANALYZE items;
        SET enable_seqscan = off""")
    expected = error_of(without, f"SELECT {filter} FROM items")
    searched = error_of(with_vekter, f"SELECT id FROM items WHERE {filter} ORDER BY v <-> '[1,2]' LIMIT 5")
    assert searched == expected


def test_a_filter_that_is_denied_points_nowhere_in_the_users_statement(sessions):
    with_vekter, _ = sessions
    with_vekter.execute("""
        CREATE TABLE items (id int PRIMARY KEY, v vector(2));
        INSERT INTO items SELECT i, ARRAY[i, 1] FROM generate_series(1, 500) i;
        SELECT vekter_create_index('items', 'id', 'v');
        CREATE SCHEMA secret;
        CREATE FUNCTION secret.f(int) RETURNS boolean LANGUAGE sql AS 'SELECT true';
        CREATE ROLE stranger;
        GRANT SELECT ON items TO stranger;
        SET ROLE stranger""")
    try:
        error = error_of(with_vekter, "SELECT * FROM knn('items', '[1,2]', 5, filter => 'secret.f(id)')")
    finally:
        with_vekter.execute("RESET ROLE; DROP OWNED BY stranger; DROP ROLE stranger")
    assert error["sqlstate"] == "42501" and error["message_primary"] == "permission denied for schema secret"
    assert error["statement_position"] is error["internal_position"] is None


def test_an_error_of_a_filter_tells_its_context(sessions):
    with_vekter, _ = sessions
    with_vekter.execute("""
        CREATE TABLE items (id int PRIMARY KEY, v vector(2));
        INSERT INTO items SELECT i, ARRAY[i, 1] FROM generate_series(1, 500) i;
        SELECT vekter_create_index('items', 'id', 'v')""")
    error = error_of(with_vekter, "SELECT * FROM knn('items', '[1,2]', 5, filter => 'fails(id)')")
    assert error["sqlstate"] == "22012"
    lines = error["context"].splitlines()
    assert lines[0] == "PL/pgSQL function fails(integer) line 1 at RETURN" and len(lines) == len(set(lines)), lines
