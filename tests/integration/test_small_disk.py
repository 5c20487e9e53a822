"""A disk that really is full, at whatever step that happens: an error, nothing lost, the space given back.

Two disks can be full by themselves: that of the index's pages (a tablespace) and that of the cache folder. The failpoints
of test_disk_full.py fill the latter at each step.
"""

import shutil

import psycopg
import pytest

from data import clustered, copy_vectors
from oracle import assert_clean, assert_same_answer, nearest_sql, with_index
from small_disk import small_disk
from upkeep import stats, vacuum_dead_rows, wait_for_rest, wait_until

DIMENSIONS = 128
ROWS = 20_000  # 10 MB
VECTORS = clustered(ROWS + 1, DIMENSIONS, seed=613)
QUERY = VECTORS[-1]
BATCH = 500
QUIET = {"vekter.background_compaction": "off"}


@pytest.fixture(scope="module")
def cluster(new_module_cluster):
    return new_module_cluster({"vekter.delta_limit": "512kB", "max_worker_processes": 16})


@pytest.fixture
def tablespace(cluster):
    """A tablespace `small` on a disk of 8 MB: whatever is in it goes with the test's database."""
    with small_disk(8) as disk:
        cluster.execute(f"CREATE TABLESPACE small LOCATION '{disk.path}'")
        yield disk
        wait_until(lambda: drop_tablespace(cluster), "the tablespace to be empty")


def drop_tablespace(cluster):
    try:
        cluster.execute("DROP TABLESPACE small")
        return True
    except psycopg.errors.ObjectNotInPrerequisiteState:
        return False


@pytest.fixture
def items(tablespace, cluster, database):
    """A connection to a database with an empty table `items`. It goes before the tablespace."""
    with cluster.connect(database) as db:
        for name, value in QUIET.items():
            db.execute(f"SET {name} = {value}")
        db.execute(f"CREATE TABLE items (id bigint, embedding vector({DIMENSIONS})) WITH (autovacuum_enabled = off)")
        yield db
        db.execute("DROP TABLE items")


def create(db, tablespace="small", factory="Flat"):
    db.execute(f"CREATE INDEX built ON items USING faiss (embedding) WITH (factory = '{factory}') "
               f"TABLESPACE {tablespace}")


def insert_until_full(db, first=0, end=ROWS):
    """Inserts batch by batch; how many rows there are when one was refused, None if none was."""
    for at in range(first, end, BATCH):
        try:
            copy_vectors(db, "items", VECTORS[at:at + BATCH], ids=range(at, at + BATCH))
        except psycopg.errors.DiskFull:
            return at
    return None


def assert_right(db, rows):
    assert db.execute("SELECT count(*) FROM items").fetchone() == (rows,)
    assert_same_answer(db, "items", QUERY, limit=None, index="built")


def vacuum(db):
    # One finds the pages that nothing reaches, the next gives them back.
    for _ in range(2):
        vacuum_dead_rows(db, options="(INDEX_CLEANUP ON)")


def test_a_build_that_finds_no_room_gives_back_what_it_took(items, tablespace):
    copy_vectors(items, "items", VECTORS[:ROWS])
    before = tablespace.used_bytes()
    with pytest.raises(psycopg.errors.DiskFull):
        create(items)
    items.execute("CHECKPOINT")
    assert tablespace.used_bytes() == before
    assert items.execute("SELECT FROM pg_class WHERE relname = 'built'").rowcount == 0
    tablespace.resize(32)
    create(items)
    assert_right(items, ROWS)
    assert_clean(items, "built")


def test_a_rebuild_that_finds_no_room_leaves_the_old_index(items, tablespace):
    copy_vectors(items, "items", VECTORS[:10_000])
    create(items)
    before = tablespace.used_bytes()
    with pytest.raises(psycopg.errors.DiskFull):
        items.execute("REINDEX INDEX built")
    items.execute("CHECKPOINT")
    assert tablespace.used_bytes() == before
    assert_right(items, 10_000)
    assert_clean(items, "built")


@pytest.mark.parametrize("delta_limit", ("64kB", "512kB", "1GB"))
def test_inserts_that_find_no_room_fail_and_leave_every_committed_row(items, tablespace, delta_limit):
    items.execute(f"SET vekter.delta_limit = '{delta_limit}'")
    create(items)
    rows = insert_until_full(items)
    assert rows is not None and rows > 2_000, "the disk was to be full in the middle"
    assert_right(items, rows)
    assert_clean(items, "built", orphans_allowed=True)
    tablespace.resize(64)
    assert insert_until_full(items, first=rows) is None
    assert_right(items, ROWS)
    vacuum(items)
    assert_clean(items, "built")


def test_deleted_rows_make_room_on_a_full_disk(items, tablespace):
    items.execute("SET vekter.delta_limit = '64kB'")
    create(items)
    rows = insert_until_full(items)
    items.execute("DELETE FROM items")
    vacuum(items)
    # What is left are pages to be used again.
    again = insert_until_full(items)
    assert again is None or again > rows // 4
    assert_right(items, items.execute("SELECT count(*) FROM items").fetchone()[0])
    assert_clean(items, "built", orphans_allowed=True)


def test_a_merge_that_finds_no_room_leaves_its_sources(items, tablespace):
    items.execute("SET vekter.delta_limit = '512kB'")
    create(items, factory="HNSW32")
    rows = insert_until_full(items, end=8_000)
    assert rows is None, "the pieces were to find room"
    before = stats(items, "segments")
    with pytest.raises(psycopg.errors.DiskFull):
        items.execute("SELECT vekter_compact('built')")
    assert stats(items, "segments") >= before > 1
    assert_right(items, 8_000)
    assert_clean(items, "built", orphans_allowed=True)
    tablespace.resize(64)
    items.execute("SELECT vekter_compact('built')")
    assert stats(items) == (1, 0, 0, 8_000)
    vacuum(items)
    assert_clean(items, "built")


@pytest.fixture
def warnings(items):
    """SQLSTATEs and messages of the warnings that `items` gets."""
    got = []
    items.add_notice_handler(lambda diag: got.append((diag.sqlstate, diag.message_primary)))
    return got


def could_not_compact(during):
    return ("53100", f'could not compact index "built" during {during}; it will be retried')


def assert_holds_nothing(db):
    assert db.execute("SELECT count(*) FROM pg_locks WHERE relation = 'built'::regclass").fetchone() == (0,)


def make_delta_to_seal(items, rows):
    """An index whose rows are all in a delta that should have been sealed long ago."""
    items.execute("SET vekter.delta_limit = '1GB'")
    create(items)
    copy_vectors(items, "items", VECTORS[:rows])
    items.execute("SET vekter.delta_limit = '64kB'")


def test_vacuum_that_finds_no_room_to_seal_warns_and_does_its_own_work(items, tablespace, warnings):
    make_delta_to_seal(items, 4_000)
    # A seal takes a page for the manifest.
    with tablespace.filled(free_bytes=0):
        items.execute("DELETE FROM items WHERE id < 10")
        vacuum_dead_rows(items, options="(INDEX_CLEANUP ON)")
        assert warnings == [could_not_compact("VACUUM")]
        assert_holds_nothing(items)
        assert stats(items, "segments, delta_rows") == (0, 3_990)
        assert_right(items, 3_990)
        assert_clean(items, "built", orphans_allowed=True)
    vacuum(items)
    assert stats(items, "delta_rows") < 200 and len(warnings) == 1
    assert_right(items, 3_990)
    vacuum(items)
    assert_clean(items, "built")


def test_an_insert_whose_seal_finds_no_room_warns_and_keeps_its_row(items, tablespace, warnings):
    # So few that no pages are kept ready for rows to come.
    make_delta_to_seal(items, 901)
    # Room for a page of the delta, and not for those of a seal.
    with tablespace.filled(free_bytes=16_384):
        items.execute("BEGIN")
        rows = 901
        # A row that begins a page of the delta asks whether that is too large.
        while not warnings and rows < 1_000:
            items.execute("INSERT INTO items SELECT %s, embedding FROM items WHERE id = 7", [20_000 + rows])
            rows += 1
        assert warnings == [could_not_compact("INSERT")]
        assert_right(items, rows)
        items.execute("COMMIT")
        assert_holds_nothing(items)
        assert_right(items, rows)
    # Once it has failed, the session leaves it alone for some time.
    copy_vectors(items, "items", VECTORS[901:1_001], ids=range(901, 1_001))
    assert len(warnings) == 1
    vacuum(items)
    assert stats(items, "delta_rows") < 200
    assert_right(items, rows + 100)
    vacuum(items)
    assert_clean(items, "built")


def test_the_worker_goes_on_when_there_is_room_again(items, tablespace, cluster):
    items.execute("SET vekter.background_compaction = on")
    create(items)
    rows = insert_until_full(items)
    assert rows is not None
    assert_right(items, rows)
    tablespace.resize(64)
    assert insert_until_full(items, first=rows) is None
    wait_for_rest(items)
    assert_right(items, ROWS)
    vacuum(items)
    wait_for_rest(items)
    assert_clean(items, "built")


# -- the cache folder ---------------------------------------------------------------------------------------------

@pytest.fixture
def cache(cluster):
    """The cache folder on a disk of 2 MB."""
    cluster.stop()
    folder = cluster.data / "pgsql_tmp_vekter"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        with small_disk(2, at=folder) as disk:
            cluster.start()
            yield disk
            cluster.stop()
    finally:
        folder.rmdir()
        if not cluster.running:
            cluster.start()


@pytest.fixture
def cached_items(cache, items):
    return items


def files(disk):
    return [path.name for path in disk.path.iterdir()]


def test_a_build_that_finds_no_room_for_its_cache_file_leaves_nothing(cached_items, cache):
    copy_vectors(cached_items, "items", VECTORS[:ROWS])
    with pytest.raises(psycopg.errors.DiskFull, match="cache file"):
        create(cached_items, "pg_default")
    assert files(cache) == []
    cache.resize(32)
    create(cached_items, "pg_default")
    assert_right(cached_items, ROWS)


def test_a_full_cache_disk_stops_no_insert_and_no_vacuum(cached_items, cache):
    cached_items.execute("SET vekter.delta_limit = '4MB'")
    create(cached_items, "pg_default")
    assert insert_until_full(cached_items) is None
    cached_items.execute("VACUUM (INDEX_CLEANUP ON) items")
    assert_right(cached_items, ROWS)
    assert not any(".tmp." in name for name in files(cache))
    cache.resize(32)
    cached_items.execute("VACUUM (INDEX_CLEANUP ON) items")
    assert stats(cached_items, "delta_rows") < ROWS
    assert_right(cached_items, ROWS)
    vacuum(cached_items)
    assert_clean(cached_items, "built")


def test_a_search_that_finds_no_room_for_a_segment_says_so_and_works_when_there_is(cached_items, cache, cluster, database):
    cache.resize(32)
    copy_vectors(cached_items, "items", VECTORS[:ROWS])
    create(cached_items, "pg_default")
    for path in cache.path.iterdir():
        path.unlink()
    cache.resize(2)
    with cluster.connect(database) as other:
        other.execute("LOAD 'vekter'")
        for _ in range(2):
            with pytest.raises(psycopg.errors.DiskFull, match="cache file"):
                with_index(other, nearest_sql("items", QUERY, 10), "built")
        assert files(cache) == []
        cache.resize(32)
        other.execute("RESET ALL")
        assert_right(other, ROWS)
