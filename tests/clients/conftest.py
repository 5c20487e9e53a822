"""The servers of the integration tests, for clients: with pgvector, and with the plan of each statement in the log."""

import importlib.util
import sys
from pathlib import Path

import pytest

INTEGRATION = Path(__file__).parents[1] / "integration"
sys.path.insert(0, str(INTEGRATION))
pytest.register_assert_rewrite("application")

# By its path: as a module, its name is this file's.
_specification = importlib.util.spec_from_file_location("integration_conftest", INTEGRATION / "conftest.py")
_integration = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(_integration)

pytest_configure = _integration.pytest_configure
pytest_unconfigure = _integration.pytest_unconfigure
pytest_runtest_makereport = _integration.pytest_runtest_makereport
new_module_cluster = _integration.new_module_cluster

from application import PLANS_IN_LOG, Database  # noqa: E402
from beside_pgvector import cluster_with_pgvector  # noqa: E402


@pytest.fixture(scope="module")
def new_database(new_module_cluster):
    """Makes databases on one server, with pgvector and without vekter: `new_database("name")`."""
    cluster = cluster_with_pgvector(new_module_cluster)
    if not cluster.execute("SELECT true FROM pg_ls_dir((SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR')) file "
                           "WHERE file LIKE 'auto_explain.%'"):
        pytest.skip("this PostgreSQL has no auto_explain (contrib), which tells the plans of the client's statements")
    cluster.configure(**PLANS_IN_LOG).restart()
    return lambda name="application": Database(cluster, name)
