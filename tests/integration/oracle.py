"""The oracle of every test: the same query without the index, and a comparison that forgives ties and nothing else.

`rows` are always lists of (id, distance). An index answer is right when every id is one that the sequential scan
sees, no id comes twice, each id comes with its own distance, and the distances are those of the nearest rows, in order.
"""

from contextlib import contextmanager

import psycopg

from data import to_text

OPERATORS = {"l2": "<->", "ip": "<#>", "cosine": "<=>", "l1": "<+>"}

# float32 sums taken in another order differ in the last digits; nothing else may.
RELATIVE_TOLERANCE = 1e-5
ABSOLUTE_TOLERANCE = 1e-5

WITHOUT_INDEX = {"enable_indexscan": "off", "enable_seqscan": "on", "enable_sort": "on"}
ONLY_INDEX = {"enable_indexscan": "on", "enable_seqscan": "off", "enable_sort": "off"}


def literal(vector):
    """The SQL literal of a vector that reads back as the same float32 values."""
    return f"'{to_text(vector)}'::vector"


@contextmanager
def settings(conn, **values):
    """Runs a block under other settings; they are put back unless the transaction failed inside.

    A session that has not loaded the library yet does not know vekter's settings: they go back to their defaults.
    """
    before = {name: conn.execute("SELECT current_setting(%s, true)", [name]).fetchone()[0] for name in values}
    apply(conn, values)
    yield
    apply(conn, {name: value for name, value in before.items() if value})
    for name in (name for name, value in before.items() if not value):
        conn.execute(f"RESET {name}")


@contextmanager
def time_limit(conn, milliseconds):
    """Gives each statement of a block so long. The one that lifts it is under it too, and may need another try."""
    conn.execute(f"SET statement_timeout = {milliseconds}")
    yield
    while True:
        try:
            conn.execute("RESET statement_timeout")
            return
        except psycopg.errors.QueryCanceled:
            pass


def apply(conn, values):
    for name, value in values.items():
        conn.execute("SELECT set_config(%s, %s, false)", [name, str(value)])


def nearest_sql(table, query, limit=10, metric="l2", id="id", vector="embedding", where="true"):
    """The plain query of a nearest-neighbour search: (id, distance), nearest first."""
    distance = f"{vector} {OPERATORS[metric]} {literal(query)}"
    bound = "" if limit is None else f" LIMIT {limit}"
    return f"SELECT {id}, {distance} FROM {table} WHERE {where} ORDER BY {distance}{bound}"


def without_index(conn, sql):
    """The answer of the sequential scan and sort."""
    with settings(conn, **WITHOUT_INDEX):
        assert not indexes_used(conn, sql), "the oracle must not use the index that it judges"
        return conn.execute(sql).fetchall()


def with_index(conn, sql, index=None):
    """The answer of the index; fails where the planner has no way to use one."""
    with settings(conn, **ONLY_INDEX):
        used = indexes_used(conn, sql)
        assert used, f"no index scan is possible for: {sql[:200]}"
        assert index is None or index in used, f"{index} is not among {used}"
        return conn.execute(sql).fetchall()


def plan_nodes(conn, sql):
    """Every node of the plan, as the dictionaries of EXPLAIN (FORMAT JSON)."""
    [[[top]]] = conn.execute(f"EXPLAIN (FORMAT JSON) {sql}").fetchall()
    return nodes_of(top["Plan"])


def nodes_of(plan):
    """A plan of EXPLAIN (FORMAT JSON) and all below it."""
    nodes, open_nodes = [], [plan]
    while open_nodes:
        node = open_nodes.pop()
        nodes.append(node)
        open_nodes.extend(node.get("Plans", []))
    return nodes


def indexes_used(conn, sql):
    """Names of the indexes that a plan scans in distance order: by PostgreSQL's scan, or by vekter's where there is a filter."""
    return {n["Index Name"] for n in plan_nodes(conn, sql)
            if n["Node Type"] in ("Index Scan", "Custom Scan") and "Order By" in n}


def assert_nearest(got, every_row, limit=None):
    """`got` is a right answer of LIMIT `limit` where `every_row` is what the sequential scan gives without a limit."""
    exact = dict(every_row)
    order = sorted(exact.values(), key=distance_key)
    wanted = len(order) if limit is None else min(limit, len(order))
    ids = [id for id, _ in got]
    assert len(ids) == len(set(ids)), f"rows came twice: {sorted(i for i in set(ids) if ids.count(i) > 1)[:10]}"
    strangers = [id for id in ids if id not in exact]
    assert not strangers, f"rows that this snapshot does not see: {strangers[:10]}"
    assert len(got) == wanted, f"{len(got)} rows instead of {wanted}"
    for place, (id, distance) in enumerate(got):
        assert same(distance, exact[id]), f"row {id}: distance {distance}, and its own is {exact[id]}"
        assert same(distance, order[place]), f"place {place}: row {id} at {distance}, nearest left is {order[place]}"


def assert_same_answer(conn, table, query, limit=10, index=None, **parts):
    """An exact index answers as the sequential scan does, up to the order of equal distances."""
    got = with_index(conn, nearest_sql(table, query, limit, **parts), index)
    every_row = without_index(conn, nearest_sql(table, query, None, **parts))
    assert_nearest(got, every_row, limit)
    return got


def assert_clean(conn, index, orphans_allowed=False):
    """vekter_check() finds nothing wrong, in the index or between it and its table.

    `orphans_allowed`: pages that nothing refers to, as they are after a crash or an error until the next VACUUM.
    """
    findings = conn.execute("SELECT * FROM vekter_check(%s, heap => true)", [index]).fetchall()
    if orphans_allowed:
        findings = [(how_bad, *rest) for how_bad, *rest in findings if how_bad != "warning"]
    assert findings == []


def same(a, b):
    return a == b or abs(a - b) <= ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * max(abs(a), abs(b))


def distance_key(distance):
    return float("inf") if distance is None else distance


def recall(got, exact):
    """The share of the exact answer's rows that `got` holds; rows tied with the last exact one count as right."""
    bound = exact[-1][1]
    hits = sum(1 for _, d in got[: len(exact)] if d <= bound or same(d, bound))
    return hits / len(exact)


def is_ordered(rows):
    distances = [d for _, d in rows]
    return all(a <= b or same(a, b) for a, b in zip(distances, distances[1:]))
