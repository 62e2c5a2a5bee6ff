"""A ranker by its name: the file of that name in this folder, and its function `from_source`."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from torch import Tensor, nn

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
    Given anything but a float tensor `[B, 3, H, W]`, the opened ranker raises `ValueError`.

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
    ranker.register_forward_pre_hook(_check_images)
    return ranker.requires_grad_(False).eval().to(device)


def _check_images(ranker: nn.Module, given: tuple[Any, ...]) -> None:
    check_batch(given[0] if given else None, "a ranker scores")


def check_batch(images: Any, what: str) -> None:
    """Refuse what is no batch of images, above all a list of images of several sizes, with `ValueError`.

    Args:
        images: anything.
        what: happens to images, for errors, such as "a ranker scores".
    """
    if isinstance(images, list | tuple):
        sizes = ", ".join(str(list(getattr(image, "shape", ()))) for image in images[:3])
        raise ValueError(
            f"images are a list of {len(images)}, {sizes}{' ...' * (len(images) > 3)}; {what} one tensor "
            "[B, 3, H, W]: torch.stack images of one size, and resize the others or give them one by one"
        )
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        given = (
            f"{list(images.shape)} of {images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        )
        raise ValueError(f"images are {given}; {what} floats [B, 3, H, W], normalized by its mean and std")


def _meant(entry: catalog.RankerEntry, weights: str | None) -> list[str]:
    """Other rankers whose part stands beside the backbone in these weights."""
    if not entry.weights or weights is None or weights == "pretrained":
        return []
    parts = set(parts_in(weights_file(weights))) - {entry.part}
    return [other.name for other in catalog.rankers() if other.part in parts]
