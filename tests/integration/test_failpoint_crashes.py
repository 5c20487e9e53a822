"""At every step of building, inserting, VACUUM and materialising: a crash of the server.

Each failpoint of src/failpoint.rs is a case, while other sessions write and search.
"""

import psycopg
import pytest

import failpoints
from failpoints import Others, arm, assert_well, live_until_it_ends, living  # noqa: F401

# Steps that are reached in several ways: first by a build, then by others.
SEVERAL_WAYS = [name for name in failpoints.names() if name.startswith(("blob.", "publish.", "cache."))]


@pytest.fixture(scope="module")
def cluster(new_module_cluster, failpoint_bindir):
    cluster = new_module_cluster(bindir=failpoint_bindir)
    cluster.crash_expected = True
    return cluster


@pytest.mark.parametrize("name, arrival", [(name, 1) for name in failpoints.names()] +
                         [(name, 3) for name in SEVERAL_WAYS])
def test_crash_loses_nothing_and_leaves_nothing(living, name, arrival):
    cluster, database, conn = living
    starts = cluster.starts()
    with Others(cluster, database, crash_expected=True) as others:
        arm(conn, f"{name}=crash@{arrival}")
        end = live_until_it_ends(conn, cluster)
        assert isinstance(end, psycopg.OperationalError), f"{name} was not reached: {end}"
    cluster.wait_for_recovery(starts)
    assert_well(cluster, database, others)
