"""From a recipe's name and a few settings to a finished run folder."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vitrail import catalog
from vitrail.config import Config, ConfigError, read_yaml

log = logging.getLogger("vitrail")


class Verbs(NamedTuple):
    """How a run folder is entered. At most one of resume, extend and init_from."""

    resume: bool = False
    extend: int | None = None  # epochs in all
    init_from: str | None = None  # weights of a new run
    overwrite: bool = False

    @property
    def folder(self) -> Any:
        """The run folder's own word for it: new, resume, extend or overwrite."""
        if self.resume:
            return "resume"
        if self.extend is not None:
            return "extend"
        return "overwrite" if self.overwrite else "new"


class Family(Protocol):
    """What a module of recipes holds beside the functions that return them. A recipe's class says its module."""

    Recipe: type[Config]
    """Everything that decides a run; has `train`, and a `kind` that is the module's name."""

    def check(self, recipe: Any) -> None:
        """Raise for what can be seen wrong before a process is started."""
        ...

    def build(self, recipe: Any, rank: int, world: int, own: str | None = None) -> Parts:
        """Make everything for one of `world` processes; `own` are a resumed run's exported weights."""
        ...

    # A module may also hold `first(recipe, verbs, out) -> recipe`: what has to be there before `build`, such as another
    # model that is trained into a folder below `out`. It is asked again whenever the run is taken up, by all processes.


class Parts(NamedTuple):
    """What a recipe's `build` makes for one process."""

    method: Any  # a Method that is an nn.Module with a `backbone`
    loader: Any  # vitrail.data.Loader
    evaluate: Callable[[], Mapping[str, float]] | None = None  # numbers for val/...
    draw: Callable[[Path, str, Any], None] | None = None  # pictures of a backbone into a folder, `before` or `after`
    open: Callable[[str], Any] | None = None  # exported weights as `draw` wants them; by default as `vitrail.load`


def together(*measures: Callable[[], Mapping[str, float]] | None) -> Callable[[], Mapping[str, float]] | None:
    """One function that gives the numbers of several, for `Parts.evaluate`; None where there is none."""
    known = [measure for measure in measures if measure is not None]

    def evaluate() -> Mapping[str, float]:
        return {name: value for measure in known for name, value in measure().items()}

    return evaluate if known else None


def prepare(name: str, settings: Sequence[str], verbs: Verbs, out: Path | None = None) -> tuple[Config, int]:
    """The resolved configuration, and how many processes to start (`devices=N` among the settings).

    A run that is resumed or extended keeps its own settings, which `out` remembers; only changes need to be said.
    """
    devices, settings = devices_of(settings)
    going_on = out is not None and (verbs.resume or verbs.extend is not None) and (out / "config.yaml").is_file()
    config = resolve(str(out / "config.yaml") if out is not None and going_on else name)
    if verbs.init_from is not None:
        from vitrail.recipes.weights import find_weights

        settings = [*settings, f"init_from={find_weights(verbs.init_from)}"]
    if verbs.extend is not None:
        settings = [*settings, f"train.epochs={verbs.extend}"]
    config = config.override(settings)
    family_of(config).check(config)
    return config, devices


def family_of(config: Config) -> Family:
    """The module of recipes that a configuration belongs to; also one whose class was extended elsewhere."""
    modules = (importlib.import_module(kind.__module__) for kind in type(config).__mro__)
    found: Any = next((module for module in modules if hasattr(module, "build") and hasattr(module, "check")), None)
    if found is None:
        raise ConfigError(f"{type(config).__module__}, where {type(config).__name__} is from, has no check and build")
    return found


def describe(config: Config, devices: int) -> str:
    """What a run would be: images, steps, weights. Builds all that training builds, and trains nothing."""
    return _words(config, family_of(config).build(config, 0, devices), devices)


def _words(config: Config, parts: Parts, processes: int) -> str:
    train, steps = config.train, parts.loader.steps_per_epoch  # type: ignore[attr-defined]
    weights = sum(value.numel() for value in parts.method.parameters())
    images, batch = len(parts.loader.data), train.global_batch_size
    epochs = f"{train.epochs} epoch{'s' * (train.epochs != 1)}"
    height, width = parts.method.backbone.image_size
    tall, wide = parts.method.backbone.patch_size
    return (
        f"{images:,} images, {epochs} of {steps:,} steps of {batch}: {train.epochs * steps:,} steps; "
        f"{height} x {width} px in {height // tall * (width // wide)} patches; {weights / 1e6:.1f} M weights; "
        f"{processes} process{'es' * (processes > 1)}"
    )


def resolve(name: str) -> Config:
    """A recipe by its name (`vitrail list recipes`), or from a YAML file that a run wrote."""
    if name.endswith((".yaml", ".yml")):
        values = read_yaml(name)
        kind = values.get("kind")
        known = sorted({entry.module.rsplit(".", 1)[1] for entry in catalog.recipes()})
        if kind not in known:
            raise ConfigError(f"{name}: kind = {kind!r} names no family of recipes; known: {', '.join(known)}")
        return importlib.import_module(f"vitrail.recipes.{kind}").Recipe.parse(values, source=name)
    entry = catalog.find(catalog.recipes(), name, "recipe")
    return getattr(importlib.import_module(entry.module), name)()


def run(config: Config, verbs: Verbs, out: Path) -> Any:
    """Train in this process (one of several under torchrun); returns the trainer's `Outcome`."""
    from vitrail.train import leave

    outcome = train_here(config, verbs, out)
    leave()
    return outcome


def train_here(config: Config, verbs: Verbs, out: Path) -> Any:
    """`run`, after which the processes stay together: for one training inside of another."""
    from vitrail.backbones import load, save_exported
    from vitrail.recipes.look import curves_sheet, heads_sheet
    from vitrail.train import RunFolder, fit, join, seed_everything

    train = config.train  # type: ignore[attr-defined]
    ranks = join(train.device)
    with RunFolder(out, config, verbs.folder, main=ranks.main) as folder:
        first = getattr(family_of(config), "first", None)
        if first is not None:
            config = first(config, verbs, out)
        seed_everything(train.seed)  # the same weights on every rank
        own = str(folder.exported) if folder.resuming and folder.exported.is_file() else None
        parts = family_of(config).build(config, ranks.rank, ranks.world, own)
        draw = parts.draw if ranks.main else None
        if ranks.main:
            log.info("%s", _words(config, parts, ranks.world))
        if draw and not folder.resuming:
            draw(folder.pictures, "before", parts.method.backbone)
        outcome = fit(parts.method, parts.loader, train, folder, evaluate=parts.evaluate, save_exported=save_exported)
        if draw:  # what was exported: the weights that all numbers are about, averaged and whole
            draw(folder.pictures, "after", (parts.open or partial(load, None))(str(folder.exported)))
        lines = folder.metrics() if ranks.main else []
        for name, sheet in (("curves.png", curves_sheet(lines)), ("entropy_heads.png", heads_sheet(lines))):
            if sheet is not None:
                sheet.save(folder.path / name)
    return outcome


def train_before(config: Config, verbs: Verbs, out: Path, name: str, what: str) -> Path:
    """Train what a run needs first into OUT/name, or what is left of that, for a family's `first`; returns the folder.

    Args:
        config: of the training that comes first.
        verbs: how the run itself is entered.
        out: the run's folder.
        what: the words that tell of it, such as "a masked autoencoder".
    """
    place = out / name
    started = (place / "checkpoints" / "last.pt").is_file() and not verbs.overwrite
    weights = (place / "exported" / "backbone.safetensors").is_file() and not verbs.overwrite
    begun = (out / "checkpoints" / "last.pt").is_file()  # only once what comes first was finished
    if weights and not started and not begun:
        raise ConfigError(
            f"{place} has weights and no checkpoint that tells whether they are trained to the end; put its "
            f"checkpoints/last.pt back, or begin anew with --overwrite"
        )
    if not begun or not (started or weights):
        log.info("first, %s is trained into %s", what, place)
        train_here(config, Verbs(resume=started, overwrite=not started), place)
    return place


def look_ahead(config: Config, verbs: Verbs) -> Parts | None:
    """Build all that training builds, before what comes first: what is refused is told now, not after hours.

    Nothing is logged: it would be of a run without what comes first, and training tells it in its turn. All processes
    call it, each for its own part. None where a run goes on, which was looked at when it began.

    Args:
        config: of what is trained in the end, as it is without what comes first: with fresh weights, without masks.
        verbs: how the run is entered.
    """
    from vitrail.train import join

    if verbs.resume or verbs.extend is not None:
        return None
    ranks = join(config.train.device)  # type: ignore[attr-defined]
    silent, log.disabled = log.disabled, True
    try:
        return family_of(config).build(config, ranks.rank, ranks.world)
    finally:
        log.disabled = silent


def devices_of(settings: Sequence[str]) -> tuple[int, list[str]]:
    """Take `devices=N` out of the settings: it is how a run is started, not what it is. `ConfigError` for no number."""
    chosen = [setting for setting in settings if setting.startswith("devices=")]
    rest = [setting for setting in settings if not setting.startswith("devices=")]
    value = chosen[-1].partition("=")[2] if chosen else "1"
    if not value.isdigit() or int(value) < 1:
        raise ConfigError(f"devices={value!r} is not a positive number of processes on this machine")
    return int(value), rest
