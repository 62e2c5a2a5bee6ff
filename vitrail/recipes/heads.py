"""What stands beside a backbone in the weights that training goes on from: decoders and heads, taken over or fresh."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import nn

from vitrail.backbones.parts import load_part
from vitrail.recipes.weights import find_weights

log = logging.getLogger("vitrail")


def take_over(weights: str, parts: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """Fill modules from a file; those it does not have start fresh, which is said aloud.

    Returns the names of those that were filled. Raises `ValueError` where the file's part has other sizes.
    """
    found = find_weights(weights)
    filled: list[str] = []
    for name, module in parts.items():
        part = None if found == "pretrained" else load_part(found, name)
        if part is None:
            log.warning("%s brings no %s: it starts fresh", weights, name)
            continue
        translate = getattr(module, "translated", None)
        (part._replace(state=translate(part.state)) if translate else part).fill(module)
        log.info("%s: taken over from %s", name, weights)
        filled.append(name)
    return tuple(filled)
