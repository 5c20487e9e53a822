"""Databases with pgvector's type, on which faiss indexes are built in place."""

import pytest

INSTALL = "CREATE SCHEMA vekter; CREATE EXTENSION vekter_pgvector SCHEMA vekter CASCADE"


def has_pgvector(cluster):
    """Whether the cluster's PostgreSQL has a pgvector that knows halfvec."""
    found = cluster.execute("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'")
    return bool(found) and tuple(map(int, found[0][0].split("."))) >= (0, 7)


def cluster_with_pgvector(new_cluster):
    """A running cluster without the extension; skips the test where its PostgreSQL has no pgvector 0.7 or later."""
    cluster = new_cluster(bare=True)
    if not has_pgvector(cluster):
        pytest.skip("pgvector 0.7 or later is not installed in this PostgreSQL (scripts/pgvector_for_tests.sh)")
    return cluster
