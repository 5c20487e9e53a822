"""Real, throw-away PostgreSQL servers for tests: started, killed, copied, promoted and always cleaned up.

A cluster lives in a folder of its own under ROOT, listens on a unix socket in that folder only, and runs as a
non-root user (`postgres`, when the tests run as root: PostgreSQL refuses root). No existing cluster is ever touched.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

# What the clusters of a parallel run take at most, with room to spare.
CLUSTERS_BYTES = 12 << 30
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
# Database of a template cluster that has the extension, to make others from.
EXTENSION_TEMPLATE = "vekter_template"
# Folder of the template clusters of a test run; unset: each cluster runs initdb.
TEMPLATES_VARIABLE = "VEKTER_CLUSTER_TEMPLATES"

# autovacuum_naptime: a VACUUM that nobody asked for makes a test's outcome depend on its speed, yet autovacuum itself
# stays on, as in production. fsync: a killed server loses nothing that reached the operating system.
DEFAULT_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "shared_buffers": "128MB",
    "max_connections": "50",
    "autovacuum_naptime": "1h",
    "max_wal_size": "2GB",
    "log_line_prefix": "%m [%p] %b ",
    "log_checkpoints": "off",
    # Of a build with failpoints; others warn once that they do not have it.
    "vekter.longest_pause": "20ms",
}


def _root() -> str:
    """Where clusters live: in memory where there is room, as a file system on a disk takes a third of a run's time to make and
    remove their files; else /tmp. Not $TMPDIR: the path of a unix socket has at most 107 bytes."""
    memory = "/dev/shm"
    with open("/proc/meminfo") as meminfo:
        available_bytes = next(int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:"))
    try:
        free_bytes = shutil.disk_usage(memory).free
    except OSError:
        return "/tmp"
    return memory if min(available_bytes, free_bytes) >= CLUSTERS_BYTES else "/tmp"


ROOT = _root()


def pg_bindir(pg_config: str | None = None) -> Path:
    """Folder of the server's programs, from this pg_config or else from the one that PG_CONFIG names."""
    pg_config = pg_config or os.environ.get("PG_CONFIG", "pg_config")
    found = subprocess.run([pg_config, "--bindir"], check=True, capture_output=True, text=True)
    return Path(found.stdout.strip())


def server_account() -> pwd.struct_passwd | None:
    """The account that servers run as where the tests run as root; None: run them as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in (os.environ.get("VEKTER_SERVER_USER"), "postgres", "nobody"):
        if name:
            try:
                return pwd.getpwnam(name)
            except KeyError:
                continue
    raise RuntimeError("PostgreSQL refuses to run as root, and there is no account 'postgres' or 'nobody'")


class Cluster:
    """One server. `settings` are lines of postgresql.conf over DEFAULT_SETTINGS; nothing runs before `start()`.

    `bindir`: the server's programs, where they are not those of PG_CONFIG.
    """

    def __init__(self, settings: dict[str, object] | None = None, *, name: str = "node", fsync: bool = False,
                 bindir: Path | None = None):
        self.name = name
        self.bindir = bindir or pg_bindir()
        self.settings = {**DEFAULT_SETTINGS, "fsync": "on" if fsync else "off", **(settings or {})}
        self.account = server_account()
        self.folder = Path(tempfile.mkdtemp(prefix="vekter-", dir=ROOT))
        if self.account:
            os.chown(self.folder, self.account.pw_uid, self.account.pw_gid)
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.postmaster: subprocess.Popen | None = None
        # Set by a test that crashes a backend on purpose; otherwise a crash fails the test.
        self.crash_expected = False

    # -- life ---------------------------------------------------------------------------------------------------

    def init(self, *, bare: bool = False) -> Cluster:
        """Make the data folder: superuser `postgres`, trusted (the folder is 0700), C locale, checksums on.

        Within a test run it is a copy of one that initdb made for all; that has the database EXTENSION_TEMPLATE, which a
        `bare` one does not have.
        """
        template = _template(self.bindir) if TEMPLATES_VARIABLE in os.environ and not bare else None
        if template:
            subprocess.run(["cp", "--archive", "--reflink=auto", template, self.data], check=True)
        else:
            self._initdb()
        return self

    def _initdb(self) -> None:
        self.tool("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale",
                  "--data-checksums", "--no-sync", "--no-instructions")

    def configure(self, **settings: object) -> Cluster:
        """Change lines of postgresql.conf; they hold from the next start or `pg_reload_conf()`."""
        self.settings.update(settings)
        if self.data.exists():
            self._write_settings()
        return self

    def start(self, *, wait: bool = True) -> Cluster:
        """Start the server and wait until it takes connections (a standby: until it is consistent)."""
        assert not self.running, f"{self.name} is running already"
        self._write_settings()
        with open(self.log, "ab") as log:
            # A session of its own: Ctrl-C in the terminal is for pytest, which then stops the server itself.
            self.postmaster = subprocess.Popen(
                [self.bindir / "postgres", "-D", self.data, "-k", self.folder], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, **self._as_account())
        if wait:
            self._wait_until_ready()
        return self

    def stop(self, mode: str = "fast") -> None:
        """Stop as pg_ctl does: `smart` waits for clients, `fast` ends them, `immediate` leaves crash recovery."""
        if not self.running:
            return
        self.postmaster.send_signal(
            {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])
        try:
            self.postmaster.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise RuntimeError(f"{self.name} did not stop ({mode}) within {STOP_TIMEOUT_S} s:\n{self.log_tail()}")

    def restart(self, mode: str = "fast") -> Cluster:
        self.stop(mode)
        return self.start()

    def kill9(self) -> None:
        """SIGKILL the postmaster and every process of this cluster at once, as a power cut would; nothing else."""
        if not self.running:
            return
        # A stopped postmaster forks no more children, so none escapes the list.
        self.postmaster.send_signal(signal.SIGSTOP)
        children = children_of(self.postmaster.pid)
        self.postmaster.kill()
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.postmaster.wait(STOP_TIMEOUT_S)
        _wait_for(lambda: not any(_alive(pid) for pid in children), "the killed server's processes to end")

    def promote(self) -> None:
        """Make this standby a primary and wait until it takes writes."""
        self.tool("pg_ctl", "promote", "-D", self.data, "-w")

    def destroy(self) -> None:
        """Stop whatever runs and remove the folder; safe at any time, any number of times."""
        if self.running:
            try:
                self.stop("immediate")
            except RuntimeError:
                pass
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def running(self) -> bool:
        return self.postmaster is not None and self.postmaster.poll() is None

    def wait_for_recovery(self, starts: int) -> None:
        """Wait until the server has come up again by itself: `starts` is `self.starts()` as of before the crash."""
        _wait_for(lambda: self.starts() > starts and self._accepts(), f"{self.name} to recover", START_TIMEOUT_S,
                  self.log_tail)

    def starts(self) -> int:
        """How often this server has come up, by itself or by `start()`."""
        return self.log_text().count("database system is ready to accept connections")

    # -- use ----------------------------------------------------------------------------------------------------

    def connect(self, dbname: str = "postgres", *, autocommit: bool = True, user: str = "postgres",
                **parameters: object) -> psycopg.Connection:
        """A psycopg connection; further keywords are libpq's connection parameters."""
        return psycopg.connect(host=str(self.folder), dbname=dbname, user=user, autocommit=autocommit, **parameters)

    def execute(self, sql: str, parameters: object = None, dbname: str = "postgres") -> list[tuple]:
        """Run one statement on a connection of its own; its rows, or [] where it returns none."""
        with self.connect(dbname) as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    def psql(self, sql: str, dbname: str = "postgres") -> str:
        """Run a script through psql (unaligned, tuples only, stops at the first error); its standard output."""
        return self.tool("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", dbname, input=sql)

    def tool(self, program: str, *arguments: object, input: str | None = None) -> str:
        """Run a PostgreSQL program (pg_dump, pgbench, ...) aimed at this server; its standard output."""
        # Not our working directory: it may be one that the server's account cannot enter.
        environment = {**os.environ, "PGHOST": str(self.folder), "PGUSER": "postgres", "LC_ALL": "C"}
        done = subprocess.run(
            [self.bindir / program, *map(str, arguments)], input=input, text=True, capture_output=True,
            env=environment, cwd=self.folder, **self._as_account())
        if done.returncode != 0:
            raise RuntimeError(f"{program} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    # -- copies -------------------------------------------------------------------------------------------------

    def make_standby(self, settings: dict[str, object] | None = None, *, name: str = "standby") -> Cluster:
        """A streaming hot standby of this running server, started."""
        standby = Cluster({**self.settings, **(settings or {})}, name=name, bindir=self.bindir)
        try:
            # -R writes standby.signal and primary_conninfo, with the host and user given here.
            standby.tool("pg_basebackup", "-D", standby.data, "-R", "-X", "stream", "-c", "fast", "--no-sync",
                         "-d", f"host={self.folder} user=postgres")
            return standby.start()
        except BaseException:
            standby.destroy()
            raise

    def make_copy(self, *, name: str = "copy") -> Cluster:
        """A base backup of this running server, restored in another folder as a server of its own, not started."""
        copy = Cluster(self.settings, name=name, bindir=self.bindir)
        try:
            copy.tool("pg_basebackup", "-D", copy.data, "-X", "stream", "-c", "fast", "--no-sync",
                      "-d", f"host={self.folder} user=postgres")
        except BaseException:
            copy.destroy()
            raise
        return copy

    def wait_for_replay(self, primary: Cluster) -> None:
        """Wait until this standby shows everything that `primary` has committed so far."""
        # A record of our own, flushed by its commit, lies behind everything committed before it, asynchronously or not.
        target = primary.execute("SELECT pg_logical_emit_message(true, 'wait_for_replay', '')")[0][0]
        with self.connect() as connection:
            _wait_for(lambda: connection.execute(
                "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [target]).fetchone()[0],
                f"{self.name} to replay up to {target}")

    # -- what happened ------------------------------------------------------------------------------------------

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    def cores(self) -> list[Path]:
        """Core files that crashed backends left in the data folder (a backend's working directory)."""
        return sorted(self.data.glob("core*"))

    def crashes(self) -> list[str]:
        """Log lines that tell of a crash: a backend ended by a signal, or a PANIC."""
        return [line for line in self.log_text().splitlines() if "was terminated by signal" in line or "PANIC: " in line]

    def limit(self, pid: int, resource: str, most: object) -> None:
        """Sets the soft limit of a running backend, as its own user (setrlimit(2), by prlimit(1))."""
        subprocess.run(["prlimit", f"--pid={pid}", f"--{resource}={most}:"], check=True, **self._as_account())

    # -- inside -------------------------------------------------------------------------------------------------

    def _as_account(self) -> dict[str, object]:
        if self.account is None:
            return {}
        return {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}

    def _write_settings(self) -> None:
        """Write the settings to a file that postgresql.conf includes last, so that a base backup carries both."""
        own = self.data / "test.conf"
        own.write_text("".join(f"{key} = '{_quoted(value)}'\n" for key, value in self.settings.items()))
        main = self.data / "postgresql.conf"
        if "include 'test.conf'" not in main.read_text():
            with open(main, "a") as conf:
                conf.write("\ninclude 'test.conf'\n")
        if self.account:
            os.chown(own, self.account.pw_uid, self.account.pw_gid)

    def _wait_until_ready(self) -> None:
        """Wait for the postmaster's own word in postmaster.pid (line 1: process id, line 8: status), as pg_ctl does."""
        def ready() -> bool:
            if not self.running:
                raise RuntimeError(f"{self.name} did not start:\n{self.log_tail()}")
            try:
                lines = (self.data / "postmaster.pid").read_text().splitlines()
            except FileNotFoundError:
                return False
            return (len(lines) >= 8 and int(lines[0]) == self.postmaster.pid
                    and lines[7].strip() in ("ready", "standby"))

        # A standby says "standby" before it is consistent; only a connection tells when it is open for reading.
        _wait_for(ready, f"{self.name} to start", START_TIMEOUT_S, self.log_tail)
        _wait_for(self._accepts, f"{self.name} to take connections", START_TIMEOUT_S, self.log_tail)

    def _accepts(self) -> bool:
        try:
            self.connect().close()
            return True
        except psycopg.OperationalError:
            return False


def _template(bindir: Path) -> Path:
    """Data folder of a stopped cluster of these programs, with the installed extension in EXTENSION_TEMPLATE; made once."""
    folder = Path(os.environ[TEMPLATES_VARIABLE])
    template = folder / hashlib.sha256(str(bindir).encode()).hexdigest()[:16]
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            maker = Cluster(name="template", bindir=bindir)
            try:
                maker._initdb()
                pristine = (maker.data / "postgresql.conf").read_bytes()
                maker.start()
                maker.execute(f"CREATE DATABASE {EXTENSION_TEMPLATE}")
                maker.execute("CREATE EXTENSION vekter", dbname=EXTENSION_TEMPLATE)
                maker.execute(f"ALTER DATABASE {EXTENSION_TEMPLATE} WITH is_template true")
                maker.stop()
                (maker.data / "test.conf").unlink()
                (maker.data / "postgresql.conf").write_bytes(pristine)
                shutil.move(maker.data, template)
            finally:
                maker.destroy()
    return template


def _quoted(value: object) -> str:
    text = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
    return str(text).replace("'", "''")


def children_of(parent: int) -> list[int]:
    """Process ids whose parent is `parent` (Linux: field 4 of /proc/PID/stat, after the name in parentheses)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _alive(pid: int) -> bool:
    """Whether a process still runs; a zombie, which init has yet to collect, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_for(condition, what: str, timeout_s: float = 60, detail=lambda: "") -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s for {what}\n{detail()}")
        time.sleep(0.02)
