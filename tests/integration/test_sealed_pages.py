"""A segment that was sealed where it lay: its pages are the delta's, and all that holds of other segments holds of it."""

import shutil

import pytest

from damage import HEADER_BYTES, PAGE_BYTES, RETIRED, SETTINGS, TAG_AT, Pages, Sound, assert_found, chunk, integer, put
from data import clustered, copy_vectors
from oracle import assert_same_answer, settings
from upkeep import stats, vacuum_dead_rows

ROWS, DIMENSIONS = 2_000, 16
VECTORS = clustered(ROWS + 5, DIMENSIONS, seed=311)


@pytest.fixture(scope="module")
def cluster(new_module_cluster):
    return new_module_cluster({**SETTINGS, "vekter.delta_limit": "64kB", "vekter.background_compaction": "off"})


def make_sealed(conn, dimensions=DIMENSIONS, vectors=VECTORS[:ROWS]):
    """A table of which most rows are in one sealed segment, the others in the delta."""
    conn.execute(f"CREATE TABLE items (id bigint, embedding vector({dimensions})) WITH (autovacuum_enabled = off)")
    conn.execute("CREATE INDEX built ON items USING faiss (embedding) WITH (factory = 'Flat')")
    with settings(conn, **{"vekter.delta_limit": "1GB"}):
        copy_vectors(conn, "items", vectors)
    conn.execute("VACUUM items")
    segments, delta_rows = stats(conn, "segments, delta_rows")
    assert segments == 1 and 0 < delta_rows < len(vectors) / 2


def wal_bytes(conn, command):
    [[before]] = conn.execute("SELECT pg_current_wal_insert_lsn()").fetchall()
    conn.execute(command)
    [[bytes_]] = conn.execute("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", [before]).fetchall()
    return bytes_


def test_a_seal_logs_no_row(db):
    make_sealed(db)
    with settings(db, **{"vekter.delta_limit": "1GB"}):
        copy_vectors(db, "items", VECTORS[:ROWS], ids=range(ROWS, 2 * ROWS))
    # VACUUM itself, of a table where there is nothing to do for it and nothing to seal.
    with settings(db, **{"vekter.delta_limit": "1GB"}):
        db.execute("VACUUM items")
        bare = wal_bytes(db, "VACUUM items")
    sealing = wal_bytes(db, "VACUUM items")
    assert stats(db, "segments") == 2
    assert sealing - bare < ROWS * 4 * DIMENSIONS / 4


@pytest.mark.parametrize("dimensions, rows", [(1, 6_000), (DIMENSIONS, ROWS), (2_100, 60), (16_000, 30)])
def test_its_file_is_written_again_from_the_pages(db, cluster, dimensions, rows):
    vectors = clustered(rows + 1, dimensions, seed=312)
    make_sealed(db, dimensions, vectors[:rows])
    for _ in range(2):
        shutil.rmtree(cluster.data / "pgsql_tmp_vekter")
        with cluster.connect(db.info.dbname) as other:
            assert_same_answer(other, "items", vectors[rows], limit=None, index="built")
    assert db.execute("SELECT * FROM vekter_check('built', true)").fetchall() == []


def test_its_pages_are_given_back_when_it_is_merged(db):
    def bytes_after_replacing_all_rows(times):
        for _ in range(times):
            db.execute("DELETE FROM items")
            vacuum_dead_rows(db)
            copy_vectors(db, "items", VECTORS[:ROWS])
            db.execute("SELECT vekter_compact('built')")
            vacuum_dead_rows(db)
        return db.execute("SELECT pg_relation_size('built')").fetchone()[0]

    make_sealed(db)
    before = bytes_after_replacing_all_rows(3)
    assert bytes_after_replacing_all_rows(5) <= before * 1.25
    assert db.execute("SELECT * FROM vekter_check('built', true)").fetchall() == []


def test_dead_rows_in_it_do_not_come_out(db):
    make_sealed(db)
    db.execute("DELETE FROM items WHERE id % 3 = 0")
    vacuum_dead_rows(db)
    for query in VECTORS[ROWS:]:
        assert_same_answer(db, "items", query, limit=None, index="built")
    copy_vectors(db, "items", VECTORS[:500], ids=range(ROWS, ROWS + 500))
    assert_same_answer(db, "items", VECTORS[ROWS], limit=None, index="built")
    assert db.execute("SELECT * FROM vekter_check('built', true)").fetchall() == []


# -- damage ---------------------------------------------------------------------------------------------------------

class SealedPages(Pages):
    @property
    def run(self):
        """The numbers of the pages of the sealed segment, in order."""
        head = integer(self[0], self.meta["delta_head_chunk"], 4)
        return [number for number in self.delta if chunk(self[number]) < head]


@pytest.fixture(scope="module")
def sound(cluster):
    return Sound(cluster, make_sealed)


def check(sound, damage):
    pages = SealedPages(sound.content)
    assert len(pages.run) > 5
    damage(pages)
    with sound.damaged(b"".join(pages)) as conn:
        return conn.execute("SELECT * FROM vekter_check('built', true)").fetchall()


def flip_row(pages):
    pages[pages.run[3]][HEADER_BYTES + 32 + 8 + 5] ^= 1


def flip_row_pointer(pages):
    pages[pages.run[3]][HEADER_BYTES + 32] ^= 1


def zero(pages):
    pages[pages.run[2]][:] = bytes(PAGE_BYTES)


def retire(pages):
    pages[pages.run[2]][TAG_AT + 28] = RETIRED


def end_early(pages):
    put(pages[pages.run[2]], HEADER_BYTES, 0xFFFF_FFFF, 4)
    put(pages[pages.run[2]], HEADER_BYTES + 4, 0, 4)


def link_back(pages):
    put(pages[pages.run[2]], HEADER_BYTES, pages.run[0], 4)
    put(pages[pages.run[2]], HEADER_BYTES + 4, 0, 4)


def skip_one(pages):
    pages[pages.run[2]][HEADER_BYTES:HEADER_BYTES + 8] = pages[pages.run[3]][HEADER_BYTES:HEADER_BYTES + 8]


@pytest.mark.parametrize("damage, problem", [(flip_row, "checksum"), (flip_row_pointer, "checksum"),
                                             (zero, "is not a page of a faiss index"), (retire, "is marked as free"),
                                             (end_early, "its pages end at block"),
                                             (link_back, "its pages end at block"),
                                             (skip_one, "its pages are not those that the manifest lists")])
def test_each_kind_of_damage_is_found(sound, damage, problem):
    assert_found(check(sound, damage), "segment", problem)


def test_sound_pages_are_clean(sound):
    assert check(sound, lambda pages: None) == []
