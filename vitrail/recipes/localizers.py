"""Localizers by the words of a command line, `NAME[:VARIANT][=WEIGHTS]`. torch is imported when one is opened.

Beside the names that `vitrail list localizers` tells, `heat_maps=FOLDER` is a folder of maps of another program,
`ranker:NAME[:VARIANT]` a ranker, and `attention:0,3` the attention of these heads. Weights alone, without a name, are
the localizer that they were trained to be, LocLoc or PPD, and those of other trainings `attention`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from vitrail import catalog
from vitrail.backbones.reading import own_header, weights_file
from vitrail.rankers.source import Source, need_weights, no_variant, variant_of
from vitrail.recipes.rankers import RankerWords, by_title, check_weights, name_of_weights, three_of

if TYPE_CHECKING:
    from vitrail.contracts import Localizer
    from vitrail.evaluation.heat_maps import HeatMaps

HEAT_MAPS = "heat_maps"
_HEADS = re.compile(r"\d+(,\d+)*")


class LocalizerWords(NamedTuple):
    """What a user says of a localizer."""

    name: str
    variant: str | None  # one of the words that its file names, of `ranker` a ranker, of `attention` also heads
    weights: str | None  # a file, a run folder, or "pretrained"; of `heat_maps` their folder

    @property
    def title(self) -> str:
        """`NAME` or `NAME:VARIANT`."""
        return self.name if self.variant is None else f"{self.name}:{self.variant}"

    @property
    def heads(self) -> tuple[int, ...] | None:
        """Of `attention`, where the variant says numbers; else None."""
        if self.name != "attention" or self.variant is None or not _HEADS.fullmatch(self.variant):
            return None
        return tuple(map(int, self.variant.split(",")))

    @property
    def ranker(self) -> RankerWords | None:
        """Of `ranker`, which one; else None."""
        if self.name != "ranker" or self.variant is None:
            return None
        name, _, variant = self.variant.partition(":")
        return RankerWords(name, variant or None, self.weights)

    @property
    def reads_weights(self) -> bool:
        """False for floors and heat maps. Raises `ValueError` for a name that there is not."""
        if self.name == HEAT_MAPS:
            return False
        if self.ranker is not None:
            return self.ranker.reads_weights
        return bool(catalog.find(catalog.localizers(), self.name, "localizer").weights)

    @property
    def weights_name(self) -> str:
        """Of the weights or the heat maps: the folder's name, or the file's without its ending; empty for none."""
        return "" if self.weights is None else name_of_weights(self.weights)

    def given(self, weights: str | None) -> LocalizerWords:
        """With these weights, where words name none. Raises `ValueError` where both name some, and others."""
        if weights and self.weights and weights != self.weights:
            named = f"{self.weights} with the localizer and {weights}"
            raise ValueError(f"weights are named twice, {named}; name them once")
        return self._replace(weights=self.weights or weights)

    def check(self) -> None:
        """Raise for what can be seen wrong without torch: name, variant, weights that are missing or not there."""
        if self.name == HEAT_MAPS:
            _check_folder(self)
            return
        entry = catalog.find(catalog.localizers(), self.name, "localizer")
        if self.name == "ranker" and self.variant is None:
            raise ValueError(_no_ranker(self.weights))
        source = Source(self.weights, variant=self.variant)
        if self.ranker is not None:
            self.ranker.check()
            return
        if entry.variants and self.heads is None:
            variant_of(source, self.name, entry.variants, "localizer")
        elif not entry.variants:
            no_variant(source, self.name, "localizer")
        if entry.weights and need_weights(source, self.name, entry.weights, "localizer") != "pretrained":
            check_weights(self.weights)


def parse_localizer(text: str, option: str = "--localizer") -> LocalizerWords:
    """Read `lost`, `lost=dino.pth`, `attention:first_three=dino.pth` or `heat_maps=maps`.

    Raises:
        ValueError: a part is empty; `option` is named in it.
    """
    return LocalizerWords(*three_of(text, option))


def localizer_in(weights: str) -> LocalizerWords:
    """The localizer that weights were trained to be, by their header; `attention` where they were not.

    Raises:
        ValueError: there is no such file.
    """
    header = None if weights == "pretrained" else own_header(weights_file(weights))
    return LocalizerWords(str((header or {}).get("localizer", "attention")), None, weights)


def titled(texts: Sequence[str], weights: str | None = None) -> dict[str, LocalizerWords]:
    """What is said of localizers, by their titles, see `vitrail.recipes.rankers.by_title`.

    Args:
        texts: see the module.
        weights: of those that name none; without texts, what they were trained to be.

    Raises:
        ValueError: neither texts nor weights, the same localizer twice, or words that are none.
    """
    if not texts and weights is None:
        raise ValueError(
            "no localizer is named; give --weights RUN, --localizer NAME=WEIGHTS or --heat-maps FOLDER, "
            f"{known_names()}"
        )
    if not texts and weights is not None:
        return by_title([localizer_in(weights)], "localizer")
    said = [parse_localizer(text) for text in texts]
    return by_title([each._replace(weights=_weights_of(each, weights)) for each in said], "localizer")


def known_names() -> str:
    """The names that there are, for an error."""
    return f"known names: {', '.join(each.name for each in catalog.localizers())}"


def check_localizers(protocol: str, weights: str | None, texts: Sequence[str]) -> None:
    """Raise for what can be seen wrong in the words for a protocol without torch: names, files, more than one.

    Args:
        protocol: its name.
        weights, texts: as of `titled`.
    """
    wanted = catalog.asks_for(catalog.find(catalog.protocols(), protocol, "protocol"))
    if "source" not in wanted:
        if texts:
            raise ValueError(f"{protocol} measures no localizer; leave --localizer {texts[0]} out")
        return
    if len(texts) > 1:
        named = ", ".join(texts)
        raise ValueError(
            f"{protocol} measures one localizer or folder of heat maps, not {named}; call it once for each"
        )
    for text in texts:
        if parse_localizer(text).name != HEAT_MAPS:
            parse_localizer(text).given(weights)
    for words in titled(texts, weights).values():
        words.check()


def check_threshold(threshold: float | None) -> None:
    """Raise `ValueError` for a threshold outside [0, 1); None passes."""
    if threshold is not None and not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}; it is a share of a map's greatest value, in [0, 1)")


def check_kept(boxes: str, min_area: float, top: int | None) -> None:
    """Raise `ValueError` for an area outside [0, 1), and for a number of boxes that is none, or of one box alone."""
    if not 0 <= min_area < 1:
        raise ValueError(f"min_area is {min_area:g}; it is a share of the image, in [0, 1), such as 0.01")
    if top is not None and top < 1:
        raise ValueError(f"top is {top}; give a number of boxes, 1 or more")
    if top is not None and boxes != "all":
        raise ValueError(f"top {top} is of all boxes, and only that of the largest is asked for; add --boxes all")


def open_words(
    words: LocalizerWords,
    *,
    model: str | None = None,
    key: str = "auto",
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    device: str = "auto",
) -> Localizer | HeatMaps:
    """The localizer that words name, on its device, or the folder of heat maps; the rest as of `open_localizer`."""
    if words.name == HEAT_MAPS:
        from vitrail.evaluation.heat_maps import HeatMaps

        return HeatMaps(_check_folder(words))
    from vitrail.localizers import open_localizer
    from vitrail.recipes.weights import pick_device

    how: dict[str, Any] = {"model": model, "key": key, "image_size": image_size, "patch_size": patch_size}
    how |= {"variant": words.variant} if words.heads is None else {"heads": words.heads}
    return cast("Localizer", open_localizer(words.name, words.weights, device=pick_device(device), **how))


def open_localizers(texts: Sequence[str], weights: str | None = None, **how: Any) -> dict[str, Localizer | HeatMaps]:
    """Localizers by their titles, see `titled`; `how` as for `open_words`."""
    return {title: open_words(each, **how) for title, each in titled(texts, weights).items()}


def _weights_of(words: LocalizerWords, weights: str | None) -> str | None:
    """Those that words name; where they name none, `weights`, but not for what reads none."""
    if words.weights is not None or words.name == HEAT_MAPS:
        return words.weights
    return weights if words.reads_weights else None


def _no_ranker(weights: str | None) -> str:
    """What is wrong with `ranker` or `ranker=WEIGHTS`, which say no ranker's name."""
    said = "ranker" if weights is None else f"ranker={weights}"
    names = [each.name for each in catalog.rankers()]
    if weights in names:
        return f"{said} takes the ranker's name for weights; say ranker:{weights}, or ranker:{weights}=WEIGHTS"
    way = "ranker:NAME=WEIGHTS" if weights is None else f"ranker:NAME={weights}"
    return f"{said} names no ranker; say {way}, NAME one of {', '.join(names)}"


def _check_folder(words: LocalizerWords) -> Path:
    if words.weights is None or words.variant is not None:
        raise ValueError(f"{words.title} names no folder of maps; say heat_maps=FOLDER")
    folder = Path(words.weights).expanduser()
    if not folder.is_dir():
        raise ValueError(f"there is no folder of heat maps {words.weights!r}")
    return folder
