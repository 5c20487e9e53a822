"""vekter_kmeans(): each row in the cluster whose centroid is nearest, the same each time, with the caller's rights."""

import numpy as np
import psycopg
import pytest

from data import clustered, copy_vectors, to_text

ROWS, DIMENSIONS, CLUSTERS = 4_000, 12, 20
VECTORS = clustered(ROWS, DIMENSIONS, seed=301, clusters=CLUSTERS, spread=0.2)
CALL = f"'items', 'id', 'embedding', {CLUSTERS}"


def make_items(db):
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), who text)")
    copy_vectors(db, "items", VECTORS)


def assigned(db, arguments=CALL):
    """(cluster of each id, distance of each id), in the order of the ids."""
    rows = db.execute(f"SELECT id, cluster, distance FROM vekter_kmeans({arguments}) ORDER BY id").fetchall()
    ids, cluster, distance = zip(*rows)
    return list(ids), np.array(cluster), np.array(distance)


def centroids(db, arguments=CALL):
    """(centroids as a matrix, rows of each)."""
    rows = db.execute(f"SELECT cluster, centroid::real[], rows FROM vekter_kmeans_centroids({arguments}) "
                      "ORDER BY cluster").fetchall()
    assert [cluster for cluster, _, _ in rows] == list(range(len(rows)))
    return np.array([centroid for _, centroid, _ in rows]), [count for _, _, count in rows]


def refusal(db, sql):
    with pytest.raises(psycopg.Error) as error:
        db.execute(sql)
    diag = error.value.diag
    return diag.sqlstate, diag.message_primary, diag.message_hint or ""


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("metric", ("l2", "cosine"))
def test_each_row_is_in_the_cluster_of_its_nearest_centroid(items, metric):
    arguments = f"{CALL}, '{metric}'"
    ids, cluster, distance = assigned(items, arguments)
    centres, counts = centroids(items, arguments)
    assert ids == list(range(ROWS)) and len(centres) == CLUSTERS
    if metric == "l2":
        expected = np.linalg.norm(VECTORS[:, None].astype(np.float64) - centres[None], axis=2)
    else:
        assert np.allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)
        expected = 1 - unit(VECTORS.astype(np.float64)) @ centres.T
    assert np.allclose(distance, expected.min(axis=1), atol=1e-5)
    assert np.allclose(expected[np.arange(ROWS), cluster], expected.min(axis=1), atol=1e-5)
    assert counts == np.bincount(cluster, minlength=CLUSTERS).tolist()


def test_clusters_are_about_as_good_as_those_of_faiss_itself(items):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    _, _, distance = assigned(items)
    own = faiss.Kmeans(DIMENSIONS, CLUSTERS, niter=25, seed=5)
    own.train(VECTORS)
    theirs = own.index.search(VECTORS, 1)[0].sum()
    assert (distance ** 2).sum() < 1.3 * theirs


def test_the_same_rows_and_seed_give_the_same_clusters_however_the_rows_lie(items):
    first, other_seed = assigned(items), assigned(items, f"{CALL}, seed => 1")
    items.execute("CREATE TABLE shuffled AS SELECT * FROM items ORDER BY md5(id::text)")
    again, shuffled = assigned(items), assigned(items, CALL.replace("items", "shuffled"))
    assert (first[1] == again[1]).all() and (first[2] == again[2]).all()
    assert (first[1] == shuffled[1]).all() and np.allclose(first[2], shuffled[2], atol=1e-5)
    assert (first[1] != other_seed[1]).any()


def test_a_table_larger_than_the_sample_is_clustered_whole(items):
    """A sample holds at least 65,536 rows: the rest is assigned all the same."""
    items.execute("CREATE TABLE many AS SELECT i AS id, ('[' || (i % 3) * 10 || ',' || i % 7 || ']')::vector(2) AS v "
                  "FROM generate_series(1, 150000) i")
    rows = items.execute("SELECT count(*), count(DISTINCT id), max(cluster) FROM vekter_kmeans('many', 'id', 'v', 3)")
    assert rows.fetchone() == (150_000, 150_000, 2)


def test_rows_without_a_vector_are_left_out_and_zero_vectors_under_cosine(items):
    items.execute(f"UPDATE items SET embedding = NULL WHERE id < 10")
    items.execute(f"UPDATE items SET embedding = '{to_text(np.zeros(DIMENSIONS))}' WHERE id BETWEEN 10 AND 14")
    assert assigned(items)[0] == list(range(10, ROWS))
    assert assigned(items, f"{CALL}, 'cosine'")[0] == list(range(15, ROWS))
    assert sum(centroids(items, f"{CALL}, 'cosine'")[1]) == ROWS - 15


def test_as_many_clusters_as_rows_are_the_rows(items):
    items.execute("DELETE FROM items WHERE id >= 7")
    _, cluster, distance = assigned(items, "'items', 'id', 'embedding', 7")
    assert sorted(cluster) == list(range(7)) and (distance < 1e-3).all()


def test_views_partitions_and_odd_names_are_read(items):
    items.execute('CREATE VIEW "of two" AS SELECT id AS "the id", embedding AS "a ""vector""" FROM items WHERE id < 900')
    sql = """SELECT count(*) FROM vekter_kmeans('"of two"', 'the id', 'a "vector"', 4)"""
    assert items.execute(sql).fetchone() == (900,)
    items.execute(f"CREATE TABLE parted (id int, embedding vector({DIMENSIONS})) PARTITION BY RANGE (id)")
    items.execute("CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (100)")
    items.execute("CREATE TABLE high PARTITION OF parted FOR VALUES FROM (100) TO (10000)")
    items.execute("INSERT INTO parted SELECT id, embedding FROM items")
    assert assigned(items, CALL.replace("items", "parted"))[0] == list(range(ROWS))


@pytest.mark.parametrize("arguments, state, message, hint", [
    ("'items', 'id', 'embedding', 0", "22023", "clusters must be between 1 and 1048576, not 0", ""),
    ("'items', 'id', 'embedding', -5", "22023", "clusters must not be negative, but is -5", ""),
    ("'items', 'id', 'embedding', 2000000", "22023", "clusters must be between 1 and 1048576, not 2000000", ""),
    ("'items', 'id', 'embedding', 4001", "22023", "cannot make 4001 clusters of 4000 rows", "at most 4000"),
    ("'items', 'id', 'embedding', 5, 'ip'", "22023", '"ip" is not a metric for clusters', "l2 and cosine"),
    ("'items', 'id', 'embedding', 5, seed => -1", "22023", "seed must not be negative, but is -1", ""),
    ("'items', 'id', 'embedding', 5, iterations => 0", "22023", "iterations must be between 1 and 1000, not 0", ""),
    ("'items', 'who', 'embedding', 5", "42804", 'column "who" is not of an integer type', ""),
    ("'items', 'id', 'who', 5", "42804", 'column "who" is not of type vector', ""),
    ("'items', 'id', 'nothing', 5", "42703", 'column "nothing" of relation "items" does not exist', ""),
    ("'items_pkey', 'id', 'embedding', 5", "42809", '"items_pkey" is not a table or view', ""),
])
def test_refusals_say_what_is_wrong(items, arguments, state, message, hint):
    got = refusal(items, f"SELECT * FROM vekter_kmeans({arguments})")
    assert got[:2] == (state, message) and hint in got[2]
    assert refusal(items, f"SELECT * FROM vekter_kmeans_centroids({arguments})") == got


def test_rows_that_do_not_go_together_are_refused(items):
    items.execute("CREATE TABLE mixed (id bigint, v vector)")
    items.execute("INSERT INTO mixed VALUES (1, '[1,2]'), (2, '[1,2,3]')")
    assert refusal(items, "SELECT * FROM vekter_kmeans('mixed', 'id', 'v', 1)")[:2] == (
        "22000", "different vector dimensions 2 and 3")
    items.execute("UPDATE mixed SET id = NULL, v = '[1,2]'")
    assert refusal(items, "SELECT * FROM vekter_kmeans('mixed', 'id', 'v', 1)")[:2] == (
        "23502", 'column "id" contains null values')
    items.execute("UPDATE mixed SET id = 1, v = '[1e30,2]'")
    assert refusal(items, "SELECT * FROM vekter_kmeans('mixed', 'id', 'v', 1)")[:2] == (
        "22003", "the vector of the row with id 1 is too long for clustering")
    items.execute("TRUNCATE mixed")
    assert refusal(items, "SELECT * FROM vekter_kmeans('mixed', 'id', 'v', 1)")[:2] == (
        "22023", "cannot make 1 clusters of 0 rows")


def test_equal_rows_leave_clusters_empty_or_alike_but_never_fail(items):
    items.execute("CREATE TABLE alike AS SELECT i AS id, '[1,2,3]'::vector(3) AS v FROM generate_series(1, 500) i")
    _, counts = centroids(items, "'alike', 'id', 'v', 40")
    assert len(counts) == 40 and sum(counts) == 500


def test_a_sample_that_cannot_hold_the_clusters_is_refused_with_what_it_takes(items):
    items.execute("CREATE TABLE wide AS SELECT i AS id, array_fill(i::real, ARRAY[4000])::vector(4000) AS v "
                  "FROM generate_series(1, 10) i")
    items.execute("SET maintenance_work_mem = '32MB'")
    state, message, hint = refusal(items, "SELECT * FROM vekter_kmeans('wide', 'id', 'v', 5000)")
    assert (state, message) == ("53400", "maintenance_work_mem is too small for so many clusters")
    assert "maintenance_work_mem to at least" in hint


def test_the_caller_sees_clusters_of_the_rows_that_he_may_see(items):
    items.execute("CREATE ROLE kmeans_reader")
    try:
        items.execute("UPDATE items SET who = 'kmeans_reader' WHERE id % 4 = 0")
        items.execute("SET ROLE kmeans_reader")
        assert refusal(items, f"SELECT * FROM vekter_kmeans({CALL})")[0] == "42501"
        items.execute("RESET ROLE")
        items.execute("GRANT SELECT ON items TO kmeans_reader")
        items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
        items.execute("CREATE POLICY own ON items FOR SELECT TO kmeans_reader USING (who = current_user)")
        items.execute("SET ROLE kmeans_reader")
        assert assigned(items)[0] == list(range(0, ROWS, 4))
    finally:
        items.execute("RESET ROLE")
        items.execute("DROP OWNED BY kmeans_reader")
        items.execute("DROP ROLE kmeans_reader")


def test_it_can_be_cancelled(items):
    items.execute("CREATE TABLE big AS SELECT i AS id, array_fill(random()::real, ARRAY[64])::vector(64) + "
                  "array_fill((i % 977)::real, ARRAY[64])::vector(64) AS v FROM generate_series(1, 60000) i")
    items.execute("SET statement_timeout = '1s'")
    assert refusal(items, "SELECT count(*) FROM vekter_kmeans('big', 'id', 'v', 5000, iterations => 1000)")[0] == "57014"
    items.execute("RESET statement_timeout")
    assert items.execute("SELECT count(*) FROM vekter_kmeans('big', 'id', 'v', 2, iterations => 2)").fetchone() == (60_000,)
