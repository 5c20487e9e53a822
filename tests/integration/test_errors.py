"""Errors say the same whatever the environment of the server."""

import psycopg
import pytest

STATEMENTS = (
    "SELECT knn('plain', '[1]')",                                             # vekter's own
    "SELECT knn('items', '[1]', filter => 'nothing = 1')",                    # PostgreSQL's, with a hint of vekter's
    "SELECT knn('items', '[1]', filter => '1 / (id - 1) = 1')",               # PostgreSQL's, while a query runs
    "SELECT vekter_create_index('items', 'id', 'v', name => 'items')",        # PostgreSQL's, of a statement
    "CREATE INDEX ON items USING faiss (v) WITH (factory = 'PQ7')",           # of the access method
    "SELECT '[1,2]'::vector <-> '[1]'", "SELECT '[1,x]'::vector", "SELECT '[]'::jsonb::vector",
)


def said(cluster):
    """Everything but CONTEXT of each statement's error."""
    errors = []
    with cluster.connect() as db:
        db.execute("CREATE EXTENSION IF NOT EXISTS vekter")
        db.execute("CREATE TABLE plain (v vector(1)); CREATE TABLE items (id int NOT NULL, v vector(1))")
        db.execute("INSERT INTO items VALUES (1, '[1]'); CREATE INDEX ON items USING faiss (v) INCLUDE (id)")
        for sql in STATEMENTS:
            with pytest.raises(psycopg.Error) as caught:
                db.execute(sql)
            diag = caught.value.diag
            errors.append((diag.sqlstate, diag.message_primary, diag.message_detail, diag.message_hint))
        db.execute("DROP TABLE plain, items")
    return errors


def test_backtraces_stay_out_of_errors(new_cluster, monkeypatch):
    monkeypatch.delenv("RUST_BACKTRACE", raising=False)
    node = new_cluster()
    expected = said(node)
    assert len(expected) == len(STATEMENTS)
    node.stop()
    for name in ("RUST_BACKTRACE", "RUST_LIB_BACKTRACE"):
        monkeypatch.setenv(name, "full")
        assert said(node.start()) == expected
        node.stop()
        monkeypatch.delenv(name)
