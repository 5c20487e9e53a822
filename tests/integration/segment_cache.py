"""The cache folder as a test sees it: its files, and searches that need them."""

import shutil

import pytest

from data import clustered, copy_vectors
from oracle import nearest_sql, settings, with_index, without_index

ROWS, DIMENSIONS = 5_000, 32
VECTORS = clustered(ROWS + 20, DIMENSIONS, seed=91)
QUERY = VECTORS[-1]
EVERY_LIST = {"vekter.nprobe": 32, "vekter.ef_search": 10_000}


def make(db, factory="IVF32,Flat", table="items", rows=ROWS):
    db.execute(f"CREATE TABLE {table} (id bigint PRIMARY KEY, embedding vector({DIMENSIONS})) "
               "WITH (autovacuum_enabled = off)")
    copy_vectors(db, table, VECTORS[:rows])
    db.execute(f"CREATE INDEX {table}_faiss ON {table} USING faiss (embedding) WITH (factory = '{factory}')")


def folder(cluster):
    return cluster.data / "pgsql_tmp_vekter"


def files(cluster):
    """The segment files. Beside each may lie a small stamp, `<name>.verified`: it spares others a second check."""
    return {p for p in folder(cluster).rglob("*") if p.is_file() and p.suffix != ".verified"}


def search(cluster, database, table="items"):
    """The answer of a new connection, which opens the segment anew."""
    with cluster.connect(database) as conn, settings(conn, **EVERY_LIST):
        return with_index(conn, nearest_sql(table, QUERY, 30), f"{table}_faiss")


@pytest.fixture
def one_file(cluster, db, database):
    """(path of the only file that a search of `items` needs, its right answer)."""
    shutil.rmtree(folder(cluster), ignore_errors=True)
    make(db)
    expected = search(cluster, database)
    assert expected == without_index(db, nearest_sql("items", QUERY, 30))
    [path] = files(cluster)
    return path, expected
