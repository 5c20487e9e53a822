"""Search parameters three ways: the index's option, settings, and an argument of knn(). The nearer one wins.

An index of 64 lists answers exactly when all are scanned, and misses rows when one is: so the answer tells which
parameters a search went by.
"""

import pytest

from data import clustered, copy_vectors, to_text
from oracle import literal, nearest_sql, settings, with_index, without_index

ROWS, DIMENSIONS = 10_000, 16
VECTORS = clustered(ROWS + 20, DIMENSIONS, seed=401, spread=1.0)
QUERIES = VECTORS[ROWS:]
FEW, ALL = "nprobe=1", "nprobe=64"


@pytest.fixture(scope="module")
def items(new_module_cluster):
    with new_module_cluster().connect() as conn:
        conn.execute("CREATE EXTENSION vekter")
        conn.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}))")
        copy_vectors(conn, "items", VECTORS[:ROWS])
        conn.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'IVF64,Flat')")
        yield conn
        conn.execute("ALTER INDEX built RESET (search)")


def answers(conn, search=None):
    return [[id for id, in conn.execute("SELECT id FROM knn('built', %s::vector, 10, %s)", [to_text(q), search])]
            for q in QUERIES]


@pytest.fixture
def exact(items):
    return [[id for id, _ in without_index(items, nearest_sql("items", q))] for q in QUERIES]


@pytest.fixture
def poor(items, exact):
    few = answers(items, FEW)
    assert few != exact, "with one list some rows are missed, or this file tests nothing"
    return few


def test_argument_goes_before_settings_and_settings_before_the_option(items, exact, poor):
    items.execute(f"ALTER INDEX built SET (search = '{FEW}')")
    assert answers(items) == poor
    with settings(items, **{"vekter.search": ALL}):
        assert answers(items) == exact
        assert answers(items, FEW) == poor
        with settings(items, **{"vekter.nprobe": 1}):
            assert answers(items) == poor, "the setting of one parameter goes before that of several"
            assert answers(items, ALL) == exact
    assert answers(items, ALL) == exact
    items.execute(f"ALTER INDEX built SET (search = '{ALL}')")
    assert answers(items) == exact
    with settings(items, **{"vekter.nprobe": 1}):
        assert answers(items) == poor


def test_ordinary_queries_go_by_settings_and_the_option(items, exact, poor):
    def ordered():
        return [[id for id, _ in with_index(items, nearest_sql("items", q), "built")] for q in QUERIES]

    items.execute(f"ALTER INDEX built SET (search = '{FEW}')")
    assert ordered() == poor
    with settings(items, **{"vekter.search": ALL}):
        assert ordered() == exact


def test_a_prepared_search_goes_by_what_holds_when_it_runs(items, exact, poor):
    items.execute(f"ALTER INDEX built SET (search = '{FEW}')")
    items.execute("PREPARE search (vector) AS SELECT id FROM items ORDER BY embedding <-> $1 LIMIT 10")

    def found():
        return [[id for id, in items.execute(f"EXECUTE search ({literal(q)})")] for q in QUERIES]

    with settings(items, enable_seqscan="off", enable_sort="off"):
        assert found() == poor
        items.execute(f"ALTER INDEX built SET (search = '{ALL}')")
        assert found() == exact


def test_growing_rounds_start_from_the_parameters_and_reach_every_row(items):
    everything = sorted(range(ROWS))
    for search in (FEW, "nprobe=1,max_codes=1", "max_codes=5", ALL):
        found = items.execute("SELECT id FROM knn('built', %s::vector, %s, %s)", [to_text(QUERIES[0]), ROWS, search])
        assert sorted(id for id, in found) == everything, search


@pytest.mark.parametrize("factory, search", (
    ("PQ4", "ht=2"), ("IVF16,PQ4", "nprobe=2,max_codes=9"), ("RaBitQ", "qb=1"), ("IVF16,RaBitQ", "qb=0"),
    ("IVF64_HNSW8,Flat", "quantizer_efSearch=1,nprobe=1"), ("IVF64_HNSW8,Flat", "efSearch=4"),
    ("HNSW8", "efSearch=1"), ("SQ4", "k_factor=1"), ("IVF16,PQ4,RFlat", "k_factor_rf=1.5"),
))
def test_every_parameter_is_taken_and_no_row_is_out_of_reach(items, factory, search):
    items.execute("CREATE TABLE few (LIKE items)")
    try:
        items.execute("INSERT INTO few SELECT * FROM items WHERE id < 2000")
        items.execute(f"CREATE INDEX of_few ON few USING faiss (embedding) INCLUDE (id) WITH (factory = '{factory}', "
                      f"search = '{search}')")
        found = items.execute("SELECT id, distance FROM knn('few', %s::vector, 2000)", [to_text(QUERIES[0])]).fetchall()
        assert sorted(id for id, _ in found) == list(range(2000))
        assert len(items.execute("SELECT FROM knn('few', %s::vector)", [to_text(QUERIES[0])]).fetchall()) == 10
    finally:
        items.execute("DROP TABLE few")
