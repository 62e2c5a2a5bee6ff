"""What the protocol `localization` measures, by words, and the images that choose its threshold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from vitrail.config import Config
from vitrail.contracts import ImageSet, Localizer
from vitrail.evaluation.heat_maps import HeatMaps
from vitrail.evaluation.localization import LocalizationConfig, evaluate
from vitrail.evaluation.result import Report
from vitrail.recipes.localizers import open_words, titled
from vitrail.recipes.sources import DataConfig, open_held_out


class Measured(NamedTuple):
    """A localizer or a folder of heat maps, opened."""

    source: Localizer | HeatMaps
    title: str  # its words
    name: str  # what results are kept under where it reads no weights
    weights: str | None  # whose results they are; None where it reads none


def open_measured(texts: Sequence[str], weights: str | None, **how: Any) -> Measured:
    """The one that words name; `texts`, `weights` and `how` as of `vitrail.recipes.localizers.open_localizers`."""
    ((title, words),) = titled(texts, weights).items()
    name = "-".join(part for part in (title, words.weights_name) if part)
    own = words.weights if words.reads_weights else None
    return Measured(open_words(words, **how), title, re.sub(r"[^\w.-]+", "_", name), own)


def held_out_of(config: Config, data: str, trained: DataConfig | None, settings: Sequence[str]) -> ImageSet | None:
    """Images to choose the threshold with, see `vitrail.recipes.sources.open_held_out`; None where it is given, or
    chosen on the measured ones."""
    if not isinstance(config, LocalizationConfig) or config.threshold != "held_out":
        return None
    return open_held_out(data, trained, settings)


def localization(
    measured: Measured,
    data: ImageSet,
    config: Config,
    held_out: ImageSet | None,
    held_out_maps: str | None,
    device: str,
) -> Report:
    """The protocol's report; the card names the localizer by its words.

    Args:
        held_out_maps: folder of heat maps of the held-out images, where they do not lie with the others.

    Raises:
        ValueError: as `evaluate`, and for held-out images of which no heat map is there.
    """
    assert isinstance(config, LocalizationConfig)  # what `evaluate` asks for
    source, maps = measured.source, None if held_out_maps is None else HeatMaps(held_out_maps)
    if maps is not None and not isinstance(source, HeatMaps):
        raise ValueError(f"{measured.title} locates in held-out images itself; leave --held-out-maps {maps.root} out")
    where = maps or source
    if held_out is not None and maps is None and isinstance(source, HeatMaps):
        source.check_apart(data, held_out)
    if held_out is not None and isinstance(where, HeatMaps) and len(where.missing(held_out)) == len(held_out):
        raise ValueError(
            f"{where.root} has no map of any of {len(held_out)} held-out images, which the threshold is chosen with; "
            "give theirs by --held-out-maps FOLDER, or a number as threshold=0.5, or threshold=test_set"
        )
    return evaluate(source, data, config, held_out=held_out, held_out_source=maps, name=measured.title, device=device)
