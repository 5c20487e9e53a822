"""vekter_import(): an index of a table from FAISS's bytes, checked against the table, whatever the bytes are."""

import os

import numpy as np
import psycopg
import pytest

from data import clustered, copy_vectors, to_text
from upkeep import vacuum_dead_rows

faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed: nothing that could build a file to import")

ROWS, DIMENSIONS = 2_000, 32
VECTORS = clustered(ROWS + 220, DIMENSIONS, seed=322)
QUERIES, OTHERS = VECTORS[ROWS:ROWS + 20], VECTORS[ROWS + 20:]
UNIT = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
IDS = np.arange(ROWS) * 3 + 1_000_000_000_000
FAMILIES = ("Flat", "HNSW16", "HNSW16,SQ8", "IVF32,Flat", "IVF32,PQ8x4", "RR,IVF32_HNSW8,PQ8x4", "IVF32,PQ16x4fs,RFlat",
            "PQ16x4fs", "SQ8", "PCA24,SQfp16")


def make_items(db):
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}))")
    copy_vectors(db, "items", VECTORS[:ROWS], ids=IDS)


@pytest.fixture
def items(items):
    items.execute("SET vekter.background_compaction = off")
    items.execute("SET max_parallel_maintenance_workers = 1")
    return items


def trained(factory, metric=faiss.METRIC_L2, vectors=VECTORS):
    index = faiss.index_factory(DIMENSIONS, factory, metric)
    index.train(vectors[:ROWS])
    return index


def labelled(factory, metric=faiss.METRIC_L2, vectors=VECTORS[:ROWS], ids=IDS):
    index = faiss.IndexIDMap2(trained(factory, metric))
    index.add_with_ids(vectors, ids)
    return index


def data_of(index):
    return faiss.serialize_index(index).tobytes()


def import_index(db, index, metric=None, name="imported"):
    data = index if isinstance(index, bytes) else data_of(index)
    return db.execute("SELECT vekter_import('items', 'id', 'embedding', %s::bytea, %s, %s)::text",
                      (data, metric, name)).fetchone()[0]


def refusal(db, index, metric=None, name="imported"):
    with pytest.raises(psycopg.Error) as error:
        import_index(db, index, metric, name)
    diag = error.value.diag
    return diag.sqlstate, diag.message_primary, diag.message_detail or "", diag.message_hint or ""


def is_clean(db, index="imported"):
    return db.execute(f"SELECT * FROM vekter_check('{index}', heap => true)").fetchall() == []


def neighbours(db, query, index="imported", k=10):
    return db.execute(f"SELECT id, distance FROM knn('{index}', '{to_text(query)}', {k})").fetchall()


def recall(db, queries=QUERIES, operator="<->", k=10):
    found = []
    for query in queries:
        db.execute("SET enable_indexscan = off")
        exact = {id for id, in db.execute(f"SELECT id FROM items ORDER BY embedding {operator} '{to_text(query)}' LIMIT {k}")}
        db.execute("SET enable_indexscan = on")
        found.append(len(exact & {id for id, _ in neighbours(db, query, k=k)}) / k)
    return np.mean(found)


def search_widely(db):
    for setting, value in (("nprobe", 32), ("ef_search", 500), ("k_factor", 100)):
        db.execute(f"SET vekter.{setting} = {value}")


# -- the same index again -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("factory, metric", [(factory, "l2") for factory in FAMILIES] + [
    ("HNSW16", "ip"), ("HNSW16", "cosine"), ("IVF32,Flat", "cosine"), ("RR,IVF32_HNSW8,PQ8x4", "cosine"), ("Flat", "l1")])
def test_what_was_exported_is_imported_as_the_same_index(items, factory, metric):
    items.execute(f"CREATE INDEX built ON items USING faiss (embedding vector_{metric}_ops) INCLUDE (id) "
                  f"WITH (factory = '{factory}')")
    search_widely(items)
    data = items.execute("SELECT vekter_export('built')").fetchone()[0]
    before = [neighbours(items, query, "built") for query in QUERIES[:5]]
    assert import_index(items, data) == "imported"
    items.execute("DROP INDEX built")
    assert [neighbours(items, query) for query in QUERIES[:5]] == before
    assert is_clean(items)
    assert items.execute("SELECT metric, rows_indexed, delta_rows FROM vekter_index_stats('imported')").fetchone() == (
        metric, ROWS, 0)


@pytest.mark.parametrize("factory", FAMILIES[1:8])
def test_what_faiss_built_answers_as_it_does_there(items, factory):
    index = labelled(factory)
    import_index(items, index)
    assert is_clean(items)
    search_widely(items)
    assert recall(items) >= (0.9 if "PQ" not in factory or "RFlat" in factory else 0.7)
    items.execute("REINDEX INDEX imported")
    assert is_clean(items) and recall(items) >= (0.9 if "PQ" not in factory or "RFlat" in factory else 0.7)


def test_cosine_over_rows_that_were_normalised_elsewhere(items):
    """By another library, so that their last digits may differ."""
    index = labelled("HNSW16", faiss.METRIC_INNER_PRODUCT, UNIT[:ROWS].astype("f4"))
    import_index(items, index, "cosine")
    search_widely(items)
    assert is_clean(items) and recall(items, operator="<=>") >= 0.95
    assert "do not fit" not in refusal(items, labelled("HNSW16"), "cosine", "other")[1]


def test_ids_in_inverted_lists_and_no_ids_at_all(items):
    index = trained("IVF32,PQ8x4")
    index.add_with_ids(VECTORS[:ROWS], IDS)
    import_index(items, index, name="by_list")
    assert is_clean(items, "by_list")
    index = trained("HNSW16")
    index.add(VECTORS[:ROWS])
    import_index(items, index, name="by_order")
    assert is_clean(items, "by_order")
    items.execute("DELETE FROM items WHERE id = 1000000000000")
    vacuum_dead_rows(items)
    state, message, detail, hint = refusal(items, index)
    assert (state, message) == ("22000", "the FAISS index does not fit the table")
    assert f"{ROWS} rows" in detail and f"{ROWS - 1}" in detail and "add_with_ids" in hint


def test_a_trained_index_without_rows_takes_the_tables(items):
    index = trained("IVF32,PQ8x4")
    import_index(items, index)
    assert is_clean(items)
    assert items.execute("SELECT rows_indexed FROM vekter_index_stats('imported')").fetchone() == (ROWS,)
    # Measured by rows that were held back, as in any build.
    assert items.execute("SELECT count(*) > 0 FROM vekter_operating_points('imported')").fetchone()[0]
    assert recall(items) >= 0.7
    data = items.execute("SELECT vekter_export('imported')").fetchone()[0]
    container = faiss.deserialize_index(np.frombuffer(data, dtype="u1"))
    exported = faiss.downcast_index(container.index)
    assert np.array_equal(faiss.vector_to_array(exported.pq.centroids), faiss.vector_to_array(index.pq.centroids))


def test_rows_that_the_file_lacks_come_from_the_table(items):
    index = labelled("HNSW16", vectors=VECTORS[:ROWS - 500], ids=IDS[:ROWS - 500])
    import_index(items, index)
    search_widely(items)
    assert is_clean(items) and recall(items) >= 0.95
    assert items.execute("SELECT rows_indexed FROM vekter_index_stats('imported')").fetchone() == (ROWS,)
    assert neighbours(items, VECTORS[ROWS - 1], k=1)[0][0] == IDS[-1]


def test_an_imported_index_lives_as_any_other(items):
    import_index(items, labelled("IVF32,Flat"))
    copy_vectors(items, "items", OTHERS, ids=np.arange(200))
    items.execute("DELETE FROM items WHERE id % 2 = 1 AND id > 1000")
    vacuum_dead_rows(items)
    assert is_clean(items)
    items.execute("SELECT vekter_compact('imported')")
    search_widely(items)
    assert is_clean(items) and recall(items) == 1.0
    assert neighbours(items, OTHERS[7], k=1)[0][0] == 7
    definition = items.execute("SELECT pg_get_indexdef('imported'::regclass)").fetchone()[0]
    assert "IVF32,Flat" in definition and "INCLUDE (id)" in definition
    items.execute("DROP INDEX imported")
    items.execute(definition)
    assert is_clean(items)


def test_rows_that_others_still_see_are_in_the_index(items, cluster, database):
    with cluster.connect(database) as other:
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT count(*) FROM items")
        items.execute(f"UPDATE items SET embedding = embedding WHERE id = {IDS[5]}")
        items.execute(f"DELETE FROM items WHERE id = {IDS[6]}")
        keep = np.arange(ROWS) != 6
        import_index(items, labelled("Flat", vectors=VECTORS[:ROWS][keep], ids=IDS[keep]))
        other.execute("ROLLBACK")
    assert is_clean(items)
    assert neighbours(items, VECTORS[5], k=1)[0][0] == IDS[5]
    items.execute("VACUUM items")
    assert is_clean(items)


def test_nulls_and_zero_vectors_are_left_out(items):
    items.execute(f"UPDATE items SET embedding = NULL WHERE id = {IDS[0]}")
    keep = np.arange(ROWS) != 0
    index = labelled("Flat", vectors=VECTORS[:ROWS][keep], ids=IDS[keep])
    import_index(items, index)
    assert is_clean(items)


# -- what does not fit ----------------------------------------------------------------------------------------------

def test_another_tables_index_is_refused_and_nothing_is_left(items):
    misfit = ("22000", "the FAISS index does not fit the table")
    moved = np.roll(VECTORS[:ROWS], 1, axis=0)
    for factory in ("Flat", "HNSW16", "IVF32,Flat", "IVF32,PQ8x4", "SQ8", "PQ16x4fs"):
        state, message, detail, _ = refusal(items, labelled(factory, vectors=moved))
        assert (state, message) == misfit and "differ from the table's rows" in detail, factory
    one = VECTORS[:ROWS].copy()
    one[77] += 1
    state, message, detail, _ = refusal(items, labelled("HNSW16", vectors=one))
    assert detail == f"1 of its {ROWS} rows differ from the table's rows with the same ids: {IDS[77]}."
    state, message, detail, _ = refusal(items, labelled("Flat", ids=IDS + 1))
    assert (state, message) == misfit and f"{ROWS} of its {ROWS} rows have an id that no row" in detail
    assert f": {IDS[0] + 1}, " in detail and detail.endswith(" and others.")
    small = faiss.IndexFlatL2(8)
    assert refusal(items, small)[2] == "It has 8 dimensions, and the column has 32."
    assert refusal(items, labelled("Flat"), "ip")[:2] == ("0A000", "cannot import this FAISS index")
    assert refusal(items, labelled("Flat"), "manhattan")[:2] == ("22023", 'unknown metric "manhattan"')
    assert items.execute("SELECT count(*) FROM pg_class WHERE relname = 'imported'").fetchone() == (0,)
    items.execute("CREATE TABLE twice (id bigint, embedding vector(32))")
    copy_vectors(items, "twice", np.repeat(VECTORS[:5], 2, axis=0), ids=np.repeat(np.arange(5), 2))
    index = labelled("Flat", vectors=VECTORS[:5], ids=np.arange(5))
    with pytest.raises(psycopg.Error) as error:
        items.execute("SELECT vekter_import('twice', 'id', 'embedding', %s::bytea)", (data_of(index),))
    assert "two rows of the table have the id" in error.value.diag.message_detail.lower()


def test_an_empty_table_keeps_nothing_of_a_file(items):
    items.execute("TRUNCATE items")
    assert "nothing to keep it for" in refusal(items, trained("IVF32,PQ8x4"))[2]


def test_kinds_of_index_that_are_not_imported_are_named(items):
    for factory, reason, hint in (
            ("LSH", "LSH codes are not", "CREATE INDEX builds"), ("RaBitQ", "RaBitQ codes are not", "CREATE INDEX builds"),
            ("IVF32,RaBitQ", "RaBitQ codes are not", "CREATE INDEX builds"),
            ("RQ4x4", "Codes of additive quantisers are not", "CREATE INDEX builds"),
            ("IVF32,LSQ4x4", "Codes of additive quantisers are not", "CREATE INDEX builds"),
            ("ITQ16,SQ8", "Transforms by ITQ are not", "CREATE INDEX builds"), ("NSG16", "type (INSf)", "index_factory()"),
            ("IVF32(PQ8x4),Flat", "coarse quantiser", "index_factory()")):
        state, message, detail, told = refusal(items, trained(factory))
        assert (state, message) == ("0A000", "cannot import this FAISS index") and reason in detail and hint in told, factory
    untrained = faiss.index_factory(DIMENSIONS, "IVF32,PQ8")
    assert refusal(items, untrained)[2] == "It is not trained."
    mapped = trained("IVF32,Flat")
    mapped.add(VECTORS[:ROWS])
    mapped.make_direct_map()
    assert "direct map" in refusal(items, mapped)[2]
    assert refusal(items, b"")[:2] == ("22P03", "not a valid FAISS index")
    assert refusal(items, b"hello, world, this is no index")[2] == "It does not begin as FAISS's files do."


def test_partitioned_tables_and_other_things_are_refused(items):
    items.execute("CREATE TABLE parts (id bigint, embedding vector(32)) PARTITION BY RANGE (id)")
    flat = data_of(labelled("Flat"))
    for arguments, state in (("'parts', 'id', 'embedding'", "0A000"), ("'items', 'no', 'embedding'", "42703"),
                             ("'items', 'id', 'id'", "42804"), ("'items_pkey', 'id', 'embedding'", "42809"),
                             ("NULL, 'id', 'embedding'", "22004")):
        with pytest.raises(psycopg.Error) as error:
            items.execute(f"SELECT vekter_import({arguments}, %s::bytea)", (flat,))
        assert error.value.sqlstate == state, arguments


# -- hostile bytes --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("factory", ("HNSW8", "IVF8_HNSW4,PQ4x4", "IVF8,PQ4x4fs,RFlat", "OPQ4,SQ8"))
def test_damaged_bytes_are_an_error_or_a_sound_index(db, factory):
    db.execute("CREATE TABLE items (id bigint PRIMARY KEY, embedding vector(8))")
    vectors = clustered(300, 8, seed=5)
    copy_vectors(db, "items", vectors, ids=np.arange(300))
    index = faiss.index_factory(8, factory)
    index.train(vectors)
    index = faiss.IndexIDMap2(index)
    index.add_with_ids(vectors, np.arange(300))
    data = data_of(index)
    random = np.random.default_rng(6)
    built = 0
    for attempt in range(120):
        changed = bytearray(data)
        if attempt % 4 == 0:
            changed = changed[:random.integers(len(data))]
        else:
            at = random.integers(300 if attempt % 4 == 1 else len(data) - 8)
            value = [b"\xff" * 8, b"\0" * 8, (1 << 40).to_bytes(8, "little"), bytes([changed[at] ^ 1 << random.integers(8)])]
            value = value[random.integers(4)]
            changed[at:at + len(value)] = value
        try:
            import_index(db, bytes(changed))
        except psycopg.Error as error:
            assert error.sqlstate in ("22P03", "0A000", "22000", "22023"), (attempt, error)
            continue
        built += 1
        assert is_clean(db)
        assert len(neighbours(db, vectors[0])) == 10
        db.execute("DROP INDEX imported")
    assert built < 120
    import_index(db, data)


# -- files and privileges -------------------------------------------------------------------------------------------

@pytest.fixture
def folder(tmp_path):
    """Where the server's account may read."""
    for parent in [tmp_path, *tmp_path.parents]:
        if os.stat(parent).st_uid == os.getuid() and str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)
    return tmp_path


def test_files_on_the_server_are_for_those_who_may_read_them(items, folder):
    path = folder / "it's an index.faiss"
    path.write_bytes(data_of(labelled("SQ8")))
    os.chmod(path, 0o644)
    quoted = str(path).replace("'", "''")
    statement = f"SELECT vekter_import('items', 'id', 'embedding', '{quoted}')::text"
    assert items.execute(statement).fetchone() == ("items_embedding_idx",)
    assert is_clean(items, "items_embedding_idx")
    for name, state in (("relative", "42602"), (f"{folder}/missing", "58P01"), (str(folder), "42809"), ("/dev/zero", "42809")):
        with pytest.raises(psycopg.Error) as error:
            items.execute(f"SELECT vekter_import('items', 'id', 'embedding', '{name}')")
        assert error.value.sqlstate == state, name
    items.execute("CREATE ROLE importer")
    try:
        items.execute("GRANT ALL ON SCHEMA public TO importer")
        items.execute("GRANT SELECT ON items TO importer")
        items.execute("SET ROLE importer")
        state, message, _, _ = refusal(items, labelled("SQ8"))
        assert (state, message) == ("42501", "must be owner of table items")
        with pytest.raises(psycopg.Error) as error:
            items.execute(statement)
        assert error.value.sqlstate == "42501" and "read files on the server" in str(error.value)
        assert "as bytea" in error.value.diag.message_hint
        items.execute("RESET ROLE")
        items.execute("ALTER TABLE items OWNER TO importer")
        items.execute("SET ROLE importer")
        assert import_index(items, labelled("SQ8")) == "imported"
        items.execute("RESET ROLE")
        items.execute("GRANT pg_read_server_files TO importer")
        items.execute("SET ROLE importer")
        items.execute(statement)
    finally:
        items.execute("RESET ROLE")
        items.execute("ALTER TABLE items OWNER TO CURRENT_USER")
        items.execute("DROP OWNED BY importer")
        items.execute("DROP ROLE importer")
