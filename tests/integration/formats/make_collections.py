"""Writes collections of indexes in the format of the installed vekter, for test_stored_formats.py to open ever after.

    PG_CONFIG=... python tests/integration/formats/make_collections.py [SUFFIX FACTORY:METRIC ...]

Without arguments: all families, long rows and, where the server has pgvector, its halfvec, to be committed with a new
FORMAT_VERSION. With arguments: these alone, as VERSION-SUFFIX, for a family that is added later. A collection that
exists is never written again: its bytes would no longer be an earlier version's.
"""

from __future__ import annotations

import dataclasses
import io
import json
import lzma
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from beside_pgvector import INSTALL, has_pgvector  # noqa: E402
from cluster import Cluster  # noqa: E402
from damage import BLOB, DELTA, META, OVERFLOW, PAGE_BYTES, RETIRED, kind  # noqa: E402
from oracle import assert_clean  # noqa: E402
from stored_formats import (FOLDER, SERVER, Collection, Items, Questions, StoredIndex, connect, inspect,  # noqa: E402
                            places, run, show_alone)

# Vectors around sixty centres, from integers alone: the same to the last bit on every machine, and as halves.
ROW_OF = """CREATE FUNCTION row_of(id bigint, dimensions integer) RETURNS real[] IMMUTABLE LANGUAGE sql AS $$
    SELECT array_agg((centre * centre % 1009 - 504 + noise * noise % 2039 % 257 - 128)::real / 256 ORDER BY j)
    FROM generate_series(1, dimensions) j,
         LATERAL (SELECT (id % 60 + 3) * 7919 + j * 10473 AS centre, (id * 40503 + j * 7331) % 10007 AS noise) element
    $$"""


@dataclass(frozen=True)
class Size:
    """Rows that an index is built over, rows that fill enough pages to be sealed, and rows of the delta, of which whole
    pages become empty."""

    dimensions: int
    built_rows: int
    sealed_rows: int
    delta_rows: int


# Calibration wants 32 rows to hold out, one of twenty. A delta is sealed from nine pages on.
USUAL = Size(16, 700, 920, 360)
# Longer than a page.
LONG = Size(3_000, 20, 14, 12)
# Of few different elements, so that they compress.
LONG_ROW_OF = """CREATE FUNCTION row_of(id bigint, dimensions integer) RETURNS real[] IMMUTABLE LANGUAGE sql AS $$
    SELECT array_agg((id * j % 13 - 6)::real / 4 ORDER BY j) FROM generate_series(1, dimensions) j $$"""
# The least recall that is worth comparing: by chance it is a hundredth.
LEAST_RECALL = 0.5

# One of each kind of structure and code that FAISS serialises in its own way, and under another metric where that
# changes what is stored. FAISS's own norms and code sizes are there once each.
FACTORIES = {
    "l2": """
        Flat SQ4 SQ6 SQ8 SQfp16 SQbf16 SQ8_direct_signed PQ4 PQ4x4 PQ8x4fs PQ8x4fs_32 LSH LSHrt RaBitQ
        RQ3x4_Nfloat RQ2x4_2x3_Nnone LSQ3x4_Nqint4 PRQ2x2x4_Nqint8 PLSQ2x2x4_Nrq2x4 RQ6x4fs_Nrq2x4
        PRQ2x3x4fs_Nlsq2x4 LSQ4x4fs_Nrq2x4 PLSQ2x3x4fs_Nlsq2x4
        HNSW8 HNSW8,SQ8 HNSW8,SQ4 HNSW8,SQfp16 HNSW8,SQbf16 HNSW8_PQ4
        IVF8,Flat IVF8_HNSW4,Flat IVF8,SQ4 IVF8,SQ8 IVF8,SQfp16 IVF8,PQ4x4 IVF8,PQ4x4np IVF8,PQ8x4fs IVF8,PQ8x4fsr
        IVF8,RaBitQ IVF8,RQ3x4_Nqint8 IVF8,LSQ3x4_Nfloat IVF8,PRQ2x2x4_Nfloat IVF8,PLSQ2x2x4_Nlsq2x4
        IVF8,RQ6x4fsr_Nrq2x4 IVF8,LSQ4x4fs_Nlsq2x4 IVF8,PRQ2x3x4fsr_Nlsq2x4 IVF8,PLSQ2x3x4fs_Nrq2x4
        PQ4x4,RFlat SQ4,Refine(SQ8) IVF8,PQ8x4fs,RFlat IVF8,PQ8x4fs,Refine(SQfp16) PQ8x4fs,Refine(PQ8x4)
        PCA8,Flat PCAR8,HNSW8 PCAW8,IVF8,SQ8 PCAWR8,Flat OPQ4,PQ4x4 OPQ4_8,IVF8,PQ4x4 RR,SQ8 RR12,Flat ITQ,LSH ITQ12,LSH
        L2norm,SQ8 Pad20,PQ5x4 PCA8,IVF8,Flat,RFlat auto""",
    "ip": """
        Flat SQ8 PQ8x4fs RaBitQ RQ3x4_Nfloat RQ6x4fs PRQ2x3x4fs HNSW8 HNSW8,SQ8 IVF8,Flat IVF8,SQ8 IVF8,PQ4x4
        IVF8,PQ8x4fsr IVF8,PQ8x4fs,RFlat IVF8,RaBitQ IVF8,RQ3x4_Nqint8 IVF8,PRQ2x3x4fsr auto""",
    "cosine": """
        Flat SQ8 PQ4x4 LSH RaBitQ ITQ,LSH HNSW8,SQ8 IVF8,Flat IVF8,PQ8x4fs IVF8,RQ3x4_Nqint8 auto""",
    "l1": "Flat HNSW8 IVF8,Flat PCA8,HNSW8,RFlat auto",
}
HALVES = {"l2": "Flat SQfp16 HNSW8,SQfp16 auto", "l1": "HNSW8"}


def plan(name: str, factories: dict[str, str], type: str = "vector", install: str = "CREATE EXTENSION vekter",
         size: Size = USUAL, row_of: str = ROW_OF) -> Collection:
    """What the collection is to be made of: one table, with an index of each factory."""
    items = Items(type, size.dimensions, size.built_rows)
    indexes = []
    for metric, strings in factories.items():
        for factory in strings.split():
            index = "_".join("".join(c if c.isalnum() else " " for c in f"{factory} {metric}").lower().split())
            statement = (f"CREATE INDEX {index} ON items USING faiss (embedding {type}_{metric}_ops) "
                         f"WITH (factory = '{factory}')")
            indexes.append(StoredIndex(index, metric, statement, {}, items))
    table = f"CREATE TABLE items (id bigint, embedding {type}({size.dimensions})) WITH (autovacuum_enabled = off)"
    sealed = size.built_rows + size.sealed_rows
    last = sealed + size.delta_rows
    later = [
        items.insert(size.built_rows + 1, sealed),
        "SET vekter.delta_limit = '64kB'", "VACUUM items", "RESET vekter.delta_limit",
        # Tombstones in both segments, and rows that take the places of dead ones.
        "DELETE FROM items WHERE id % 7 = 0", "VACUUM items", items.insert(sealed + 1, last),
        # Other tombstones, and pages within the chain of the delta that become empty.
        f"DELETE FROM items WHERE id % 11 = 5 OR id BETWEEN {sealed + size.delta_rows // 4} AND {last - 3}",
        "VACUUM items",
    ]
    return Collection(name, 0, "", 0, [*install.split("; "), row_of, table], [items.insert(1, size.built_rows)], later,
                      items, "", indexes)


def make(cluster: Cluster, planned: Collection) -> tuple[Collection, dict[str, bytes]]:
    """The collection, and the pages of its indexes."""
    database = f"made_{planned.name}"
    cluster.execute(f"CREATE DATABASE {database}")
    with connect(cluster, database) as conn:
        conn.execute("SET client_min_messages = error")
        run(conn, [*planned.setup, *planned.built, *(index.statement for index in planned.indexes), *planned.later])
        questions = Questions(conn, planned.items, {index.metric for index in planned.indexes})
        indexes = [dataclasses.replace(index, found=found_in(conn, index, questions)) for index in planned.indexes]
        [[version, next_xid]] = conn.execute(
            "SELECT format_version, txid_snapshot_xmax(txid_current_snapshot()) FROM vekter_index_stats(%s)",
            [indexes[-1].name]).fetchall()
        [[extension]] = conn.execute("SELECT extversion FROM pg_extension WHERE extname = 'vekter'").fetchall()
        [[server]] = conn.execute("SELECT current_setting('server_version')").fetchall()
        made = dataclasses.replace(
            planned, name=f"{version}-{planned.name}", format_version=version, next_xid=next_xid,
            written_by=f"vekter {extension}, PostgreSQL {server}", places=places(conn), indexes=indexes)
        paths = dict(conn.execute("SELECT indexrelid::regclass::text, pg_relation_filepath(indexrelid) FROM pg_index "
                                  "WHERE indrelid = 'items'::regclass").fetchall())
        conn.execute("CHECKPOINT")
        [[is_early]] = conn.execute("SELECT pg_current_wal_lsn() < '1/0'").fetchall()
        assert is_early and next_xid < 30_000, "test_stored_formats.py takes a server past these, by pg_resetwal"
    pages = {index.name: (cluster.data / paths[index.name]).read_bytes() for index in indexes}
    for index in indexes:
        assert_lived(index, pages[index.name])
    return made, pages


def found_in(conn, index: StoredIndex, questions: Questions) -> dict:
    show_alone(conn, index)
    assert_clean(conn, index.name)
    questions.assert_exact_answers(conn, index)
    recall = questions.built_recall(conn, index)
    assert recall >= LEAST_RECALL, f"{index.name} finds {recall}: too little to tell right codes from wrong ones"
    return {**inspect(conn, index), "recall": recall}


def assert_lived(index: StoredIndex, pages: bytes) -> None:
    """The index has all that an index may have."""
    dead_rows = [dead_rows for _, _, dead_rows in index.found["segments"]]
    assert len(dead_rows) == 2 and min(*dead_rows, index.found["delta_rows"]) > 0, index
    kinds = {kind(pages[at:at + PAGE_BYTES]) for at in range(0, len(pages), PAGE_BYTES)}
    wanted = {META, DELTA, BLOB, RETIRED} | ({OVERFLOW} if index.items.dimensions > 2_024 else set())
    assert wanted <= kinds, f"{index.name} has pages of the kinds {kinds} only"


def write(collection: Collection, pages: dict[str, bytes]) -> None:
    archived = io.BytesIO()
    with tarfile.open(fileobj=archived, mode="w") as archive:
        for name, content in pages.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    # One dictionary for all of them: most of their pages hold the same rows.
    compressed = lzma.compress(archived.getvalue(), preset=9 | lzma.PRESET_EXTREME)
    collection.write()
    with open(FOLDER / f"{collection.name}.tar.xz", "xb") as archive:
        archive.write(compressed)
    print(f"{collection.name}: {len(pages)} indexes, {sum(map(len, pages.values())):,} bytes in {len(compressed):,}")


def main(suffix: str | None = None, *added: str) -> None:
    cluster = Cluster(SERVER)
    try:
        cluster.init(bare=True).start()
        if suffix:
            by_metric: dict[str, str] = {}
            for factory, _, metric in (one.rpartition(":") for one in added):
                by_metric[metric] = f"{by_metric.get(metric, '')} {factory}"
            planned = [plan(suffix, by_metric)]
        else:
            planned = [plan("families", FACTORIES),
                       plan("long", {"l2": "Flat", "cosine": "SQ8"}, size=LONG, row_of=LONG_ROW_OF)]
            if has_pgvector(cluster):
                planned.append(plan("halfvec", HALVES, "halfvec", f"CREATE EXTENSION vector; {INSTALL}"))
        for collection, pages in [make(cluster, one) for one in planned]:
            write(collection, pages)
    finally:
        cluster.destroy()


if __name__ == "__main__":
    main(*sys.argv[1:])
