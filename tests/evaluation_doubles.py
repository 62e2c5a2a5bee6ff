"""Small data sets in memory and small backbones, for the tests of the protocols."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vitrail.contracts import Sample, Tokens
from vitrail.data.images import UnreadableImage
from vitrail.ops.patches import patchify


class ListSet:
    """Samples in a list; `broken` positions cannot be read."""

    def __init__(
        self,
        samples: Sequence[Sample],
        classes: tuple[str, ...] | None,
        split: str = "val",
        broken: Sequence[int] = (),
        name: str = "list",
    ) -> None:
        self.samples, self.classes, self.split, self.broken, self.name = (
            list(samples),
            classes,
            split,
            broken,
            name,
        )
        self.reads = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        self.reads += 1
        if index in self.broken:
            raise UnreadableImage(f"{self.name}/{index}.png", "truncated")
        return self.samples[index]

    def digest(self) -> str:
        digest = hashlib.sha256(f"{self.name} {self.classes} {self.broken}".encode())
        for sample in self.samples:
            digest.update(sample.image.tobytes() + f"{sample.label}".encode())
        return digest.hexdigest()[:16]


def colored_set(
    count: int,
    classes: int = 4,
    size: int = 16,
    seed: int = 0,
    shuffled: bool = False,
    split: str = "val",
    broken: Sequence[int] = (),
) -> ListSet:
    """Images whose color tells the class, with noise; `shuffled` labels are the control that nothing can
    learn."""
    rng = np.random.default_rng(seed)
    palette = np.random.default_rng(7).integers(40, 216, (classes, 3))
    labels = np.arange(count) % classes
    samples = []
    for label in labels:
        pixels = np.clip(palette[label] + rng.normal(0, 25, (size, size, 3)), 0, 255).astype(np.uint8)
        samples.append((Image.fromarray(pixels), int(label)))
    given = rng.permutation(labels) if shuffled else labels
    return ListSet(
        [Sample(image, int(label), path=f"{i}.png") for i, ((image, _), label) in enumerate(zip(samples, given))],
        tuple(f"class{index}" for index in range(classes)),
        split,
        broken,
        name=f"colors{seed}",
    )


def object_set(
    count: int = 6,
    size: int = 48,
    cell: int = 8,
    seed: int = 0,
    void: bool = False,
    empty: Sequence[int] = (),
) -> ListSet:
    """White rectangles on black, aligned to cells; mask (class 1 or 2) and box of each. `empty` have no
    object."""
    rng = np.random.default_rng(seed)
    cells = size // cell
    samples = []
    for index in range(count):
        x0, y0 = rng.integers(0, cells - 2, 2) * cell
        x1, y1 = x0 + cell * rng.integers(1, 3), y0 + cell * rng.integers(1, 3)
        pixels, mask = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.uint8)
        if index in empty:
            samples.append(Sample(Image.fromarray(pixels), 0, mask, np.zeros((0, 4), np.float32), f"{index}.png"))
            continue
        pixels[y0:y1, x0:x1] = 255
        mask[y0:y1, x0:x1] = 1 + index % 2
        if void:
            mask[:, size - cell // 2 :] = 255
        box = np.array([[x0, y0, x1, y1]], np.float32)
        samples.append(Sample(Image.fromarray(pixels), index % 2, mask, box, f"{index}.png"))
    return ListSet(samples, ("background", "one", "two"), name=f"objects{seed}")


class TinyBackbone(nn.Module):
    """Random patches, a little mixing, and scores that follow brightness: head 0 up, head 1 down, head 2
    nothing."""

    def __init__(self, patch: int = 8, embed_dim: int = 12, depth: int = 3, seed: int = 0, sign: float = 1.0) -> None:
        super().__init__()
        state = torch.random.get_rng_state()
        torch.manual_seed(seed)
        self.embed_dim, self.depth, self.heads, self.patch_size = embed_dim, depth, 3, (patch, patch)
        self.embed = nn.Conv2d(3, embed_dim, patch, patch)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.GELU()) for _ in range(depth))
        self.drop = nn.Dropout(0.5)
        self.norm = nn.LayerNorm(embed_dim)
        self.mean, self.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        self.sign, self.calls = sign, 0
        torch.random.set_rng_state(state)

    def forward(
        self,
        images: Tensor,
        *,
        layers: Sequence[int] = (),
        scores: Sequence[int] = (),
        keep: Tensor | None = None,
    ) -> Tokens:
        self.calls += 1
        grid = self.embed(images)
        tokens = grid.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        outputs = []
        for block in self.blocks:
            tokens = tokens + self.drop(block(tokens))
            outputs.append(tokens)
        bright = nn.functional.avg_pool2d(images.mean(1, keepdim=True), self.patch_size)[:, 0] * 20 * self.sign
        heads = torch.stack([bright, -bright, torch.zeros_like(bright)], 1)
        normed = self.norm(tokens)
        return Tokens(
            normed[:, 0],
            normed[:, 1:],
            (grid.shape[2], grid.shape[3]),
            {block: outputs[block] for block in layers},
            dict.fromkeys(scores, heads),
        )


class MeanBackbone(nn.Module):
    """The class token is the mean of the visible patches' pixels; scores follow brightness."""

    def __init__(self, patch: int = 8) -> None:
        super().__init__()
        self.embed_dim, self.depth, self.heads, self.patch_size = 3 * patch * patch, 1, 1, (patch, patch)
        self.mean, self.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        self.kept: list[Tensor] = []  # what `keep` was, call by call

    def forward(
        self,
        images: Tensor,
        *,
        layers: Sequence[int] = (),
        scores: Sequence[int] = (),
        keep: Tensor | None = None,
    ) -> Tokens:
        patches = patchify(images, self.patch_size)
        grid = (images.shape[2] // self.patch_size[0], images.shape[3] // self.patch_size[1])
        bright = patches.mean(2).unflatten(1, grid)[:, None]
        if keep is not None:
            self.kept.append(keep.clone())
            patches = patches.gather(1, keep[:, :, None].expand(-1, -1, patches.shape[2]))
        return Tokens(patches.mean(1), patches, grid, {}, dict.fromkeys(scores, bright))
