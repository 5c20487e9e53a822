"""Vectors so long that sums over them overflow, and so short that they sink to zero: an index orders them as the operator."""

import math

import pytest

from oracle import OPERATORS, ONLY_INDEX, WITHOUT_INDEX, settings

# Elements up to 3e38 and down to denormal numbers; norms on both sides of where float4 squares overflow (1.8e19).
LONG = ("[1e20,1e19,0,0]", "[3e38,3e38,3e38,3e38]", "[-3e38,3e38,0,0]", "[0,0,-3e38,1]", "[1.5e19,0,0,1]", "[-1e25,1,1,1]",
        "[1e13,-1e13,0,0]", "[1e18,1e18,1e18,1e18]")
SHORT = ("[1e-30,0,0,0]", "[1e-40,1e-40,0,0]", "[0,0,0,-1e-45]", "[0,0,0,0]")
QUERIES = ("[1,2,3,4]", "[-1,-2,-3,4]", "[1e20,1e19,0,0]", "[3e38,-3e38,3e38,0]", "[1e-30,0,0,0]", "[1e-40,0,0,-1e-40]")
WIDE = {"vekter.nprobe": 8, "vekter.ef_search": 1000}
EXACT = ("Flat", "HNSW16", "IVF8,Flat")


def ranked(db, metric, query, limit="NULL"):
    """(id, the operator's distance) in the order of a query."""
    operator = OPERATORS[metric]
    return db.execute(f"SELECT id, v {operator} '{query}' FROM items ORDER BY v {operator} '{query}' LIMIT {limit}").fetchall()


def assert_ordered(rows, name):
    """NaN last, Infinity before it; equal but for rounding is in order."""
    distances = [distance for _, distance in rows]
    for nearer, farther in zip(distances, distances[1:]):
        if math.isnan(farther):
            continue
        slack = 1e-5 * (1 + abs(farther)) if math.isfinite(farther) else 0
        assert not math.isnan(nearer) and nearer <= farther + slack, (name, nearer, farther)


def compare(db, metric, factory, name):
    for query in QUERIES:
        with settings(db, **WITHOUT_INDEX):
            expected = ranked(db, metric, query)
        with settings(db, **ONLY_INDEX, **WIDE):
            found, near = ranked(db, metric, query), ranked(db, metric, query, 20)
        what = (name, factory, metric, query)
        has_none = {id for id, in db.execute("SELECT id FROM items WHERE vector_norm(v) = 0")} if metric == "cosine" else set()
        assert sorted(id for id, _ in found) == sorted(id for id, _ in expected if id not in has_none), what
        # Of a cosine, the operator says 0, 2 or NaN where the square of a short vector sinks to zero.
        short = {id for id, in db.execute("SELECT id FROM items WHERE vector_norm(v) < 1e-19")} if metric == "cosine" else set()
        if factory in EXACT:
            assert_ordered([row for row in found if row[0] not in short], what)
        assert_ordered([row for row in near if row[0] not in short], what)
        distances = [distance for _, distance in found]
        infinite = [at for at, distance in enumerate(distances) if not math.isfinite(distance) and distance > -math.inf]
        assert infinite == list(range(len(found) - len(infinite), len(found))), what
        of_knn = db.execute(f"SELECT id, distance FROM knn('built', '{query}', 1000)").fetchall()
        assert sorted(id for id, _ in of_knn) == sorted(id for id, _ in found), what
        assert_ordered(of_knn, what)


@pytest.mark.parametrize("metric, factory", [
    *((metric, factory) for metric in ("l2", "ip", "cosine") for factory in (
        *EXACT, "HNSW16,SQ8", "IVF8,PQ4x4fs", "PQ4x4,RFlat", "SQfp16")),
    *(("l1", factory) for factory in EXACT),
])
def test_index_orders_long_and_short_vectors_as_the_operator(db, metric, factory):
    db.execute("CREATE TABLE items (id bigint PRIMARY KEY, v vector(4))")
    db.execute("INSERT INTO items SELECT i, ARRAY[i % 7, i % 5, -(i % 11), 1 + i % 3]::vector FROM generate_series(1, 300) i")
    db.execute("INSERT INTO items SELECT 1000 + n, v::vector FROM unnest(%s::text[]) WITH ORDINALITY AS t (v, n)",
               [[*LONG, *SHORT]])
    db.execute("SET vekter.background_compaction = off")
    db.execute(f"CREATE INDEX built ON items USING faiss (v vector_{metric}_ops) INCLUDE (id) WITH (factory = '{factory}')")
    compare(db, metric, factory, "built")
    db.execute("INSERT INTO items SELECT 2000 + n, v::vector FROM unnest(%s::text[]) WITH ORDINALITY AS t (v, n)",
               [[*LONG, *SHORT]])
    compare(db, metric, factory, "rows in the delta")
    db.execute("SELECT vekter_compact('built')")
    compare(db, metric, factory, "merged")
    assert db.execute("SELECT * FROM vekter_check('built', true)").fetchall() == []


def test_batches_and_filters_order_them_as_well(db):
    db.execute("CREATE TABLE items (id bigint PRIMARY KEY, v vector(4))")
    db.execute("INSERT INTO items SELECT 1000 + n, v::vector FROM unnest(%s::text[]) WITH ORDINALITY AS t (v, n)",
               [[*LONG, "[1,2,3,4]", "[-4,3,2,1]"] * 20])
    for metric in ("l2", "ip", "cosine"):
        db.execute("DROP INDEX IF EXISTS built")
        db.execute(f"CREATE INDEX built ON items USING faiss (v vector_{metric}_ops) INCLUDE (id) WITH (factory = 'Flat')")
        for query in QUERIES:
            expected = [distance for _, distance in ranked(db, metric, query)]
            for sql in (f"knn('built', '{query}', 500, filter => 'id > 0')",
                        f"knn('built', '{query}', 500, filter => 'id BETWEEN 1001 AND 1200')",
                        f"knn_batch('built', ARRAY['{query}']::vector[], 500)"):
                found = [distance for distance, in db.execute(f"SELECT distance FROM {sql}")]
                assert found == pytest.approx(expected, nan_ok=True, rel=1e-5), (metric, query, sql)
