"""A real file system that is soon full: a tmpfs of a few megabytes, mounted for one test. Only root may do that."""

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
def small_disk(megabytes: int, at: Path | None = None):
    """Mounts one at an empty folder (default: a new one), which the server's account owns. Skips where that is not permitted."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system takes root and mount(8)")
    path = at or Path(tempfile.mkdtemp(prefix="vekter-disk-", dir=ROOT))
    account = server_account()
    options = f"size={megabytes}m,mode=0700,uid={account.pw_uid},gid={account.pw_gid}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        # Lazily: a server that still runs keeps files in it open.
        _run("umount", "--lazy", path)
        if at is None:
            path.rmdir()


def _run(*command) -> None:
    subprocess.run(command, check=True, capture_output=True)
