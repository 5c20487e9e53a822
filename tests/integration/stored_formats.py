"""Index files as a version of vekter left them, which every later version reads.

    PG_CONFIG=... python tests/integration/stored_formats.py

writes those of the installed vekter to formats/VERSION, VERSION being its format's. Run it once for each new version of
the format, and commit what it writes; files of earlier versions are never written again.
"""

from __future__ import annotations

import json
import lzma
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster import Cluster
from oracle import nearest_sql, recall, settings, with_index, without_index

FOLDER = Path(__file__).parent / "formats"
DIMENSIONS, QUERIES, K = 16, 5, 10
PAGE_BYTES, LSN_BYTES = 8192, 8
# Lists and queues are searched whole, so that an answer depends on what codes keep, and not on chance.
SEARCH = {"vekter.nprobe": 4, "vekter.ef_search": 400, "vekter.k_factor": 3}
# Nothing but the statements below changes an index.
SERVER = {"autovacuum": "off", "vekter.background_compaction": "off"}

# One string for each kind of structure and of code that FAISS serialises in its own way.
FACTORIES = {
    "l2": ("Flat", "SQ4", "SQ6", "SQ8", "SQfp16", "SQbf16", "PQ4", "PQ8x4fs", "RaBitQ", "RQ4x4_Nfloat",
           "LSQ4x4_Nqint8", "PRQ2x2x4_Nfloat", "PLSQ2x2x4_Nfloat", "RQ4x4fs_Nrq2x4",
           "HNSW8", "HNSW8,SQ8", "HNSW8,SQfp16", "HNSW8,PQ4",
           "IVF4,Flat", "IVF4_HNSW8,Flat", "IVF4,SQ8", "IVF4,PQ4", "IVF4,PQ8x4fs", "IVF4,PQ8x4fsr,RFlat",
           "IVF4,PQ8x4fs,Refine(SQ8)", "IVF4,RaBitQ", "IVF4,RQ4x4_Nfloat", "IVF4,RQ4x4fsr_Nrq2x4",
           "PCA8,Flat", "PCAWR8,IVF4,SQ8", "OPQ4,PQ4", "RR16,HNSW8", "ITQ16,LSH", "LSHrt", "L2norm,SQ8", "Pad20,Flat",
           "auto"),
    "ip": ("Flat", "HNSW8", "IVF4,PQ8x4fs,RFlat", "SQ8"),
    "cosine": ("Flat", "HNSW8,SQ8", "IVF4,Flat", "LSH"),
    "l1": ("Flat", "HNSW8", "IVF4,Flat"),
}


@dataclass(frozen=True)
class Stored:
    """An index `name` on a table `name`_rows."""

    name: str
    factory: str
    metric: str
    built_rows: int = 300
    inserted_rows: int = 60
    dimensions: int = DIMENSIONS

    @property
    def table(self) -> str:
        return f"{self.name}_rows"

    def file(self, folder: Path) -> Path:
        return folder / f"{self.name}.xz"


def _name(factory: str, metric: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in f"{factory} {metric}").lower().split())


ALL = [Stored(_name(factory, metric), factory, metric)
       for metric, factories in FACTORIES.items() for factory in factories]
# Sealed pages hold rows as Flat does, whatever the factory.
ALL.append(Stored("sealed_pages", "SQ8", "l2", inserted_rows=1_500))
ALL.append(Stored("rows_of_several_pages", "Flat", "l2", built_rows=20, inserted_rows=20, dimensions=3_000))


def value(row: str, dimensions: int) -> str:
    """An SQL expression of a vector, the same to the last bit on every machine."""
    distinct = 251 if dimensions == DIMENSIONS else 13
    return (f"ARRAY(SELECT ((({row}) * (j * 37 + 11) + j * j * 7) % {distinct} - {distinct // 2}) / 1024.0 "
            f"FROM generate_series(1, {dimensions}) j)::real[]::vector({dimensions})")


def make(conn, stored: Stored) -> None:
    """Table and index: a segment that CREATE INDEX made, delta pages (sealed, where they are many), tombstones, and
    pages that wait for their reuse. The same statements give each row the same TID everywhere."""
    table = stored.table
    insert = f"INSERT INTO {table} SELECT i, {value('i', stored.dimensions)} FROM generate_series({{}}, {{}}) i"
    conn.execute(f"CREATE TABLE {table} (id integer, embedding vector({stored.dimensions}))")
    conn.execute(insert.format(1, stored.built_rows))
    conn.execute(f"CREATE INDEX {stored.name} ON {table} USING faiss (embedding vector_{stored.metric}_ops) "
                 f"WITH (factory = '{stored.factory}', delta_limit = 64)")
    conn.execute(insert.format(stored.built_rows + 1, stored.built_rows + stored.inserted_rows))
    for remainder in (3, 6):
        conn.execute(f"DELETE FROM {table} WHERE id % 10 = {remainder}")
        conn.execute(f"VACUUM {table}")


def found(conn, stored: Stored) -> float:
    """recall@K of the index, by the sequential scan."""
    conn.execute("SET enable_bitmapscan = off")
    recalls = []
    for number in range(QUERIES):
        [[query]] = conn.execute(f"SELECT {value(str(10_007 + 31 * number), stored.dimensions)}").fetchall()
        sql = nearest_sql(stored.table, json.loads(query), K, stored.metric)
        with settings(conn, **SEARCH):
            recalls.append(recall(with_index(conn, sql, stored.name), without_index(conn, sql)))
    return sum(recalls) / len(recalls)


def file_of(conn, cluster: Cluster, stored: Stored) -> Path:
    [[path]] = conn.execute("SELECT pg_relation_filepath(%s)", [stored.name]).fetchall()
    return cluster.data / path


def without_lsn(pages: bytes) -> bytes:
    """The pages as if no WAL of the server had changed them, which another server does not have."""
    pages = bytearray(pages)
    for start in range(0, len(pages), PAGE_BYTES):
        pages[start:start + LSN_BYTES] = bytes(LSN_BYTES)
    return bytes(pages)


def main() -> None:
    cluster = Cluster(SERVER)
    try:
        cluster.init().start()
        with cluster.connect() as conn:
            conn.execute("CREATE EXTENSION vekter")
            for stored in ALL:
                make(conn, stored)
            recalls = {stored.name: round(found(conn, stored), 3) for stored in ALL}
            [[version, next_xid]] = conn.execute(
                "SELECT format_version, txid_current() FROM vekter_index_stats(%s)", [ALL[0].name]).fetchall()
            conn.execute("CHECKPOINT")
            folder = FOLDER / str(version)
            folder.mkdir(parents=True)
            for stored in ALL:
                pages = without_lsn(file_of(conn, cluster, stored).read_bytes())
                stored.file(folder).write_bytes(lzma.compress(pages, preset=9 | lzma.PRESET_EXTREME))
        indexes = [{**vars(stored), "recall": recalls[stored.name]} for stored in ALL]
        contents = {"next_xid": next_xid, "indexes": indexes}
        (folder / "contents.json").write_text(json.dumps(contents, indent=1) + "\n")
    finally:
        cluster.destroy()
    bytes_written = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{len(ALL)} indexes, {bytes_written:,} bytes in {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
