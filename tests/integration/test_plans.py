"""What the planner chooses: a long vector does not lie in its row, and a distance to it costs the way there."""

import pytest


def plan_of(db, rows, dims, analyzed=True, query=None):
    db.execute(f"CREATE TABLE points (id bigint, embedding vector({dims})) WITH (autovacuum_enabled = off)")
    db.execute(f"INSERT INTO points SELECT i, array_fill(i::real, ARRAY[{dims}])::vector FROM generate_series(1, {rows}) i")
    db.execute("CREATE INDEX ON points USING faiss (embedding) WITH (factory = 'Flat')")
    if analyzed:
        db.execute("ANALYZE points")
    query = query or f"SELECT id FROM points ORDER BY embedding <-> array_fill(1, ARRAY[{dims}])::vector LIMIT 10"
    return "\n".join(line for [line] in db.execute(f"EXPLAIN {query}"))


@pytest.mark.parametrize("analyzed", (True, False))
def test_rows_of_long_vectors_are_searched_through_the_index(db, analyzed):
    assert "Index Scan" in plan_of(db, 2_400, 3_072, analyzed)


@pytest.mark.parametrize(("rows", "dims"), ((10, 3), (20, 3), (20, 384)))
def test_small_tables_are_read_row_by_row(db, rows, dims):
    assert "Seq Scan" in plan_of(db, rows, dims)


def test_vectors_that_lie_in_their_rows_cost_what_any_operator_does(db):
    """And long ones a hundred times as much, whichever way they are written."""
    def cost(expression):
        [line] = db.execute(f"EXPLAIN SELECT * FROM points WHERE {expression}").fetchone()
        return float(line.split("..")[1].split()[0])

    plan_of(db, 1_000, 3)
    assert cost("embedding <-> '[1,2,3]' < 1") == cost("id + 1 < 1")
    db.execute("DROP TABLE points")
    plan_of(db, 1_000, 1_000)
    near = "array_fill(1, ARRAY[1000])::vector"
    costs = [cost(f"{one} < 1") for one in (f"embedding <-> {near}", f"{near} <=> embedding", f"l1_distance(embedding, {near})",
                                            f"embedding::vector <#> {near}")]
    assert min(costs) > 10 * cost("id + 1 < 1")
    assert max(costs) == min(costs)
    # Both sides are fetched, and a vector that is no column of a table costs what the function says.
    assert cost("embedding <-> embedding < 1") > 1.5 * max(costs)
    assert cost(f"{near} <-> (id::text || '')::vector < 1") < min(costs)
