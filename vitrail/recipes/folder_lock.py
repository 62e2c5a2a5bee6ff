"""One process at a time in a folder: a file there that is locked while it writes, and gone when it ends."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path

from vitrail.train.run_folder import FolderInUse

LOCK = ".localize.lock"
_locks: set[int] = set()


def _drop_locks() -> None:
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


# A lock lives until its last copy is closed: a forked worker that outlives its parent would hold it.
os.register_at_fork(after_in_child=_drop_locks)


class FolderLock:
    """A folder that is held until `release`; the system frees it when the process dies, however it dies.

    Args:
        folder: made where absent.

    Raises:
        FolderInUse: a live process holds it, in another call or in this one.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / LOCK
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._take(descriptor)
                if _is(descriptor, self.path):
                    break
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its last holder has deleted it since it was opened
        _locks.add(descriptor)
        self._descriptor = descriptor
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()} since {started}".encode(), 0)

    def release(self) -> None:
        """Let others in; nothing in a forked process, which holds nothing."""
        if self._descriptor in _locks:
            self.path.unlink(missing_ok=True)
            _locks.discard(self._descriptor)
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # a worker that is just being forked has a copy still
            os.close(self._descriptor)

    def _take(self, descriptor: int) -> None:
        folder = self.path.parent
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse(
                f"{folder} is held by a live process ({_holder(descriptor)}); wait for it, or give another --out"
            ) from None
        except OSError:  # a file system without locks: the name in the file has to do
            if holder := _holder(descriptor):
                raise FolderInUse(
                    f"{folder} seems held ({holder}) and this file system has no locks; if that process is gone, "
                    f"delete {self.path}, or give another --out"
                ) from None


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 4096, 0).decode(errors="replace").strip()


def _is(descriptor: int, path: Path) -> bool:
    """Whether a path still leads to the file that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
