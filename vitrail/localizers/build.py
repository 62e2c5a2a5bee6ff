"""A localizer by its name: the file of that name in this folder, and its function `from_source`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vitrail import catalog
from vitrail.contracts import Located
from vitrail.rankers.build import check_batch
from vitrail.rankers.source import Source


def open_localizer(
    name: str,
    weights: str | None = None,
    *,
    model: str | None = None,
    key: str = "auto",
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | None = None,
    variant: str | None = None,
    device: str = "cpu",
    **settings: Any,
) -> nn.Module:
    """A localizer, ready to use: in evaluation mode, without gradients, on `device`.

    Fulfills `vitrail.contracts.Localizer`. Given anything but a float tensor `[B, 3, H, W]`, or where a map comes out
    that is not finite, it raises `ValueError`.

    Args:
        name: `vitrail list localizers` names them.
        weights: a file or a run folder, for all but `whole_image` and `centered_box`.
        model: timm's name, where the file does not tell.
        key: which network of a file that holds several.
        image_size: pixels, a side or (height, width), that positions are made for; None for the weights' own.
        patch_size: side of a patch in pixels, for rankers whose network has none of their own.
        variant: one of the words that the localizer's file names; None for the first of them.
        settings: what its `from_source` takes by name, such as `heads=(0, 1, 2)` of `attention`.

    Raises:
        ValueError: for an unknown name, variant or setting, missing weights, or weights of another network.
    """
    entry = catalog.find(catalog.localizers(), name, "localizer")
    for what, value in (("image_size", image_size), ("patch_size", patch_size)):
        sides = value if isinstance(value, tuple) else (value,)
        if any(side is not None and side < 1 for side in sides):
            raise ValueError(f"{what} is {value}; it is pixels, 1 or more")
    from_source = importlib.import_module(entry.module).from_source
    _check_settings(name, settings, from_source)
    localizer: nn.Module = from_source(Source(weights, model, key, image_size, patch_size, variant), **settings)
    localizer.register_forward_pre_hook(_check_images)
    localizer.register_forward_hook(_check_maps)
    return localizer.requires_grad_(False).eval().to(device)


def _check_settings(name: str, settings: dict[str, Any], from_source: Callable[..., Any]) -> None:
    taken = inspect.signature(from_source).parameters.values()
    known = [each.name for each in taken if each.kind is inspect.Parameter.KEYWORD_ONLY]
    for each in sorted(set(settings) - set(known)):
        what = f"it has {', '.join(known)}" if known else "it has none"
        raise ValueError(f"the localizer {name} has no setting {each!r}; {what}")


def _check_images(localizer: nn.Module, given: tuple[Any, ...]) -> None:
    check_batch(given[0] if given else None, "a localizer reads")


def _check_maps(localizer: nn.Module, given: tuple[Any, ...], found: Located) -> None:
    if found.maps.isfinite().all():
        return
    bad = ~found.maps.isfinite().flatten(1).all(1)
    first = int(torch.nonzero(bad)[0])
    raise ValueError(f"the map of image {first} of the batch is NaN or infinite; check its pixels, and the weights")
