"""One process at a time in a folder: a file there that is locked while a process holds it, and tells which one."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path

_held: set[int] = set()


def _forget() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


# A lock lives until its last copy is closed: a forked worker that outlives its parent would hold it.
os.register_at_fork(after_in_child=_forget)


class FolderInUse(ValueError):
    """Another live process holds the folder."""


def hold(path: Path, what: str, way_out: str) -> tuple[int, str]:
    """Lock a file, which is made where absent; the system frees it when the process dies, however it dies.

    Args:
        path: of the file, in a folder that is there.
        what: the folder, for words.
        way_out: what to do where it is held, for words.

    Returns:
        What `let_go` takes, and the last holder in words: empty, unless that one died holding it.

    Raises:
        FolderInUse: a live process holds it, another one or this one.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            before = os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
            _lock(descriptor, path, before, what, way_out)
            if _leads_to(path, descriptor):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder has deleted it since it was opened
    _held.add(descriptor)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()} since {started}".encode(), 0)
    return descriptor, before


def let_go(descriptor: int, delete: Path | None = None) -> None:
    """Let others in; nothing in a forked process, which holds nothing. `delete` is the file, if it should go."""
    if descriptor not in _held:
        return
    if delete is None:
        os.truncate(descriptor, 0)
    else:
        delete.unlink(missing_ok=True)
    _held.discard(descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # a worker that is just being forked has a copy still
    os.close(descriptor)


def _lock(descriptor: int, path: Path, before: str, what: str, way_out: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FolderInUse(f"{what} is held by a live process ({before}); {way_out}") from None
    except OSError:  # a file system without locks: the name in the file has to do
        if before and _alive(before):
            raise FolderInUse(
                f"{what} seems held ({before}) and this file system has no locks; if that process is gone, delete "
                f"{path}, else {way_out}"
            ) from None


def _alive(holder: str) -> bool:
    """Whether `pid N on HOST since T` may still run; another host's process may."""
    words = holder.split()
    if len(words) < 4 or words[3] != socket.gethostname():
        return True
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True


def _leads_to(path: Path, descriptor: int) -> bool:
    """Whether a path still leads to the file that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
