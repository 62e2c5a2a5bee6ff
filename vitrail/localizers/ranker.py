"""The score map of any ranker: what a ranker would keep is taken for the object.

The variant says which ranker, as `vitrail list rankers` names it, and which variant of it: "dino:mass_vote". It has no
default. Weights are those that the ranker reads; `center` and `random` read none. Rankers whose scores depend on how
many patches are kept are asked for `keep` of them, a quarter by default.

Source: none; a comparison. LTRP and its rivals were made to choose patches, not to bound objects.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitrail.contracts import Located, Ranker
from vitrail.ops.patches import grid_of
from vitrail.ops.selection import number_kept
from vitrail.rankers.build import open_ranker
from vitrail.rankers.source import Source

WEIGHTS = "what the ranker reads that the variant names, as in ranker:dino; see `vitrail list rankers`"


def from_source(source: Source, *, keep: float = 0.25) -> Ranked:
    """The ranker that `source.variant` names, NAME or NAME:VARIANT; `keep`, a share of the patches in (0, 1]."""
    if source.variant is None:
        raise ValueError(
            "the localizer ranker needs the name of one: say it as the variant, variant='dino' or "
            "variant='dino:mass_vote'; `vitrail list rankers` names them"
        )
    name, _, variant = source.variant.partition(":")
    opened = open_ranker(
        name,
        source.weights,
        model=source.model,
        key=source.key,
        image_size=source.image_size,
        patch_size=source.patch_size,
        variant=variant or None,
    )
    assert isinstance(opened, Ranker)
    return Ranked(opened, keep)


class Ranked(nn.Module):
    """A ranker's scores as a map. Fulfills `vitrail.contracts.Localizer`; does not classify."""

    classes: tuple[str, ...] | None = None

    def __init__(self, ranker: Ranker, keep: float = 0.25) -> None:
        """Args: any ranker; the share of patches that it is asked for where it needs a number."""
        super().__init__()
        number_kept(keep, 1)  # refuses what is no share
        self.ranker, self.keep = ranker, keep
        self.mean, self.std, self.image_size = ranker.mean, ranker.std, ranker.image_size

    @torch.no_grad()
    def forward(self, images: Tensor, *, labels: Tensor | None = None) -> Located:
        """Maps `[B, Y, X]`, the scores."""
        if not self.ranker.needs_number:
            return Located(self.ranker(images))
        rows, columns = grid_of(images.shape[-2], images.shape[-1], self.ranker.patch_size)
        return Located(self.ranker(images, number=number_kept(self.keep, rows * columns)))
