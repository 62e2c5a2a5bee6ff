"""A classifier that sees the patches rankers keep: what protocols of kept patches share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from vitrail.contracts import Backbone, Ranker
from vitrail.data.loader import sample_seed
from vitrail.ops.patches import grid_of
from vitrail.ops.pixels import Normalization, renormalize
from vitrail.ops.selection import number_kept, select

RANDOM = "random"
Pool = Literal["cls", "mean", "all"]


class Wanted(Protocol):
    """What a protocol's settings say of the selection."""

    @property
    def keeps(self) -> tuple[float, ...]:
        """Shares of the patches that are kept, each in (0, 1]."""
        ...

    @property
    def seed(self) -> int:
        """Of the random selection."""
        ...


class SelectingClassifier:
    """A backbone with its head that reads some patches of an image, or all of them."""

    def __init__(self, backbone: Backbone, head: nn.Module, pool: Pool = "cls") -> None:
        """Args: pool: what the head reads: the class token, the mean of the patches that were kept, or all tokens,
        `[B, 1 + k, D]` with the class token first.
        """
        self.backbone, self.head, self.pool = backbone, head, pool

    def __call__(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits `[B, C]` of images `[B, 3, H, W]`; `keep` is int64 `[B, k]`, None for all patches."""
        tokens = self.backbone(images, keep=keep)
        if self.pool == "all":
            return self.head(torch.cat((tokens.cls[:, None], tokens.patches), 1))
        return self.head(tokens.cls if self.pool == "cls" else tokens.patches.mean(1))


def outputs_of(model: SelectingClassifier, image_size: int | tuple[int, int], place: torch.device) -> int:
    """How many outputs a classifier has, by asking it once. `image_size`: pixels, a side or (height, width)."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return int(model(torch.zeros(1, 3, height, width, device=place)).shape[1])


def answers(
    model: SelectingClassifier, rankers: Mapping[str, Ranker], images: Tensor, indices: Tensor, wanted: Wanted
) -> Iterator[tuple[tuple[str, float], Tensor]]:
    """Logits `[B, C]` by ranker and share, `random` first where no ranker has that name.

    Args:
        model: sees the k best patches of each image, k = int(keep N), ties by index.
        rankers: by name, of the model's grid.
        images: `[B, 3, H, W]`, normalized for the model.
        indices: int64 `[B]`, positions in the data set; they and the seed decide the random selection.
        wanted: shares and seed.

    Raises:
        ValueError: for a ranker of another grid.
    """
    grid = grid_of(images.shape[-2], images.shape[-1], model.backbone.patch_size)
    found: dict[str, Callable[[int], Tensor]] = {}
    if RANDOM not in rankers:
        seeds = [sample_seed(wanted.seed, 0, index) for index in indices.tolist()]
        drawn = [torch.rand(grid, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        random = torch.stack(drawn).to(images.device)
        found[RANDOM] = lambda number: random
    for name, ranker in rankers.items():
        found[name] = _Scores(name, ranker, renormalized(images, model.backbone, ranker), grid)
    for name, scores in found.items():
        for keep in wanted.keeps:
            number = number_kept(keep, grid[0] * grid[1])
            yield (name, keep), model(images, select(scores(number), number))


def renormalized(images: Tensor, seen: object, wanted: object) -> Tensor:
    """Images `[B, 3, H, W]` in another's `mean` and `std`; as they are where one of the two does not say its own."""
    of = [tuple(getattr(one, name, None) for name in ("mean", "std")) for one in (seen, wanted)]
    if any(value is None for pair in of for value in pair):
        return images
    return renormalize(images, Normalization(*of[0]), Normalization(*of[1]))  # type: ignore[arg-type]


def shares(keeps: Sequence[float]) -> tuple[float, ...]:
    """Shares of patches, ascending, each once. Raises `ValueError` for none, and for one outside (0, 1]."""
    if not keeps or any(not 0 < keep <= 1 for keep in keeps):
        raise ValueError(f"keeps are shares in (0, 1], at least one; got {list(keeps)}")
    return tuple(sorted(set(keeps)))


def token_of(pool: Pool) -> str:
    """What the head reads, for the protocol card."""
    words = {
        "cls": "CLS, linear head",
        "mean": "mean of the kept patches, linear head",
        "all": "CLS and the kept patches, ML-Decoder",
    }
    return words[pool]


class _Scores:
    """A ranker's scores of a batch, by the number that is to be kept; computed once where that does not matter."""

    def __init__(self, name: str, ranker: Ranker, images: Tensor, grid: tuple[int, int]) -> None:
        self.name, self.ranker, self.images, self.grid = name, ranker, images, grid
        self.known: Tensor | None = None

    def __call__(self, number: int) -> Tensor:
        if self.known is None or self.ranker.needs_number:
            self.known = self.ranker(self.images, number=number)
            if self.known.shape[1:] != self.grid:
                raise ValueError(
                    f"the ranker {self.name} scores a grid of {self.known.shape[1]} x {self.known.shape[2]} patches, "
                    f"the classifier sees {self.grid[0]} x {self.grid[1]}; they need patches of one size"
                )
        return self.known
