"""MoCo-v3 learns: k-NN beats the untrained encoder, and a control whose views are of different objects.

Both views of a scene hold its object, each on the background of another scene, so the object is all that they share.
Without that, hue and texture of the background tell one scene from another, and a short run learns little else.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vitrail.backbones import BackboneConfig, TimmViT, create
from vitrail.contracts import Batch, Step
from vitrail.data import SyntheticScenes
from vitrail.evaluation.knn import classify
from vitrail.methods.mocov3 import MocoV3, MocoV3Config
from vitrail.nn.projection_head import ProjectionConfig

SIZE, CLASSES, STEPS, BATCH, RATE = 32, 4, 160, 64, 5e-3


class Scenes(NamedTuple):
    """Images `[n, 3, SIZE, SIZE]` in [-1, 1], where their object is `[n, 1, SIZE, SIZE]`, and its class `[n]`."""

    images: Tensor
    objects: Tensor
    labels: Tensor


class Outcome(NamedTuple):
    """k-NN in percent, and the contrast of the last steps."""

    before: float
    after: float
    contrast: float


def scenes(count: int, split: str) -> Scenes:
    images, labels, masks = SyntheticScenes(count, SIZE, CLASSES, 0, split).arrays(0, count)  # type: ignore[arg-type]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return Scenes(pixels, torch.from_numpy(masks)[:, None] > 0, torch.from_numpy(labels))


def view(data: Scenes, rows: Tensor, chance: torch.Generator) -> Tensor:
    """The objects of some scenes in front of other scenes, half of the images flipped."""
    others = torch.randint(len(data.images), (len(rows),), generator=chance)
    images = torch.where(data.objects[rows], data.images[rows], data.images[others])
    flipped = torch.rand(len(rows), 1, 1, 1, generator=chance) < 0.5
    return torch.where(flipped, images.flip(3), images)


def train(data: Scenes, held: Scenes, *, shuffled: bool) -> Outcome:
    torch.manual_seed(0)
    backbone = create(BackboneConfig(image_size=SIZE, patch_size=8, embed_dim=64, depth=2, heads=2))
    projector = ProjectionConfig(layers=3, hidden_dim=128, out_dim=32, last_norm=True)
    config = MocoV3Config(head=projector, predictor_dim=128, momentum=0.9, weight_decay=0.04)
    method = MocoV3(config, backbone)
    before, chance, told = knn(backbone, data, held), torch.Generator().manual_seed(5), []
    groups = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in method.parameter_groups()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    for number in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, 10 * (number + 1) / STEPS) * (1 + math.cos(math.pi * number / STEPS)) / 2
        rows = torch.randperm(len(data.images), generator=chance)[:BATCH]
        other = view(data, rows.roll(1) if shuffled else rows, chance)
        optimizer.zero_grad()
        losses = method.training_step(Batch(view(data, rows, chance), None, rows, (other,)), Step(number, STEPS))
        losses.total.backward()
        optimizer.step()
        method.after_step(Step(number, STEPS))
        told.append(losses.parts["contrast"].item())
    return Outcome(before, knn(backbone, data, held), sum(told[-20:]) / 20)


@torch.no_grad()
def knn(backbone: TimmViT, data: Scenes, held: Scenes) -> float:
    """Top-1 in percent of the class token on scenes as they are, 20 neighbors."""
    bank, queries = (backbone(each.images).cls for each in (data, held))
    return classify(queries, held.labels, bank, data.labels, ks=(20,), classes=CLASSES)[20][1]


def test_it_beats_the_untrained_encoder_and_a_shuffled_control() -> None:
    data, held = scenes(1500, "train"), scenes(1000, "val")
    found, control = (train(data, held, shuffled=shuffled) for shuffled in (False, True))
    words = f"{found}, control {control}"
    print(words)
    assert found.after > found.before + 10, words
    assert found.after > control.after + 10, words
    assert found.contrast < 0.97 * control.contrast, words
