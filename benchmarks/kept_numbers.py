"""Numbers that a long benchmark has already: what was interrupted goes on, and nothing of another commit is reused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from record import commit


class KeptNumbers:
    """Numbers by name, in a folder of their own.

    Attributes: `folder`, where runs may lie, too; `commit`, that of the tree when the benchmark began.
    """

    def __init__(self, runs: Path, asked: dict[str, Any]) -> None:
        """Args:
        runs: folder of all; that of these numbers is named by the commit and a digest of `asked`. Numbers of a tree
            with uncommitted work are begun anew, for nothing says which work that was.
        asked: JSON values that decide the numbers.
        """
        self.commit = commit()
        mark = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
        self.folder = runs / f"{self.commit}-{mark}"
        if self.folder.exists() and (self.commit == "unknown" or self.commit.endswith("+changes")):
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = self.folder / "numbers.json"
        self._found: dict[str, Any] = json.loads(self._file.read_text()) if self._file.is_file() else {}

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, JSON values; that of the first time."""
        if name not in self._found:
            self._found[name] = compute()
            waiting = self._file.with_suffix(".partial")
            waiting.write_text(json.dumps(self._found, indent=2))
            os.replace(waiting, self._file)
        return self._found[name]
