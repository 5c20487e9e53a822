"""Two types named `vector` in one database: pgvector's and ours."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).parents[2]
# The files of tests/regress that hold nothing but pgvector's own behaviour, and the release they were compared with.
SHARED_FILES = ("aggregates", "arithmetic", "casts", "compare", "distances", "type_binary", "type_storage", "type_text",
                "typmod")
COMPARED_RELEASE = (0, 8, 6)

# Values that a careless copy would change: both zeros, the smallest and the largest numbers, every way of storing them.
VALUES = ["[1,-2.5,3e-5]", "[0,-0,1e-45]", "[3.4028235e38,-3.4028235e38,0.1]",
          "[" + ",".join(str(i / 7) for i in range(600)) + "]", "[" + "0.1," * 15999 + "1]"]


def pgvector_release(cluster) -> tuple[int, ...] | None:
    found = cluster.execute("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'")
    return tuple(map(int, found[0][0].split("."))) if found else None


def pgvector_or_skip(cluster) -> tuple[int, ...]:
    release = pgvector_release(cluster)
    if release is None:
        pytest.skip("pgvector is not installed in this PostgreSQL (Debian's and PGDG's package: postgresql-NN-pgvector)")
    return release


def stand_in() -> str:
    """SQL for a type of pgvector's name and layout that belongs to no extension: our own definitions, once more."""
    script = (ROOT / "sql" / "vekter.sql").read_text()
    part = re.search(r"^CREATE TYPE vector;.*?(?=^-- Access method)", script, re.DOTALL | re.MULTILINE)
    return part[0].replace("MODULE_PATHNAME", "$libdir/vekter")


@pytest.fixture(params=("pgvector", "a stand-in"))
def other(request, cluster):
    """A connection to a database with another type `vector` in the schema public, and without vekter."""
    if request.param == "pgvector":
        pgvector_or_skip(cluster)
    cluster.execute("CREATE DATABASE shared")
    try:
        with cluster.connect("shared") as db:
            db.execute("CREATE EXTENSION vector" if request.param == "pgvector" else stand_in())
            yield db
    finally:
        cluster.execute("DROP DATABASE shared WITH (FORCE)")


@pytest.fixture
def both(other):
    """The same, with vekter in a schema of its own and tables `theirs` and `ours` of the two types."""
    other.execute("CREATE SCHEMA vekter; CREATE EXTENSION vekter SCHEMA vekter")
    other.execute("CREATE TABLE theirs (id integer, v public.vector); CREATE TABLE ours (id integer, v vekter.vector)")
    for id, value in enumerate(VALUES):
        other.execute("INSERT INTO theirs VALUES (%s, %s)", (id, value))
    return other


def bits(db, table):
    return db.execute(f"SELECT id, encode(CAST(v AS text)::bytea, 'hex'), pg_column_size(v), v::real[]::text "
                      f"FROM {table} ORDER BY id").fetchall()


def test_create_extension_into_the_same_schema_says_what_to_do(other):
    with pytest.raises(psycopg.errors.DuplicateObject) as error:
        other.execute("CREATE EXTENSION vekter")
    assert error.value.diag.message_primary == 'type "vector" already exists in schema "public"'
    is_extension = other.execute("SELECT FROM pg_extension WHERE extname = 'vector'").rowcount
    assert error.value.diag.message_detail == (
        'It belongs to the extension "vector".' if is_extension else "It belongs to no extension.")
    advice = error.value.diag.message_hint.partition(": ")[2]
    assert f"CREATE EXTENSION {'vekter_pgvector' if is_extension else 'vekter'} SCHEMA vekter" in advice
    other.execute(advice)
    assert other.execute("SELECT '[3,4]'::vekter.vector OPERATOR(vekter.<->) '[0,0]'").fetchone() == (5.0,)


def test_both_types_work_whatever_the_search_path(both):
    for path in ("public", "vekter", "public, vekter", "vekter, public", "''"):
        both.execute(f"SET search_path = {path}")
        for schema in ("public", "vekter"):
            row = both.execute(
                f"SELECT '[3,4]'::{schema}.vector OPERATOR({schema}.<->) '[0,0]', "
                f"{schema}.avg(v), {schema}.sum(v), count(DISTINCT v) "
                f"FROM unnest('{{\"[1]\",\"[3]\"}}'::{schema}.vector[]) v").fetchone()
            assert row == (5.0, "[2]", "[4]", 2), (path, schema)
    both.execute("SET search_path = public, vekter")
    for schema in ("public", "vekter"):
        assert both.execute(f"SELECT v <-> '[0,0]', vector_norm(v), v = '[3,4]' "
                            f"FROM (SELECT '[3,4]'::{schema}.vector AS v) t").fetchone() == (5.0, 5.0, True)


def test_an_index_in_its_own_schema_answers(both):
    both.execute("CREATE TABLE items (id bigint PRIMARY KEY, embedding vekter.vector(3))")
    both.execute("INSERT INTO items SELECT i, ARRAY[i, i % 7, 1] FROM generate_series(1, 500) i")
    both.execute("SELECT vekter.vekter_create_index('items', 'id', 'embedding')")
    found = both.execute("SELECT id FROM vekter.knn('items', '[42,0,1]', 3)").fetchall()
    exact = both.execute("SELECT id FROM items ORDER BY (embedding OPERATOR(vekter.<->) '[42,0,1]') + 0 LIMIT 3").fetchall()
    assert found == exact


def test_values_copy_both_ways_through_real_arrays(both):
    both.execute("INSERT INTO ours SELECT id, v::real[] FROM theirs")
    assert bits(both, "ours") == bits(both, "theirs")
    both.execute("CREATE TABLE returned (id integer, v public.vector)")
    both.execute("INSERT INTO returned SELECT id, v::real[] FROM ours")
    assert bits(both, "returned") == bits(both, "theirs")


def test_values_copy_both_ways_through_binary_copy(both):
    def copy(source, target):
        with both.cursor().copy(f"COPY {source} TO STDOUT (FORMAT binary)") as outward:
            message = b"".join(bytes(part) for part in outward)
        with both.cursor().copy(f"COPY {target} FROM STDIN (FORMAT binary)") as inward:
            inward.write(message)
        return message

    sent = copy("theirs", "ours")
    assert bits(both, "ours") == bits(both, "theirs")
    both.execute("CREATE TABLE returned (id integer, v public.vector)")
    assert copy("ours", "returned") == sent
    assert bits(both, "returned") == bits(both, "theirs")


def test_a_table_moves_over_without_being_rewritten(both):
    """The two types have one layout, so that a superuser may declare them binary-coercible."""
    both.execute("ALTER TABLE theirs ALTER v SET STORAGE plain; DELETE FROM theirs WHERE id > 3")
    before, expected = both.execute("SELECT pg_relation_filenode('theirs')").fetchone(), bits(both, "theirs")
    both.execute("CREATE CAST (public.vector AS vekter.vector) WITHOUT FUNCTION AS ASSIGNMENT")
    both.execute("ALTER TABLE theirs ALTER v TYPE vekter.vector")
    assert both.execute("SELECT pg_relation_filenode('theirs'), pg_typeof(v)::text FROM theirs LIMIT 1").fetchone() == (
        *before, "vekter.vector")
    assert bits(both, "theirs") == expected


def test_either_is_dropped_without_the_other(both):
    is_extension = both.execute("SELECT FROM pg_extension WHERE extname = 'vector'").rowcount
    both.execute("DROP EXTENSION vekter CASCADE")
    assert both.execute("SELECT count(v) FROM theirs").fetchone() == (len(VALUES),)
    assert both.execute("SELECT attname FROM pg_attribute WHERE attrelid = 'ours'::regclass AND attnum > 0 "
                        "AND NOT attisdropped").fetchall() == [("id",)]
    both.execute("CREATE EXTENSION vekter SCHEMA vekter")
    both.execute("ALTER TABLE ours ADD v vekter.vector; INSERT INTO ours SELECT id, v::real[] FROM theirs")
    expected = bits(both, "theirs")
    both.execute("DROP EXTENSION vector CASCADE" if is_extension else "DROP TYPE public.vector CASCADE")
    assert bits(both, "ours") == expected


def test_the_sql_tests_of_the_type_give_the_same_with_pgvector(cluster, tmp_path):
    release = pgvector_or_skip(cluster)
    if release < COMPARED_RELEASE:
        pytest.skip(f"pgvector here is {release}, and messages are compared with {COMPARED_RELEASE}")
    environment = {**os.environ, "PGHOST": str(cluster.folder), "PGUSER": "postgres", "PGPORT": "5432",
                   "EXTENSION": "vector"}
    run = subprocess.run([ROOT / "tests" / "regress" / "run.sh", *SHARED_FILES], env=environment, capture_output=True,
                         text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
