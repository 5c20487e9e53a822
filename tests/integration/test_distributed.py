"""Tables whose rows are on other servers: no function answers from the empty index that is here."""

import psycopg
import pytest

from cluster import EXTENSION_TEMPLATE
from data import clustered, copy_vectors, to_text
from oracle import nearest_sql, without_index

VECTORS = clustered(400, 8, seed=53)
BASE, QUERY = VECTORS[:300], to_text(VECTORS[-1])

# Everything that reads an index's pages, and import, which writes them.
READERS = {
    "vekter_check": "vekter_check('items')", "vekter_compact": "vekter_compact('items')",
    "vekter_segments": "vekter_segments('items')", "vekter_index_stats": "vekter_index_stats('items')",
    "vekter_export": "vekter_export('items')", "vekter_quantize": f"vekter_quantize('items', '{QUERY}')",
    "vekter_reconstruct": "vekter_reconstruct('items', 1)", "vekter_recall": "vekter_recall('items')",
    "vekter_operating_points": "vekter_operating_points('items')",
    "vekter_import": "vekter_import('items', 'id', 'embedding', ''::bytea)",
}


def make_items(db):
    db.execute("CREATE TABLE items (id bigint PRIMARY KEY, embedding vector(8))")
    copy_vectors(db, "items", BASE)
    db.execute("SELECT vekter_create_index('items', 'id', 'embedding', name => 'built')")


@pytest.fixture
def sharded(items):
    """`items` as Citus leaves it on the coordinator, by its catalogue: that is all of Citus that vekter reads."""
    items.execute("SET allow_system_table_mods = on")
    items.execute("CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass PRIMARY KEY)")
    items.execute("INSERT INTO pg_catalog.pg_dist_partition VALUES ('items')")
    return items


@pytest.mark.parametrize("function", READERS)
@pytest.mark.parametrize("relation", ("items", "built"))
def test_a_function_that_reads_the_index_refuses_a_distributed_table(sharded, function, relation):
    call = READERS[function] if function == "vekter_import" else READERS[function].replace("'items'", f"'{relation}'")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match='table "items" is distributed') as refused:
        sharded.execute(f"SELECT * FROM {call}")
    hint = refused.value.diag.message_hint
    assert "run_command_on_shards('items'" in hint and f"{function}('%s')" in hint


def test_a_partition_of_a_distributed_table_is_refused_as_well(sharded):
    sharded.execute("CREATE TABLE parent (id bigint, embedding vector(8)) PARTITION BY RANGE (id)")
    sharded.execute("CREATE TABLE child PARTITION OF parent FOR VALUES FROM (0) TO (100)")
    sharded.execute("CREATE INDEX ON parent USING faiss (embedding)")
    assert sharded.execute("SELECT * FROM vekter_check('child')").fetchall() == []
    sharded.execute("INSERT INTO pg_catalog.pg_dist_partition VALUES ('parent')")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match='table "child" is distributed'):
        sharded.execute("SELECT * FROM vekter_check('child')")


def test_a_table_beside_distributed_ones_is_served(sharded):
    sharded.execute("DELETE FROM pg_catalog.pg_dist_partition")
    for call in (call for function, call in READERS.items() if function != "vekter_import"):
        sharded.execute(f"SELECT * FROM {call}")


def test_knn_asks_a_distributed_table_by_a_query_and_takes_no_search_parameters(sharded):
    for call in (f"knn('items', '{QUERY}', 5)", "knn_like('items', 7, 5)", f"knn_within('items', '{QUERY}', 10)"):
        assert sharded.execute(f"SELECT * FROM {call}").fetchall()
        for parameter in ("recall => 0.9", "search => 'efSearch=100'"):
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="have no effect"):
                sharded.execute(f"SELECT * FROM {call[:-1]}, {parameter})")


def test_a_batch_over_a_distributed_table_is_refused_with_the_query_to_write(sharded):
    for call in (f"knn_batch('items', ARRAY['{QUERY}'::vector], 5)", "knn_join('items', 'id', 'embedding', 'items', 5)"):
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="is distributed") as refused:
            sharded.execute(f"SELECT * FROM {call}")
        assert "LATERAL knn(" in refused.value.diag.message_hint


@pytest.fixture
def spread(cluster, items, database):
    """`spread`: one partition here, one on another server, each with a faiss index. Skips without postgres_fdw."""
    if not items.execute("SELECT FROM pg_available_extensions WHERE name = 'postgres_fdw'").rowcount:
        pytest.skip("this PostgreSQL has no postgres_fdw (contrib)")
    other = f"{database}_far"
    cluster.execute(f"CREATE DATABASE {other} TEMPLATE {EXTENSION_TEMPLATE}")
    with cluster.connect(other) as far:
        far.execute("CREATE TABLE far (id bigint PRIMARY KEY, embedding vector(8))")
        copy_vectors(far, "far", BASE[150:], ids=range(150, 300))
        far.execute("CREATE INDEX far_index ON far USING faiss (embedding)")
        far.execute("VACUUM ANALYZE far")
    items.execute("CREATE EXTENSION postgres_fdw")
    items.execute("CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw "
                  f"OPTIONS (host '{cluster.folder}', dbname '{other}', extensions 'vekter', fetch_size '10', "
                  "async_capable 'true')")
    items.execute("CREATE USER MAPPING FOR postgres SERVER other OPTIONS (user 'postgres')")
    items.execute("CREATE TABLE spread (id bigint, embedding vector(8)) PARTITION BY RANGE (id)")
    items.execute("CREATE TABLE near PARTITION OF spread FOR VALUES FROM (0) TO (150)")
    items.execute("CREATE FOREIGN TABLE far PARTITION OF spread FOR VALUES FROM (150) TO (300) SERVER other")
    copy_vectors(items, "near", BASE[:150], ids=range(150))
    items.execute("CREATE INDEX near_index ON spread USING faiss (embedding) INCLUDE (id)")
    items.execute("ANALYZE near")
    items.execute("ANALYZE far")
    yield items, cluster, other
    items.execute("DROP SERVER other CASCADE")
    cluster.execute(f"DROP DATABASE {other} WITH (FORCE)")


def test_order_and_limit_go_to_a_foreign_partition_whose_index_answers(spread):
    db, cluster, other = spread
    sql = nearest_sql("spread", VECTORS[-1])
    exact = without_index(db, sql)
    plan = "\n".join(line for line, in db.execute(f"EXPLAIN (VERBOSE, COSTS OFF) {sql}"))
    assert "Remote SQL" in plan and "ORDER BY" in plan.split("Remote SQL")[1]
    assert db.execute(sql).fetchall() == exact
    with cluster.connect(other) as far:
        explained = far.execute("EXPLAIN " + sql.replace("FROM spread", "FROM far")).fetchall()
    assert any("far_index" in line for line, in explained)


def test_knn_searches_foreign_partitions_by_a_query_and_takes_no_search_parameters(spread):
    db, *_ = spread
    exact = [id for id, _ in without_index(db, nearest_sql("spread", VECTORS[-1]))]
    assert [id for id, _ in db.execute(f"SELECT * FROM knn('spread', '{QUERY}', 10)").fetchall()] == exact
    for parameter in ("recall => 1", "search => 'efSearch=100'"):
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="rows of public.spread that are on other servers"):
            db.execute(f"SELECT * FROM knn('spread', '{QUERY}', 10, {parameter})")
