"""A ranker by its name: the file of that name in this folder, and its function `from_source`."""

from __future__ import annotations

import importlib
import warnings

from torch import nn

from vitrail import catalog
from vitrail.backbones.reading import parts_in, weights_file
from vitrail.rankers.source import Source


def open_ranker(
    name: str,
    weights: str | None = None,
    *,
    model: str | None = None,
    key: str = "auto",
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    variant: str | None = None,
    device: str = "cpu",
) -> nn.Module:
    """A ranker, ready to use: in evaluation mode, without gradients, on `device`. Fulfills `vitrail.contracts.Ranker`.

    Args:
        name: `vitrail list rankers` names them.
        weights: a file or a run folder, for all but `random` and `center`.
        model: timm's name, where the file does not tell.
        key: which network of a file that holds several.
        image_size: pixels, a side or (height, width), that positions are made for; None for the weights' own.
        patch_size: side of a patch in pixels, for networks that have none of their own.
        variant: where the paper's text and its released code differ; None for the text.

    Weights that hold what another ranker reads are taken for the backbone that they are, with a warning.

    Raises:
        ValueError: for an unknown name or variant, missing weights, or weights of another network.
    """
    entry = catalog.find(catalog.rankers(), name, "ranker")
    for what, value in (("image_size", image_size), ("patch_size", patch_size)):
        sides = value if isinstance(value, tuple) else (value,)
        if any(side is not None and side < 1 for side in sides):
            raise ValueError(f"{what} is {value}; it is pixels, 1 or more")
    source = Source(weights, model, key, image_size, patch_size, variant)
    ranker: nn.Module = importlib.import_module(entry.module).from_source(source)
    for other in _meant(entry, weights):
        warnings.warn(
            f"{weights} holds what the ranker {other} reads, and {name} scores by the network beneath it alone; if the "
            f"scores of {other} are meant, say --ranker {other}",
            stacklevel=2,
        )
    return ranker.requires_grad_(False).eval().to(device)


def _meant(entry: catalog.RankerEntry, weights: str | None) -> list[str]:
    """Other rankers whose part stands beside the backbone in these weights."""
    if not entry.weights or weights is None or weights == "pretrained":
        return []
    parts = set(parts_in(weights_file(weights))) - {entry.part}
    return [other.name for other in catalog.rankers() if other.part in parts]
