"""File systems of a test's own: one that is soon full, a tmpfs of a few megabytes, or another. Only root may mount them."""

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import ROOT, server_account


class SmallDisk:
    def __init__(self, path: Path):
        self.path = path

    def resize(self, megabytes: int) -> None:
        _run("mount", "-o", f"remount,size={megabytes}m", self.path)

    @contextmanager
    def filled(self, free_bytes: int):
        """Others' data takes all room but so much, while the block runs."""
        others = self.path / "others"
        with open(others, "wb") as file:
            file.write(bytes(self.free_bytes() - free_bytes))
        try:
            yield
        finally:
            others.unlink()

    def used_bytes(self) -> int:
        return shutil.disk_usage(self.path).used

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free


@contextmanager
def mounted(kind: str, options: str = "defaults", at: Path | None = None):
    """Mounts a file system in memory at an empty folder (default: a new one), which the server's account owns. Skips where
    that is not permitted."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system takes root and mount(8)")
    path = at or Path(tempfile.mkdtemp(prefix="vekter-disk-", dir=ROOT))
    done = subprocess.run(["mount", "-t", kind, "-o", options, kind, path], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        account = server_account()
        os.chown(path, account.pw_uid, account.pw_gid)
        os.chmod(path, 0o700)
        yield path
    finally:
        # Lazily: a server that still runs keeps files in it open.
        _run("umount", "--lazy", path)
        if at is None:
            path.rmdir()


@contextmanager
def small_disk(megabytes: int, at: Path | None = None):
    """One of so many megabytes, as `mounted`."""
    with mounted("tmpfs", f"size={megabytes}m", at) as path:
        yield SmallDisk(path)


def _run(*command) -> None:
    subprocess.run(command, check=True, capture_output=True)
