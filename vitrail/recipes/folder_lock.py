"""One call of `vitrail localize` at a time in a folder: a locked file there, which is gone when the call ends."""

from __future__ import annotations

from pathlib import Path

from vitrail.train.lock_file import hold, let_go

LOCK = ".localize.lock"


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
        self._descriptor, _ = hold(self.path, str(folder), "wait for it, or give another --out")

    def release(self) -> None:
        """Let others in; nothing in a forked process, which holds nothing."""
        let_go(self._descriptor, delete=self.path)
