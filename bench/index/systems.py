"""What is compared: the two extensions, and the indexes that they make."""

from __future__ import annotations

from dataclasses import dataclass, field

PGVECTOR = "vector"
VEKTER = "vekter"


@dataclass(frozen=True)
class Variant:
    """An extension, an index of it (what follows `CREATE INDEX ... ON items`; None: no index) and session settings."""

    label: str
    extension: str
    index: str | None
    settings: dict[str, object] = field(default_factory=dict)

    @property
    def is_vekter(self) -> bool:
        return self.extension == VEKTER

    @property
    def has_worker(self) -> bool:
        return self.is_vekter and self.index is not None and self.settings.get("vekter.background_compaction") != "off"

    def having(self, label: str | None = None, **settings: object) -> Variant:
        """The same index under further settings; a dot in a setting's name is written as two underscores."""
        more = {name.replace("__", "."): value for name, value in settings.items()}
        return Variant(label or self.label, self.extension, self.index, {**self.settings, **more})


def faiss(factory: str) -> Variant:
    return Variant(f"vekter {factory}", VEKTER, f"USING faiss (embedding) INCLUDE (id) WITH (factory = '{factory}')")


HNSW = faiss("HNSW32")
IVF = faiss("IVF512,PQ96x4fs,RFlat")
FLAT = faiss("Flat")
# pgvector's defaults, spelt out.
PGVECTOR_HNSW = Variant("pgvector hnsw", PGVECTOR,
                        "USING hnsw (embedding vector_l2_ops) WITH (m = 16, ef_construction = 64)")
NO_INDEX = Variant("no index", VEKTER, None)
