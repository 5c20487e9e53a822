"""New pages: an index that grows adds several at a time and keeps them ready, as many as its size allows."""

import pytest

from data import clustered, copy_vectors
from oracle import assert_clean, assert_same_answer
from small_disk import mounted
from upkeep import vacuum_dead_rows

DIMENSIONS = 384
ROWS = 4_000
VECTORS = clustered(ROWS + 1, DIMENSIONS, seed=811)
ROWS_PER_PAGE, PAGES_PER_SPARE_PAGE = 5, 64


@pytest.fixture(scope="module")
def cluster(new_module_cluster):
    return new_module_cluster({"vekter.delta_limit": "1GB", "autovacuum": "off"})


@pytest.fixture
def items(database, cluster):
    with cluster.connect(database) as db:
        db.execute(f"CREATE TABLE items (id bigserial, embedding vector({DIMENSIONS}))")
        db.execute(f"ALTER SEQUENCE items_id_seq RESTART {ROWS}")
        db.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
        yield db


def pages(db):
    return db.execute("SELECT pg_relation_size('built') / 8192").fetchone()[0]


def insert_one_by_one(db, rows):
    """How many pages the index has grown by each time that it grew."""
    growths, before = [], pages(db)
    for number in range(rows):
        db.execute("INSERT INTO items (embedding) VALUES (%s)", [str(VECTORS[number % ROWS].tolist())])
        if (after := pages(db)) > before:
            growths.append(after - before)
        before = after
    return growths


def test_a_small_index_grows_page_by_page(items):
    assert insert_one_by_one(items, 50) == [1] * (50 // ROWS_PER_PAGE - 1)


def test_a_larger_index_grows_by_some_pages_at_a_time_and_uses_them(items):
    copy_vectors(items, "items", VECTORS[:ROWS])
    size = pages(items)
    growths = insert_one_by_one(items, 300)
    most = (size + sum(growths)) // PAGES_PER_SPARE_PAGE + 1
    assert len(growths) <= 300 // ROWS_PER_PAGE // 4
    assert max(growths) <= most
    # No page was added while another was ready.
    assert sum(growths) <= 300 // ROWS_PER_PAGE + most
    assert_same_answer(items, "items", VECTORS[ROWS], limit=None, index="built")
    assert_clean(items, "built")


def test_one_session_uses_the_pages_that_another_added(items, cluster):
    copy_vectors(items, "items", VECTORS[:ROWS])
    while not insert_one_by_one(items, 1):
        pass
    with cluster.connect(items.info.dbname) as other:
        assert insert_one_by_one(other, 2 * ROWS_PER_PAGE) == []


def test_pages_that_a_crash_makes_forgotten_are_found_by_vacuum(items, cluster):
    copy_vectors(items, "items", VECTORS[:ROWS])
    while not insert_one_by_one(items, 1):
        pass
    name = items.info.dbname
    items.close()
    cluster.kill9()
    cluster.start()
    with cluster.connect(name) as db:
        vacuum_dead_rows(db, options="(INDEX_CLEANUP ON)")
        assert_clean(db, "built")
        assert insert_one_by_one(db, 2 * ROWS_PER_PAGE) == []
        assert_same_answer(db, "items", VECTORS[ROWS], limit=None, index="built")


def test_an_index_grows_past_the_first_file_of_its_relation(db):
    """PostgreSQL keeps a relation in files of 1 GB. A row of 16,000 dimensions takes eight pages; the table has none."""
    row, first_file_pages, rows_per_statement = "(wide(id)::vector(16000))", 2**30 // 8192, 1_000
    db.execute("CREATE FUNCTION wide(id int) RETURNS vector IMMUTABLE "
               "RETURN array_fill(id::real, ARRAY[16000])::vector")
    db.execute("CREATE UNLOGGED TABLE items (id int)")
    db.execute(f"CREATE INDEX built ON items USING faiss ({row}) WITH (factory = 'Flat', delta_limit = 4000000)")
    first = 0
    while pages(db) < first_file_pages + 8 * rows_per_statement:
        db.execute("INSERT INTO items SELECT generate_series(%s::int, %s)", [first, first + rows_per_statement - 1])
        first += rows_per_statement
    assert_same_answer(db, "items", [first / 2 + 0.25] * 16_000, limit=100, index="built", vector=row)
    assert_clean(db, "built")
    # Those of the second file, too.
    db.execute("DELETE FROM items WHERE id % 16 <> 0")
    vacuum_dead_rows(db)
    assert_same_answer(db, "items", [first / 2 + 0.25] * 16_000, limit=None, index="built", vector=row)
    assert_clean(db, "built")


@pytest.fixture
def plain_disk():
    """A file system that reserves no room."""
    with mounted("ramfs") as path:
        yield path


def test_where_no_room_can_be_reserved_it_grows_by_pages_of_zeros(items, cluster, plain_disk):
    items.execute(f"CREATE TABLESPACE plain LOCATION '{plain_disk}'")
    items.execute("DROP INDEX built")
    items.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat') TABLESPACE plain")
    try:
        copy_vectors(items, "items", VECTORS[:ROWS])
        # From PostgreSQL 16 on, several are written at once.
        assert (set(insert_one_by_one(items, 50)) == {1}) == (items.info.server_version < 160000)
        assert_same_answer(items, "items", VECTORS[ROWS], limit=None, index="built")
        assert_clean(items, "built")
    finally:
        items.execute("DROP INDEX built")
        items.execute("CHECKPOINT")
        items.execute("DROP TABLESPACE plain")
