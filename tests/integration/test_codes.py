"""vekter_quantize() and vekter_reconstruct(): what an index keeps of a vector, and how far that is from it."""

import numpy as np
import psycopg
import pytest

from data import clustered, copy_vectors, to_text

ROWS, DIMENSIONS = 3_000, 32
VECTORS = clustered(ROWS + 20, DIMENSIONS, seed=311)
QUERIES = VECTORS[ROWS:]
# Bytes of a code.
CODES = {
    "Flat": 128, "HNSW16": 128, "SQ8": 32, "SQfp16": 64, "SQ4": 16, "PQ8": 8, "PQ4x5": 3, "PQ8x4fs": 4, "HNSW16,SQ8": 32,
    "IVF16,Flat": 128, "IVF16,PQ8": 8, "IVF16,PQ8x4fs": 4, "IVF16,SQ8": 32, "OPQ8,PQ8": 8, "PCA16,SQ8": 16,
    "IVF16,PQ8,RFlat": 136, "IVF16,PQ8x4fs,Refine(SQ8)": 36,
}
EXACT = ("Flat", "HNSW16", "IVF16,Flat", "IVF16,PQ8,RFlat")


def make_items(db):
    db.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}), note text)")
    copy_vectors(db, "items", VECTORS[:ROWS])


@pytest.fixture
def items(items):
    items.execute("SET vekter.background_compaction = off")
    return items


def build(db, factory, metric="l2"):
    db.execute(f"CREATE INDEX built ON items USING faiss (embedding vector_{metric}_ops) INCLUDE (id) "
               f"WITH (factory = '{factory}')")


def quantized(db, vector):
    code, decoded, error = db.execute(f"SELECT code, decoded::real[], error FROM vekter_quantize('built', "
                                      f"'{to_text(vector)}')").fetchone()
    return bytes(code), np.array(decoded, dtype=np.float32), error


def reconstructed(db, id):
    """[(decoded, error)] of the rows with this id."""
    rows = db.execute(f"SELECT decoded::real[], error FROM vekter_reconstruct('built', {id})").fetchall()
    return [(np.array(decoded, dtype=np.float32), error) for decoded, error in rows]


def refusal(db, sql):
    with pytest.raises(psycopg.Error) as error:
        db.execute(sql)
    diag = error.value.diag
    return diag.sqlstate, diag.message_primary, diag.message_hint or ""


@pytest.mark.parametrize("factory", CODES)
def test_a_row_is_kept_as_the_same_vector_is_quantized_and_the_error_is_the_distance(items, factory):
    build(items, factory)
    for id in (0, 7, ROWS - 1):
        code, decoded, error = quantized(items, VECTORS[id])
        assert len(code) == CODES[factory]
        assert error == pytest.approx(np.linalg.norm(VECTORS[id].astype(np.float64) - decoded), rel=1e-6, abs=1e-9)
        [(kept, kept_error)] = reconstructed(items, id)
        assert np.allclose(kept, decoded, atol=1e-5) and kept_error == pytest.approx(error, abs=1e-5)
    if factory in EXACT:
        assert error == 0
    else:
        spread = np.linalg.norm(VECTORS - VECTORS.mean(axis=0), axis=1).mean()
        assert 0 < np.mean([quantized(items, query)[2] for query in QUERIES]) < spread


@pytest.mark.parametrize("factories", [("PQ4", "PQ8", "PQ16"), ("SQ4", "SQ6", "SQ8", "SQfp16")])
def test_finer_codes_have_smaller_errors(items, factories):
    errors = []
    for factory in factories:
        build(items, factory)
        errors.append(np.mean([quantized(items, query)[2] for query in QUERIES]))
        items.execute("DROP INDEX built")
    assert errors == sorted(errors, reverse=True)


def test_the_code_of_a_flat_index_is_the_vector(items):
    build(items, "Flat")
    assert quantized(items, QUERIES[0])[0] == QUERIES[0].tobytes()


def test_under_cosine_the_direction_is_kept(items):
    build(items, "SQ8", "cosine")
    unit = QUERIES[0] / np.linalg.norm(QUERIES[0])
    _, decoded, error = quantized(items, QUERIES[0])
    assert error == pytest.approx(np.linalg.norm(unit - decoded), abs=1e-6) and error < 0.05
    assert refusal(items, f"SELECT * FROM vekter_quantize('built', '{to_text(np.zeros(DIMENSIONS))}')")[0] == "22023"
    items.execute(f"UPDATE items SET embedding = '{to_text(np.zeros(DIMENSIONS))}' WHERE id = 3")
    assert reconstructed(items, 3) == []
    [(kept, _)] = reconstructed(items, 4)
    assert np.linalg.norm(kept) == pytest.approx(1, abs=0.05)


def test_new_and_changed_rows_are_kept_exactly_until_they_are_sealed(items):
    build(items, "PQ8")
    items.execute(f"INSERT INTO items VALUES (9000, '{to_text(QUERIES[0])}')")
    items.execute(f"UPDATE items SET embedding = '{to_text(QUERIES[1])}' WHERE id = 5")
    for id, vector in ((9000, QUERIES[0]), (5, QUERIES[1])):
        [(kept, error)] = reconstructed(items, id)
        assert error == 0 and (kept == vector).all()
    items.execute("SELECT vekter_compact('built')")
    assert reconstructed(items, 9000)[0][1] > 0


def test_a_row_is_found_after_an_update_that_left_the_index_alone(items):
    items.execute("ALTER TABLE items SET (fillfactor = 50)")
    items.execute("VACUUM FULL items")
    build(items, "PQ8")
    before = reconstructed(items, 5)
    for note in "abc":
        items.execute(f"UPDATE items SET note = '{note}' WHERE id = 5")
    assert items.execute("SELECT n_tup_hot_upd >= 0 FROM pg_stat_user_tables WHERE relname = 'items'").fetchone() == (True,)
    [(kept, error)] = reconstructed(items, 5)
    assert (kept == before[0][0]).all() and error == before[0][1] > 0


def test_what_is_not_in_the_index_gives_no_row(items):
    items.execute("UPDATE items SET embedding = NULL WHERE id = 11")
    items.execute(f"CREATE INDEX built ON items USING faiss (embedding) INCLUDE (id) WITH (factory = 'SQ8') "
                  "WHERE id < 2000")
    items.execute("DELETE FROM items WHERE id = 12")
    assert [len(reconstructed(items, id)) for id in (10, 11, 12, 1999, 2000, -1, 10 ** 15)] == [1, 0, 0, 1, 0, 0, 0]


def test_the_quantiser_of_the_best_trained_segment_is_used(items):
    build(items, "PQ8")
    before = quantized(items, QUERIES[0])
    items.execute("SET vekter.delta_limit = '64kB'")
    copy_vectors(items, "items", VECTORS[:700] + 5, ids=range(20_000, 20_700))
    segments = items.execute("SELECT count(*) FROM vekter_segments('built')").fetchone()[0]
    assert segments > 1
    assert quantized(items, QUERIES[0])[0] == before[0]


@pytest.mark.parametrize("factory, reason", [("LSH", "LSH keeps only signs"), ("ITQ16,SQ8", "cannot be undone")])
def test_codes_that_cannot_be_decoded_are_refused(items, factory, reason):
    build(items, factory)
    for call in (f"vekter_quantize('built', '{to_text(QUERIES[0])}')", "vekter_reconstruct('built', 1)"):
        state, message, _ = refusal(items, f"SELECT * FROM {call}")
        assert state == "22023" and reason in message


def test_an_index_without_segments_cannot_quantize(items):
    items.execute("TRUNCATE items")
    build(items, "PQ8")
    assert refusal(items, f"SELECT * FROM vekter_quantize('built', '{to_text(QUERIES[0])}')")[0] == "55000"
    items.execute(f"INSERT INTO items VALUES (1, '{to_text(QUERIES[0])}')")
    assert reconstructed(items, 1)[0][1] == 0


def test_arguments_that_do_not_fit_are_refused(items):
    build(items, "SQ8")
    assert refusal(items, "SELECT * FROM vekter_quantize('built', '[1,2]')")[:2] == (
        "22000", f"expected {DIMENSIONS} dimensions, not 2")
    assert refusal(items, "SELECT * FROM vekter_quantize('items_pkey', '[1,2]')")[0] == "42809"
    items.execute(f"CREATE TABLE keyless (embedding vector({DIMENSIONS}))")
    items.execute("CREATE INDEX without_id ON keyless USING faiss (embedding)")
    state, message, hint = refusal(items, "SELECT * FROM vekter_reconstruct('without_id', 1)")
    assert state == "55000" and "finds no integer id column" in message and "INCLUDE (id)" in hint


def test_privileges_and_policies_hold(items):
    build(items, "SQ8")
    quantize, reconstruct = (f"SELECT * FROM vekter_quantize('built', '{to_text(QUERIES[0])}')",
                             "SELECT * FROM vekter_reconstruct('built', 1)")
    items.execute("CREATE ROLE codes_reader")
    try:
        items.execute("SET ROLE codes_reader")
        assert refusal(items, quantize)[0] == refusal(items, reconstruct)[0] == "42501"
        items.execute("RESET ROLE")
        items.execute("GRANT SELECT (id, embedding) ON items TO codes_reader")
        items.execute("SET ROLE codes_reader")
        assert items.execute(quantize).rowcount == 1
        assert refusal(items, reconstruct)[0] == "42501", "where a row lies is not a matter of columns"
        items.execute("RESET ROLE")
        items.execute("GRANT SELECT ON items TO codes_reader")
        items.execute("SET ROLE codes_reader")
        assert items.execute(reconstruct).rowcount == 1
        items.execute("RESET ROLE")
        items.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
        items.execute("CREATE POLICY even ON items FOR SELECT TO codes_reader USING (id % 2 = 0)")
        items.execute("SET ROLE codes_reader")
        assert refusal(items, quantize)[0] == "42501"
        assert items.execute(reconstruct).fetchall() == []
        assert items.execute("SELECT * FROM vekter_reconstruct('built', 2)").rowcount == 1
    finally:
        items.execute("RESET ROLE")
        items.execute("DROP OWNED BY codes_reader")
        items.execute("DROP ROLE codes_reader")
