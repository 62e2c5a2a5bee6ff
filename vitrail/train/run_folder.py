"""What a run leaves on disk, who may write there, and the ways back into it.

config.yaml  versions.json  log.txt  metrics.jsonl  skipped.jsonl  nonfinite.json  tensorboard/
checkpoints/{last,previous}.pt      to resume
exported/backbone.safetensors       to use
evaluation/<protocol>.json  pictures/*.png  pictures/captions.json
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from vitrail.config import Config, ConfigError, read_yaml
from vitrail.train.lock_file import FolderInUse as FolderInUse
from vitrail.train.lock_file import hold, let_go
from vitrail.train.run_files import in_the_way, is_run, removable

Verb = Literal["new", "resume", "extend", "overwrite"]
FREE_KEYS = frozenset(
    {"log_every", "checkpoint_every", "evaluate_every", "workers", "prefetch", "pin", "device", "devices", "download"}
)
log = logging.getLogger("vitrail")


class RunFolder:
    """One run's folder, locked while open (the system frees the lock when the process dies, however it dies).

    Args:
        path: the folder; made where absent.
        config: the resolved configuration of the whole run, written to `config.yaml`.
        verb: "new" refuses a folder in which something was trained or that has foreign files, but takes one in which a
            start was refused, also with masks or neighbors that were made for it already; "resume" goes on
            with the very same run, so nothing may differ but `FREE_KEYS`, which change what is logged or how fast
            it goes; "extend" allows larger values of `epochs` besides; "overwrite" removes the files that vitrail
            writes, no others, and refuses a folder with foreign files that is no run of vitrail. After an elastic
            restart by torchrun any verb resumes.
        main: whether this process writes (rank 0); other ranks only read paths from it.

    Raises `ConfigError` for a refused folder and `FolderInUse` for a held one.
    """

    def __init__(
        self, path: str | Path, config: Config | Mapping[str, Any], verb: Verb = "new", *, main: bool = True
    ) -> None:
        self.path, self.main = Path(path), main
        self.config = config.plain() if isinstance(config, Config) else dict(config)
        self._kind = type(config) if isinstance(config, Config) else None
        self._handlers: list[logging.Handler] = []
        self._lock: int | None = None
        self._board: Any = None
        self._told: set[str] = set()
        if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) and self._same_run():
            verb = "resume"
        self.resuming = verb in ("resume", "extend")
        self.checkpoints = self.path / "checkpoints"
        self.exported = self.path / "exported" / "backbone.safetensors"
        self.evaluation, self.pictures = self.path / "evaluation", self.path / "pictures"
        if not main:
            return
        if verb in ("resume", "extend") and not (self.path / "config.yaml").is_file():
            raise ConfigError(f"there is no run in {self.path} to {verb}: it has no config.yaml; start without")
        self.path.mkdir(parents=True, exist_ok=True)
        what = f"run folder {self.path}"
        self._lock, self._stale = hold(self.path / ".lock", what, "stop it or take another")
        try:
            self._enter(verb)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock and the log."""
        for handler in self._handlers:
            log.removeHandler(handler)
            handler.close()
        self._handlers.clear()
        if self._board is not None:
            self._board.close()
            self._board = None
        if self._lock is not None:
            let_go(self._lock)
            self._lock = None

    def write_metrics(self, line: Mapping[str, float]) -> None:
        """Append a line to `metrics.jsonl` and its numbers to TensorBoard; a full disk is only said."""
        if not self.main:
            return
        try:
            with open(self.path / "metrics.jsonl", "a") as file:
                file.write(json.dumps(dict(line)) + "\n")
            if self._board is None:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(self.path / "tensorboard", purge_step=int(line["step"]))
            for name, value in line.items():
                if name != "step":
                    self._board.add_scalar(name, value, int(line["step"]))
        except OSError as error:
            self._say_once(f"metrics of step {line['step']} could not be written: {error}")

    def metrics(self) -> list[dict[str, float]]:
        """The lines of `metrics.jsonl`; a last line cut short by a crash is left out."""
        lines = []
        for text in _lines(self.path / "metrics.jsonl"):
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return lines

    def forget_after(self, step: int) -> None:
        """Drop the metrics of steps after `step`: they will be trained again and must not stand twice."""
        if self.main and (self.path / "metrics.jsonl").is_file():
            kept = [json.dumps(line) + "\n" for line in self.metrics() if line["step"] <= step]
            _replace(self.path / "metrics.jsonl", "".join(kept))

    def write_skipped(self, skipped: Mapping[int, tuple[str, str]]) -> None:
        """List samples `{index: (path, reason)}` that could not be read, each once, in `skipped.jsonl`."""
        if not self.main or not skipped:
            return
        known = {json.loads(text)["index"] for text in _lines(self.path / "skipped.jsonl")}
        try:
            with open(self.path / "skipped.jsonl", "a") as file:
                for index, (path, reason) in sorted(skipped.items()):
                    if index not in known:
                        file.write(json.dumps({"index": index, "path": str(path), "reason": str(reason)}) + "\n")
        except OSError as error:
            self._say_once(f"the list of skipped samples could not be written: {error}")

    def write_json(self, name: str, value: Any) -> Path:
        """Write one JSON file into the folder, whole or not at all."""
        _replace(self.path / name, json.dumps(value, indent=2) + "\n")
        return self.path / name

    def _say_once(self, text: str) -> None:
        if text.split(":")[-1] not in self._told:
            self._told.add(text.split(":")[-1])
            log.warning(text)

    def _enter(self, verb: Verb) -> None:
        if verb == "new":
            self._check_free()
        elif verb == "overwrite":
            self._empty()
        else:
            self._compare(verb)
        self._write_logs()
        for folder in (self.checkpoints, self.exported.parent, self.evaluation, self.pictures):
            folder.mkdir(exist_ok=True)
        _replace(self.path / "config.yaml", yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))
        now = versions()
        if verb in ("resume", "extend") and (self.path / "versions.json").is_file():
            then = json.loads((self.path / "versions.json").read_text())
            changed = [f"{key} {then.get(key)} -> {now[key]}" for key in now if then.get(key) != now[key]]
            if changed:
                log.warning("resuming with other versions, the bits may differ: %s", ", ".join(changed))
        self.write_json("versions.json", now)

    def _check_free(self) -> None:
        """Refuse a folder with more than a refused start leaves; of that, what it said of its images goes."""
        others = [str(name) for name in islice(in_the_way(self.path), 4)]
        if others:
            holds = f"it holds {', '.join(others[:3])}{' ...' * (len(others) > 3)}"
            if not is_run(self.path):
                raise ConfigError(f"folder {self.path} is not empty and no run of vitrail; give another --out; {holds}")
            made = [name for name in ("object_masks", "neighbors.safetensors") if (self.path / name).exists()]
            raise ConfigError(
                f"run folder {self.path} is not empty; go on with --resume, train longer with --extend,"
                f" or empty it with --overwrite, which removes what vitrail writes"
                f"{f' but for {made[0]}' if made else ''}; {holds}"
            )
        for name in ("skipped.jsonl", "nonfinite.json") if (self.path / "config.yaml").is_file() else ():
            (self.path / name).unlink(missing_ok=True)

    def _write_logs(self) -> None:
        file = logging.FileHandler(self.path / "log.txt")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._handlers.append(file)
        if not (log.handlers or logging.getLogger().handlers):
            self._handlers.append(_ConsoleHandler(logging.INFO))
        for handler in self._handlers:
            log.addHandler(handler)
        log.setLevel(logging.DEBUG)
        if self._stale:
            log.warning("the run folder's last process (%s) died holding it; taking over", self._stale)

    def _same_run(self) -> bool:
        try:
            return not differences(self._before(), self.config)
        except ConfigError:
            return False

    def _before(self) -> dict[str, Any]:
        """What the folder's config.yaml says; settings that were not there yet have their default."""
        values = read_yaml(self.path / "config.yaml")
        try:
            return values if self._kind is None else self._kind.parse(values, source="config.yaml").plain()
        except ConfigError:  # another kind of run, or settings that are gone: the difference tells
            return values

    def _compare(self, verb: Verb) -> None:
        changed = differences(self._before(), self.config)
        if verb == "extend":
            if not changed:
                raise ConfigError(f"nothing to extend: {self.path} is planned as this already; --resume goes on")
            for key, (old, new) in list(changed.items()):
                if key.split(".")[-1] == "epochs":
                    if new is None or old is None or new <= old:
                        raise ConfigError(f"{key}: {new} does not extend {old}; give more epochs")
                    del changed[key]
        if changed:
            words = "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in changed.items())
            allowed = "only epochs may grow" if verb == "extend" else "--extend allows more epochs"
            raise ConfigError(
                f"cannot {verb} {self.path}, its configuration differs: {words}. Take these back ({allowed}),"
                f" or start a new run from its weights with --init-from"
            )

    def _empty(self) -> None:
        """Remove what vitrail writes; refuse a folder in which it never did."""
        others = [] if is_run(self.path) else [str(name) for name in islice(in_the_way(self.path), 4)]
        if others:
            raise ConfigError(
                f"--overwrite removes a run of vitrail, and {self.path} is none; give another --out, or empty it by"
                f" hand; it holds {', '.join(others[:3])}{' ...' * (len(others) > 3)}"
            )
        for file in removable(self.path):
            file.unlink(missing_ok=True)
        for folder in ("tensorboard", "checkpoints", "exported", "evaluation", "pictures"):
            if (self.path / folder).is_dir() and not any((self.path / folder).iterdir()):
                (self.path / folder).rmdir()


class _ConsoleHandler(logging.Handler):
    """Prints through Rich, above a running progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from vitrail.train.progress import console

        style = "yellow" if record.levelno >= logging.WARNING else None
        console().print(record.getMessage(), style=style, markup=False, highlight=False, soft_wrap=True)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Keys `a.b` whose values differ, with both; `FREE_KEYS` are looked over, an absent key is None."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*old, *new]):
        was, now = old.get(key), new.get(key)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            found |= differences(was, now, f"{prefix}{key}.")
        elif was != now and key not in FREE_KEYS:
            found[f"{prefix}{key}"] = (was, now)
    return found


def versions() -> dict[str, str | None]:
    """What the numbers were made with: Python, libraries, CUDA, GPU, and the commit in a checkout."""
    import torch

    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("vitrail", "torch", "torchvision", "timm", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = getattr(sys.modules.get(name), "__version__", None)
    found["cuda"] = torch.version.cuda
    found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found["commit"] = _commit()
    return found


def _commit() -> str | None:
    here = Path(__file__).resolve().parent
    git = ["git", "-C", str(here)]
    try:  # a package installed inside someone else's checkout is not tracked there
        subprocess.run([*git, "ls-files", "--error-unmatch", "loop.py"], capture_output=True, check=True, timeout=10)
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, check=True, timeout=10, text=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
