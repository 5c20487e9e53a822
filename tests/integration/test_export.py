"""vekter_export(): a file that faiss.read_index opens, with the ids for labels, and that answers as knn() does."""

import os
import stat

import numpy as np
import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from upkeep import vacuum_dead_rows

faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed: nothing that could read an exported file")

ROWS, DIMENSIONS = 5_000, 32
VECTORS = clustered(ROWS + 30, DIMENSIONS, seed=321)
QUERIES = VECTORS[ROWS:]
EXACT = (("Flat", "l2"), ("HNSW32", "cosine"), ("IVF64,Flat", "ip"), ("IVF64,PQ16x4fs,RFlat", "l2"),
         ("IVF64_HNSW16,Flat", "cosine"))
LOSSY = (("SQ8", "l2"), ("IVF64,PQ16", "ip"), ("OPQ16,IVF64,PQ16", "l2"), ("HNSW32,SQ8", "cosine"), ("PQ16x4fs", "l2"),
         ("PCA24,SQfp16", "ip"))


def make_items(db):
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), who text DEFAULT 'public')")
    copy_vectors(db, "items", VECTORS[:ROWS], ids=np.arange(ROWS) * 3 + 1_000_000_000_000)


@pytest.fixture
def items(items):
    items.execute("SET vekter.background_compaction = off")
    items.execute("SET max_parallel_maintenance_workers = 1")
    return items


def build(db, factory, metric="l2", include="INCLUDE (id)"):
    db.execute(f"CREATE INDEX built ON items USING faiss (embedding vector_{metric}_ops) {include} "
               f"WITH (factory = '{factory}')")


def exported(db, tmp_path, name="built"):
    """The index as Python's FAISS reads it, from the bytes and from a file."""
    data = db.execute(f"SELECT vekter_export('{name}')").fetchone()[0]
    path = tmp_path / "exported.faiss"
    path.write_bytes(data)
    return faiss.read_index(str(path))


def knn(db, query, k=10):
    return [id for id, in db.execute(f"SELECT id FROM knn('built', '{to_text(query)}', {k})").fetchall()]


def overlap(db, index, k=10):
    """Share of knn's rows that the exported index finds too."""
    _, labels = index.search(QUERIES, k)
    return np.mean([len(set(knn(db, query, k)) & set(found)) / k for query, found in zip(QUERIES, labels.tolist())])


def refusal(db, sql):
    with pytest.raises(psycopg.Error) as error:
        db.execute(sql)
    diag = error.value.diag
    return diag.sqlstate, diag.message_primary, diag.message_hint or ""


# -- the same answers -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("factory, metric", EXACT)
def test_where_distances_are_exact_the_answers_are_knns(items, tmp_path, factory, metric):
    build(items, factory, metric)
    # knn() looks at more candidates than it is asked for, which FAISS does not.
    assert overlap(items, exported(items, tmp_path)) >= (1.0 if factory == "Flat" else 0.9)
    for setting, value in (("nprobe", 64), ("ef_search", ROWS), ("k_factor", 200)):
        items.execute(f"SET vekter.{setting} = {value}")
    index = exported(items, tmp_path)
    assert index.ntotal == ROWS and index.d == DIMENSIONS
    assert overlap(items, index) == 1.0
    values, labels = index.search(QUERIES, 5)
    for query, value, found in zip(QUERIES, values, labels):
        operator = {"l2": "<->", "ip": "<#>", "cosine": "<=>"}[metric]
        own = dict(items.execute(f"SELECT id, embedding {operator} '{to_text(query)}' FROM items "
                                 "WHERE id = ANY(%s)", [found.tolist()]).fetchall())
        theirs = {"l2": np.sqrt(value), "ip": -value, "cosine": 1 - value}[metric]
        assert np.allclose([own[id] for id in found.tolist()], theirs, atol=1e-3)


@pytest.mark.parametrize("factory, metric", LOSSY)
def test_where_codes_are_lossy_the_estimates_come_from_the_same_codes(items, tmp_path, factory, metric):
    """knn() ranks again by the rows themselves, which the file does not have: so not the same order."""
    build(items, factory, metric)
    index = exported(items, tmp_path)
    assert index.ntotal == ROWS
    _, labels = index.search(QUERIES, 100)
    missing = [len(set(knn(items, query)) - set(found)) for query, found in zip(QUERIES, labels.tolist())]
    assert np.mean(missing) < 0.5, "of 10 rows, among 100 candidates"
    id = 1_000_000_000_000 + 3 * 77
    if factory != "PQ16x4fs" and "HNSW" not in factory and metric != "cosine":
        decoded = items.execute(f"SELECT decoded::real[] FROM vekter_reconstruct('built', {id})").fetchone()[0]
        if "IVF" in factory:
            faiss.extract_index_ivf(faiss.downcast_index(index.index)).make_direct_map()
        assert np.allclose(index.reconstruct(id), decoded, atol=1e-4)


def test_a_file_searches_with_the_parameters_of_the_session_that_wrote_it(items, tmp_path):
    build(items, "IVF64,Flat")
    items.execute("SET vekter.nprobe = 7")
    assert faiss.extract_index_ivf(exported(items, tmp_path)).nprobe == 7
    items.execute("RESET vekter.nprobe")
    items.execute("ALTER INDEX built SET (search = 'nprobe=9')")
    assert faiss.extract_index_ivf(exported(items, tmp_path)).nprobe == 9


# -- the rows that are visible --------------------------------------------------------------------------------------

@pytest.mark.parametrize("factory", ("Flat", "HNSW32", "IVF64,Flat", "SQ8"))
def test_rows_of_all_segments_and_the_delta_are_in_and_dead_ones_are_not(items, tmp_path, factory):
    build(items, factory)
    # The file is one segment and knn() asks several, so only wide searches agree.
    items.execute("SET vekter.nprobe = 64")
    items.execute("SET vekter.ef_search = 400")
    items.execute("SET vekter.delta_limit = '64kB'")
    copy_vectors(items, "items", VECTORS[:1500] + 0.5, ids=np.arange(1500))
    assert items.execute("SELECT count(*) FROM vekter_segments('built')").fetchone()[0] > 1
    whole = exported(items, tmp_path)
    assert whole.ntotal == ROWS + 1500
    items.execute("DELETE FROM items WHERE id % 5 = 0")
    items.execute(f"UPDATE items SET embedding = '{to_text(QUERIES[0])}' WHERE id = 1")
    items.execute("UPDATE items SET embedding = NULL WHERE id = 2")
    items.execute("UPDATE items SET who = 'me' WHERE id % 7 = 0")
    ids = [id for id, in items.execute("SELECT id FROM items WHERE embedding IS NOT NULL ORDER BY id")]
    for vacuum in (False, True):
        if vacuum:
            vacuum_dead_rows(items)
        index = exported(items, tmp_path)
        assert sorted(faiss.vector_to_array(index.id_map).tolist()) == ids
        assert index.search(QUERIES[:1], 1)[1][0, 0] == 1
        assert overlap(items, index) >= (1.0 if factory == "Flat" else 0.97)


def test_an_open_transaction_exports_what_it_sees(items, cluster, database, tmp_path):
    build(items, "Flat")
    with cluster.connect(database) as other:
        items.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        items.execute("SELECT count(*) FROM items")
        other.execute("DELETE FROM items WHERE id % 2 = 0")
        other.execute(f"INSERT INTO items VALUES (5, '{to_text(QUERIES[0])}')")
        assert exported(items, tmp_path).ntotal == ROWS
        items.execute(f"INSERT INTO items VALUES (6, '{to_text(QUERIES[0])}')")
        assert exported(items, tmp_path).ntotal == ROWS + 1
        items.execute("ROLLBACK")
        index = exported(items, tmp_path)
        assert index.ntotal == ROWS // 2 + 1 and index.search(QUERIES[:1], 1)[1][0, 0] == 5


def test_an_empty_index_is_an_empty_file(items, tmp_path):
    items.execute("TRUNCATE items")
    build(items, "IVF64,Flat")
    assert exported(items, tmp_path).ntotal == 0


def test_partial_indexes_expressions_primary_keys_and_small_integers(items, tmp_path):
    items.execute("CREATE TABLE small (a int PRIMARY KEY, b smallint, v real[])")
    items.execute("INSERT INTO small SELECT i - 100, i, ARRAY[i, 1] FROM generate_series(1, 200) i")
    items.execute("CREATE INDEX by_key ON small USING faiss ((v::vector(2))) WHERE a > -50")
    index = exported(items, tmp_path, "by_key")
    assert sorted(faiss.vector_to_array(index.id_map).tolist()) == list(range(-49, 101))
    assert index.search(np.array([[120.0, 1]], dtype="f4"), 1)[1].tolist() == [[20]]
    items.execute("CREATE INDEX by_b ON small USING faiss ((v::vector(2)) vector_cosine_ops) INCLUDE (b)")
    assert sorted(faiss.vector_to_array(exported(items, tmp_path, "by_b").id_map).tolist()) == list(range(1, 201))


# -- files ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def folder(tmp_path):
    """Where the server's account may write."""
    for parent in [tmp_path, *tmp_path.parents]:
        if os.stat(parent).st_uid == os.getuid() and str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)
    folder = tmp_path / "server"
    folder.mkdir()
    os.chmod(folder, 0o777)
    return folder


def test_a_file_on_the_server_has_the_same_bytes_and_replaces_what_was_there(items, folder):
    build(items, "SQ8")
    path = folder / "it's an index.faiss"
    quoted = str(path).replace("'", "''")
    for _ in range(2):
        assert items.execute(f"SELECT vekter_export('built', '{quoted}')").fetchone() == (ROWS,)
    data = items.execute("SELECT vekter_export('built')").fetchone()[0]
    assert path.read_bytes() == data and stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(folder) == [path.name]


@pytest.mark.parametrize("name, state", [("relative", "42602"), ("{}/missing/x", "58P01"), ("{}", "42809"),
                                         ("/dev/null", "42809"), ("/", "42809"), ("{}/link", "42809")])
def test_what_is_no_place_for_a_file_is_refused(items, folder, name, state):
    build(items, "SQ8")
    (folder / "target").write_text("precious")
    (folder / "link").symlink_to(folder / "target")
    assert refusal(items, f"SELECT vekter_export('built', '{name.format(folder)}')")[0] == state
    assert sorted(os.listdir(folder)) == ["link", "target"] and (folder / "target").read_text() == "precious"


def test_privileges_for_rows_and_for_files(items, folder):
    build(items, "Flat")
    to_bytes, to_file = "SELECT vekter_export('built')", f"SELECT vekter_export('built', '{folder}/x')"
    items.execute("CREATE ROLE export_reader")
    try:
        items.execute("SET ROLE export_reader")
        assert refusal(items, to_bytes)[0] == "42501"
        items.execute("RESET ROLE")
        items.execute("GRANT SELECT (id) ON items TO export_reader")
        items.execute("SET ROLE export_reader")
        assert refusal(items, to_bytes)[0] == "42501"
        items.execute("RESET ROLE")
        items.execute("GRANT SELECT (id, embedding) ON items TO export_reader")
        items.execute("SET ROLE export_reader")
        assert len(items.execute(to_bytes).fetchone()[0]) > ROWS * DIMENSIONS * 4
        state, message, hint = refusal(items, to_file)
        assert (state, message) == ("42501", "permission denied to write files on the server")
        assert "vekter_export(index)" in hint
        items.execute("RESET ROLE")
        items.execute("GRANT pg_write_server_files TO export_reader")
        items.execute("SET ROLE export_reader")
        assert items.execute(to_file).fetchone() == (ROWS,)
        items.execute("RESET ROLE")
        items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
        items.execute("CREATE POLICY own ON items FOR SELECT TO export_reader USING (true)")
        items.execute("SET ROLE export_reader")
        for statement in (to_bytes, to_file):
            state, message, _ = refusal(items, statement)
            assert state == "42501" and "row-level security" in message
        items.execute("RESET ROLE")
        items.execute("ALTER ROLE export_reader BYPASSRLS")
        items.execute("SET ROLE export_reader")
        assert items.execute(to_bytes).rowcount == 1
    finally:
        items.execute("RESET ROLE")
        items.execute("DROP OWNED BY export_reader")
        items.execute("DROP ROLE export_reader")


def test_a_cancelled_export_leaves_no_file(items, folder):
    # Enough rows for a graph of the living half to take several times as long as the export is given.
    for turn in range(1, 5):
        copy_vectors(items, "items", VECTORS[:ROWS] + np.float32(0.1 * turn), ids=np.arange(ROWS) + turn * ROWS)
    build(items, "HNSW64")
    items.execute("DELETE FROM items WHERE id % 2 = 0")
    items.execute("SET statement_timeout = '150ms'")
    assert refusal(items, f"SELECT vekter_export('built', '{folder}/x')")[0] == "57014"
    assert os.listdir(folder) == []


def test_an_index_without_ids_is_refused(items):
    items.execute("CREATE TABLE bare (embedding vector(4))")
    items.execute("CREATE INDEX without_id ON bare USING faiss (embedding)")
    state, message, hint = refusal(items, "SELECT vekter_export('without_id')")
    assert state == "55000" and "finds no integer id column" in message and "INCLUDE (id)" in hint
    items.execute("CREATE TABLE gaps (id bigint, embedding vector(2))")
    items.execute("INSERT INTO gaps VALUES (NULL, '[1,2]')")
    items.execute("CREATE INDEX gap ON gaps USING faiss (embedding) INCLUDE (id)")
    assert refusal(items, "SELECT vekter_export('gap')")[:2] == ("23502", "the id column contains null values")
    assert refusal(items, "SELECT vekter_export('items_pkey')")[0] == "42809"
