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

pytest.register_assert_rewrite("failpoints", "oracle", "workload")

from cluster import ROOT, Cluster, pg_bindir, server_account  # noqa: E402
from data import REPOSITORY  # noqa: E402

# Every cluster of this run that has not been destroyed: what a failure report shows, and what an abort must stop.
_clusters: list[Cluster] = []
_database_numbers = itertools.count(1)


def pytest_configure(config):
    # A runner that gives up sends SIGTERM, which by default skips every teardown and leaves servers running.
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("ended by SIGTERM", returncode=143))


def pytest_unconfigure(config):
    while _clusters:
        _clusters.pop().destroy()


class ClusterMaker:
    """Makes clusters and takes them down again. Call it: `new_cluster(settings, start=True, ...)`."""

    def __init__(self):
        self.made: list[Cluster] = []

    def __call__(self, settings=None, *, start=True, **options) -> Cluster:
        cluster = self.adopt(Cluster(settings, **options))
        cluster.init()
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


@pytest.fixture
def database(cluster):
    """Name of a fresh database on `cluster` with the extension in it; dropped afterwards."""
    name = f"test_{next(_database_numbers)}"
    cluster.execute(f"CREATE DATABASE {name}")
    cluster.execute("CREATE EXTENSION vekter", dbname=name)
    yield name
    cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def db(cluster, database):
    """An autocommit connection to a fresh database with the extension in it."""
    with cluster.connect(database) as connection:
        yield connection


@pytest.fixture(scope="session")
def failpoint_bindir():
    """Programs of a PostgreSQL tree whose vekter has failpoints; brought up to date first (scripts/failpoint_server.sh)."""
    if shutil.which("cargo") is None:
        pytest.skip("failpoints need a build of their own, and there is no cargo")
    done = subprocess.run([REPOSITORY / "scripts/failpoint_server.sh"], check=True, stdout=subprocess.PIPE, text=True)
    bindir = pg_bindir(done.stdout.strip())
    if _server_can_run(bindir):
        yield bindir
        return
    # The checkout lies where the server's account may not go, such as in root's home.
    tree = next(folder for folder in bindir.parents if (folder / "complete").exists())
    with tempfile.TemporaryDirectory(prefix="vekter-failpoints-", dir=ROOT) as folder:
        os.chmod(folder, 0o755)
        copy = Path(folder) / "pg"
        shutil.copytree(tree, copy, symlinks=True)
        yield copy / bindir.relative_to(tree)


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
