"""Fixtures: servers for a test or a module, a database with the extension in it, and what happened on failure."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

# OpenMP's threads otherwise wait in a loop, and take the processor from the tests that run in parallel. Servers inherit
# it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

pytest.register_assert_rewrite("failpoints", "oracle", "workload")

from cluster import (EXTENSION_TEMPLATE, ROOT, TEMPLATES_VARIABLE, Cluster, pg_bindir,  # noqa: E402
                     server_account)
from data import REPOSITORY  # noqa: E402

SLOWEST = ("test_failpoints.py", "test_failpoint_crashes.py", "test_compaction.py", "test_memory.py", "test_import.py",
           "test_recall.py", "test_bench.py", "test_shared_data.py", "test_sealing.py", "test_standby.py", "test_storm.py")
# Every cluster of this run that has not been destroyed: what a failure report shows, and what an abort must stop.
_clusters: list[Cluster] = []
_database_numbers = itertools.count(1)
# Database from which those of a file's tests are copied, where the file has a function make_items().
ITEMS_TEMPLATE = "items_template"


def pytest_configure(config):
    # A runner that gives up sends SIGTERM, which by default skips every teardown and leaves servers running.
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("ended by SIGTERM", returncode=143))
    if not is_parallel_worker(config):
        # The processes of a parallel run inherit it, so they share the templates.
        os.environ[TEMPLATES_VARIABLE] = folder = tempfile.mkdtemp(prefix="vekter-templates-", dir=ROOT)
        os.chmod(folder, 0o755)
        if shutil.which("cargo") is not None and not config.option.collectonly:
            _use_failpoint_server()


def pytest_unconfigure(config):
    while _clusters:
        _clusters.pop().destroy()
    if not is_parallel_worker(config):
        shutil.rmtree(os.environ.pop(TEMPLATES_VARIABLE), ignore_errors=True)


def pytest_collection_modifyitems(items):
    """Files that take long begin first, so that no process of a parallel run is left alone with one at the end."""
    items.sort(key=lambda item: SLOWEST.index(item.path.name) if item.path.name in SLOWEST else len(SLOWEST))


def is_parallel_worker(config) -> bool:
    """Whether this is one of the processes among which pytest-xdist divides the tests."""
    return hasattr(config, "workerinput")


class ClusterMaker:
    """Makes clusters and takes them down again. Call it: `new_cluster(settings, start=True, ...)`."""

    def __init__(self):
        self.made: list[Cluster] = []

    def __call__(self, settings=None, *, start=True, bare=False, **options) -> Cluster:
        cluster = self.adopt(Cluster(settings, **options))
        cluster.init(bare=bare)
        return cluster.start() if start else cluster

    def adopt(self, cluster: Cluster) -> Cluster:
        """Take charge of a cluster made otherwise (a standby, a copy); returns it."""
        self.made.append(cluster)
        _clusters.append(cluster)
        return cluster

    def standby_of(self, primary: Cluster, settings=None, **options) -> Cluster:
        return self.adopt(primary.make_standby(settings, **options))

    def copy_of(self, cluster: Cluster, **options) -> Cluster:
        return self.adopt(cluster.make_copy(**options))

    def close(self) -> None:
        """Destroy every cluster, then fail where one of them had crashed."""
        crashes = []
        # Standbys go before their primaries: a primary's fast shutdown waits for what it streams to.
        for cluster in reversed(self.made):
            if not cluster.crash_expected:
                crashes += [f"{cluster.name}: {line}" for line in cluster.crashes()]
            cluster.destroy()
            _clusters.remove(cluster)
        self.made.clear()
        assert not crashes, "a server crashed during the test:\n" + "\n".join(crashes)


def _maker():
    maker = ClusterMaker()
    try:
        yield maker
    finally:
        maker.close()


@pytest.fixture
def new_cluster():
    """Makes clusters for one test: `new_cluster(settings)`, `.standby_of(c)`, `.copy_of(c)`, `.adopt(c)`."""
    yield from _maker()


@pytest.fixture(scope="module")
def new_module_cluster():
    """The same for the tests of one file together."""
    yield from _maker()


@pytest.fixture(scope="module")
def cluster(new_module_cluster):
    """One running server, shared by the tests of a file. A test that kills or restarts a server makes its own."""
    return new_module_cluster()


@pytest.fixture(scope="module")
def items_template(request, cluster):
    """Name of a database in which the file's `make_items(conn)` has made its tables, for the tests to have copies of."""
    cluster.execute(f"CREATE DATABASE {ITEMS_TEMPLATE} TEMPLATE {EXTENSION_TEMPLATE}")
    with cluster.connect(ITEMS_TEMPLATE) as connection:
        request.module.make_items(connection)
    return ITEMS_TEMPLATE


@pytest.fixture
def database(request, cluster):
    """Name of a fresh database on `cluster` with the extension in it, and with the tables of `make_items` where the test asks
    for `items`; dropped afterwards."""
    has_items = "items" in request.fixturenames and hasattr(request.module, "make_items")
    template = request.getfixturevalue("items_template") if has_items else EXTENSION_TEMPLATE
    name = f"test_{next(_database_numbers)}"
    cluster.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield name
    cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def db(cluster, database):
    """An autocommit connection to a fresh database with the extension in it."""
    with cluster.connect(database) as connection:
        yield connection


@pytest.fixture
def items(db):
    """An autocommit connection to a fresh database with the tables that the file's `make_items(conn)` makes."""
    return db


@pytest.fixture(scope="session")
def failpoint_bindir():
    """Programs of a PostgreSQL tree whose vekter has failpoints."""
    if shutil.which("cargo") is None:
        pytest.skip("failpoints need a build of their own, and there is no cargo")
    return pg_bindir()


def _use_failpoint_server() -> None:
    """Bring the PostgreSQL tree whose vekter has failpoints up to date (scripts/failpoint_server.sh); all clusters use it."""
    done = subprocess.run([REPOSITORY / "scripts/failpoint_server.sh"], check=True, stdout=subprocess.PIPE, text=True)
    pg_config = Path(done.stdout.strip())
    if not _server_can_run(pg_bindir(pg_config)):
        # The checkout lies where the server's account may not go, such as in root's home.
        tree = next(folder for folder in pg_config.parents if (folder / "complete").exists())
        copy = Path(os.environ[TEMPLATES_VARIABLE]) / "pg"
        shutil.copytree(tree, copy, symlinks=True)
        pg_config = copy / pg_config.relative_to(tree)
    os.environ["PG_CONFIG"] = str(pg_config)


def _server_can_run(bindir: Path) -> bool:
    account = server_account()
    as_account = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
    try:
        return subprocess.run([bindir / "postgres", "--version"], capture_output=True, **as_account).returncode == 0
    except OSError:
        return False


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if not report.failed:
        return
    for cluster in _clusters:
        report.sections.append((f"log of {cluster.name} ({cluster.folder})", cluster.log_tail()))
        for core in cluster.cores():
            report.sections.append((f"core {core}", _backtrace(cluster, core)))


def _backtrace(cluster: Cluster, core: Path) -> str:
    command = ["gdb", "-batch", "-ex", "bt 40", str(cluster.bindir / "postgres"), str(core)]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout[-6000:]
    except (FileNotFoundError, subprocess.TimeoutExpired) as reason:
        return f"no backtrace: {reason}"
