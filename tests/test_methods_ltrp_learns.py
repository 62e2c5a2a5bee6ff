"""LTRP learns what an object is without a label: recall of patches, against chance, an untrained model and a control.

Scenes of 36 pixels are 6 x 6 patches. A tiny MAE is trained on them and labels patches once; then two ranking models
learn from the same start: by these labels, and by those of other images, which know where patches lie, but not what is
there. Longer runs beat the center prior, too: benchmarks/ltrp_scenes.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail.backbones import BackboneConfig, create
from vitrail.contracts import Batch, Step
from vitrail.data import (
    EvalTransformConfig,
    Loader,
    SyntheticScenes,
    TrainTransformConfig,
    build_eval_transform,
    build_train_transform,
)
from vitrail.data.patch_labels import PatchLabels
from vitrail.methods.ltrp import Ltrp, LtrpConfig
from vitrail.methods.mae import Mae, MaeConfig
from vitrail.nn.masked_autoencoder import DecoderConfig
from vitrail.nn.patch_removal import PatchRemoval
from vitrail.ops.selection import mask_of, select
from vitrail.rankers.ltrp import LtrpRanker
from vitrail.recipes.labels import Wanted, make_labels
from vitrail.recipes.ltrp import touching
from vitrail.recipes.reconstructions import Autoencoder

SIZE, KEPT = 36, 9
HALF = (0.5, 0.5, 0.5)
BACKBONE = BackboneConfig(image_size=SIZE, patch_size=6, embed_dim=48, depth=2, heads=2)
HIDDEN, DRAWS = 0.75, 1
MAE_STEPS, STEPS = 700, 320


def batches(data: SyntheticScenes, size: int, steps: int) -> Iterator[Batch]:
    plain = TrainTransformConfig(image_size=SIZE, scale=None, flip=0, mean=HALF, std=HALF)
    loader = Loader(data, build_train_transform(plain), global_batch_size=size, seed=0)
    return (batch for (batch,) in loader.batches(0, steps))


def train(method: Any, data: SyntheticScenes, size: int, steps: int, rate: float) -> float:
    """The last tenth's mean loss."""
    groups = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in method.parameter_groups()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    losses = []
    for number, batch in enumerate(batches(data, size, steps)):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, 10 * (number + 1) / steps) * (1 + math.cos(math.pi * number / steps)) / 2
        torch.manual_seed(number)
        optimizer.zero_grad()
        found = method.training_step(batch, Step(number, steps)).total
        found.backward()
        optimizer.step()
        losses.append(found.item())
    return sum(losses[-(steps // 10) :]) / (steps // 10)


def autoencoder(data: SyntheticScenes) -> tuple[PatchRemoval, float]:
    torch.manual_seed(0)
    backbone = create(BACKBONE)
    backbone.mean = backbone.std = HALF
    decoder = DecoderConfig(embed_dim=48, depth=1, heads=4)
    method = Mae(MaeConfig(hidden=HIDDEN, normalized_targets=False, decoder=decoder), backbone)
    loss = train(method, data, 32, MAE_STEPS, 4e-3)
    return PatchRemoval(backbone, method.decoder), loss


def labeled(labeler: PatchRemoval, data: SyntheticScenes, folder: Path) -> PatchLabels:
    """What `vitrail label` writes."""
    augment = TrainTransformConfig(image_size=SIZE, scale=None, mean=HALF, std=HALF)
    found = Autoencoder(labeler.backbone, labeler.decoder, False)  # type: ignore[arg-type]
    wanted = Wanted(data, augment, LtrpConfig(hidden=HIDDEN))
    return PatchLabels(make_labels(found, wanted, folder, DRAWS, device="cpu"))


def ranking(labels: PatchLabels) -> Ltrp:
    torch.manual_seed(1)
    backbone = create(BACKBONE)
    backbone.mean = backbone.std = HALF
    return Ltrp(LtrpConfig(hidden=HIDDEN), LtrpRanker(backbone), None, labels)


def of_other_images(method: Ltrp) -> None:
    right = method.labeled
    method.labeled = lambda batch: right(batch._replace(indices=batch.indices.roll(1)))  # type: ignore[method-assign]


@torch.no_grad()
def recall(ranker: Callable[[Tensor], Tensor], data: SyntheticScenes) -> float:
    """Percent of the patches that touch the object which are among the first quarter, mean over scenes."""
    transform = build_eval_transform(EvalTransformConfig(image_size=SIZE, mean=HALF, std=HALF))
    found = [transform.with_targets(data[index]) for index in range(len(data))]
    touched = torch.stack([touching(mask, (6, 6)) for _, mask, _ in found if mask is not None])
    kept = mask_of(select(ranker(torch.stack([image for image, _, _ in found])), KEPT), (6, 6))
    return 100 * float(((kept & touched).sum((1, 2)) / touched.sum((1, 2))).mean())


def test_it_beats_chance_the_untrained_model_and_labels_of_other_images(tmp_path: Path) -> None:
    data = SyntheticScenes(3000, SIZE, 8, 0, "train", cache=True)
    val = SyntheticScenes(500, SIZE, 8, 0, "val", cache=True)
    started = time.process_time()
    labeler, mae_loss = autoencoder(data)
    labels = labeled(labeler, data, tmp_path)
    found = {"untrained": recall(ranking(labels).ranker.eval(), val)}
    losses = {}
    for name in ("trained", "control"):
        method = ranking(labels)
        if name == "control":
            of_other_images(method)
        losses[name] = train(method, data, 64, STEPS, 2e-3)
        found[name] = recall(method.ranker.eval(), val)
    words = f"recall {found}, losses {losses}, MAE's {mae_loss:.4f}; {time.process_time() - started:.0f} s"
    print(words)
    assert found["trained"] > found["control"] + 3, words
    assert found["trained"] > found["untrained"] + 20, words
    assert found["trained"] > 25 + 15, words  # a quarter is kept
    assert losses["trained"] < losses["control"] - 0.3, words
