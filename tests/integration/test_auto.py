"""factory = 'auto': what is chosen of which rows, memory and recall, that it says why, and that it grows with the table."""

import re

import numpy as np
import pytest

from data import clustered, copy_vectors
from oracle import assert_clean, assert_same_answer, nearest_sql, recall, settings, with_index, without_index
from upkeep import stats, vacuum_dead_rows

DIMENSIONS = 32
ROWS = clustered(21_000, DIMENSIONS, seed=51)
QUESTIONS = ROWS[20_990:]
EVERYTHING = {"vekter.nprobe": 100_000, "vekter.ef_search": 50_000, "vekter.k_factor": 10_000}


@pytest.fixture(scope="module")
def cluster(new_module_cluster):
    return new_module_cluster({"vekter.delta_limit": "64kB", "vekter.background_compaction": "off",
                               "max_wal_size": "4GB"})


def fill(db, first, end, dimensions=DIMENSIONS):
    copy_vectors(db, "items", ROWS[first:end, :dimensions], ids=range(first, end))


def make(db, rows, metric="l2", options="", dimensions=DIMENSIONS):
    db.execute(f"CREATE TABLE items (id bigint, embedding vector({dimensions})) WITH (autovacuum_enabled = off)")
    fill(db, 0, rows, dimensions)
    db.execute(f"CREATE INDEX built ON items USING faiss (embedding vector_{metric}_ops) {options}")


def factory(db):
    return stats(db, "factory")


def assert_right(db, metric="l2", dimensions=DIMENSIONS, least_recall=0.9):
    """Answers are those of the table where all is searched, nearly so by default, and the index is sound."""
    for question in QUESTIONS[:3, :dimensions]:
        with settings(db, **EVERYTHING):
            assert_same_answer(db, "items", question, limit=20, index="built", metric=metric)
    shares = []
    for question in QUESTIONS[:, :dimensions]:
        sql = nearest_sql("items", question, 10, metric)
        shares.append(recall(with_index(db, sql, "built"), without_index(db, sql)))
    assert np.mean(shares) >= least_recall
    assert_clean(db, "built")


@pytest.mark.parametrize("options", ("", "WITH (factory = 'auto')"))
@pytest.mark.parametrize("rows, chosen", ((2_000, "Flat"), (12_000, "HNSW32")))
def test_few_rows_are_scanned_and_many_searched_by_a_graph(db, rows, chosen, options):
    make(db, rows, options=options)
    assert factory(db) == chosen
    assert stats(db, "reason").startswith(f"{rows:,} rows of {DIMENSIONS} dimensions: ")
    assert_right(db)
    definition = db.execute("SELECT pg_get_indexdef('built'::regclass)").fetchone()[0]
    assert ("factory=auto" in definition) == bool(options), "what the user wrote is kept"


def test_long_rows_are_searched_by_a_graph_sooner(db):
    rows = clustered(3_000, 1_600, seed=52)
    db.execute("CREATE TABLE items (id bigint, embedding vector(1600))")
    copy_vectors(db, "items", rows)
    db.execute("CREATE INDEX built ON items USING faiss (embedding vector_cosine_ops)")
    assert factory(db) == "HNSW32"
    with settings(db, **EVERYTHING):
        assert_same_answer(db, "items", rows[5], limit=10, index="built", metric="cosine")


@pytest.mark.parametrize("cache, metric, chosen", (
    ("9MB", "l2", "HNSW32,SQbf16"), ("7500kB", "ip", "HNSW32,SQ8"), ("2MB", "cosine", "IVF256,SQ8"),
    ("256kB", "l2", "IVF256,PQ8x4fs"), ("2MB", "l1", "IVF256,Flat")))
def test_less_memory_for_searches_means_smaller_codes(db, cache, metric, chosen):
    with settings(db, effective_cache_size=cache):
        make(db, 12_000, metric)
    assert factory(db) == chosen
    reason = stats(db, "reason")
    assert "a graph of full vectors would take" in reason and "effective_cache_size" in reason, reason
    assert_right(db, metric)


def test_a_build_is_not_refused_where_smaller_settings_allow_something(db):
    with settings(db, maintenance_work_mem="1MB"):
        make(db, 12_000)
        assert factory(db) == "HNSW32"
        with settings(db, effective_cache_size="1MB"):
            db.execute("REINDEX INDEX built")
            assert re.fullmatch(r"IVF\d+,.*", factory(db))
    assert_right(db)


def test_recall_of_one_is_exact_and_of_nearly_one_a_graph(db):
    make(db, 12_000, options="WITH (recall = 1)")
    assert factory(db) == "Flat"
    assert "recall = 1" in stats(db, "reason")
    for question in QUESTIONS:
        assert_same_answer(db, "items", question, limit=20, index="built")
    db.execute("ALTER INDEX built SET (recall = 0.99)")
    db.execute("SELECT vekter_compact('built')")
    assert factory(db) == "HNSW32", "compaction goes by the option as it is"
    assert_right(db, least_recall=0.95)


def test_the_choice_grows_with_the_table(db):
    make(db, 3_000)
    assert factory(db) == "Flat"
    for first in range(3_000, 12_000, 3_000):
        with settings(db, **{"vekter.delta_limit": "4MB"}):
            fill(db, first, first + 3_000)
        db.execute("VACUUM items")
    assert "HNSW32" in factory(db), "merging a tier of segments chose"
    assert_right(db)
    db.execute("SELECT vekter_compact('built')")
    assert factory(db) == "HNSW32"
    assert stats(db, "reason").startswith("12,000 rows of")
    with settings(db, effective_cache_size="6MB"):
        fill(db, 12_000, 20_000)
        db.execute("SELECT vekter_compact('built')")
    assert factory(db) == "IVF512,SQ8"
    reason = stats(db, "reason")
    assert reason.startswith("20,000 rows of") and "half of effective_cache_size is 3072 kB" in reason
    assert_right(db)
    # Once coded it stays so, whatever the memory; what is said survives.
    fill(db, 20_000, 20_900)
    db.execute("SELECT vekter_compact('built')")
    assert factory(db) == "IVF512,SQ8"
    assert stats(db, "reason").startswith("20,900 rows of")
    assert_right(db)
    db.execute("REINDEX INDEX built")
    assert factory(db) == "HNSW32"


def test_a_few_deletions_change_nothing_and_many_do(db):
    make(db, 12_000)
    for left, chosen in ((8_000, "HNSW32"), (2_000, "Flat")):
        db.execute(f"DELETE FROM items WHERE id >= {left}")
        vacuum_dead_rows(db, options="(INDEX_CLEANUP ON)")
        db.execute("SELECT vekter_compact('built')")
        assert (factory(db), stats(db, "rows_indexed")) == (chosen, left)
        assert stats(db, "reason").startswith(f"{left:,} rows")
        assert_right(db)


def test_an_explicit_factory_stays_and_needs_no_reason(db):
    make(db, 3_000, options="WITH (factory = 'IVF16,Flat')")
    with settings(db, effective_cache_size="1MB"):
        fill(db, 3_000, 15_000)
        db.execute("SELECT vekter_compact('built')")
    assert stats(db, "factory, reason") == ("IVF16,Flat", None)


def test_an_index_without_a_choice_says_what_becomes_of_its_rows(db):
    make(db, 0)
    why = f"rows of {DIMENSIONS} dimensions: fewer than 10,000 are scanned, which is exact"
    assert stats(db, "factory, reason") == ("auto", f"0 {why}")
    fill(db, 0, 1_500)
    db.execute("SELECT vekter_compact('built')")
    assert stats(db, "factory, reason") == ("Flat", f"1,500 {why}")


def test_what_is_said_survives_a_crash(cluster, db):
    make(db, 12_000)
    said = stats(db, "factory, reason")
    cluster.restart("immediate")
    with cluster.connect(db.info.dbname) as again:
        assert stats(again, "factory, reason") == said
