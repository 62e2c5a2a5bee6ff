"""MAE, DINO and iBOT learn: k-NN beats the untrained network and a control whose targets are of other images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from vitrail.backbones import BackboneConfig, TimmViT, create
from vitrail.contracts import Step
from vitrail.data import (
    EvalTransformConfig,
    Loader,
    MultiCrop,
    MultiCropConfig,
    SyntheticScenes,
    TrainTransformConfig,
    build_eval_transform,
    build_train_transform,
    ordered_batches,
)
from vitrail.evaluation.features import FeatureConfig, read_features
from vitrail.evaluation.knn import classify
from vitrail.masks import MaskConfig, RatioConfig
from vitrail.methods.dino import Dino, DinoConfig
from vitrail.methods.ibot import Ibot, IbotConfig
from vitrail.methods.mae import Mae, MaeConfig
from vitrail.nn.masked_autoencoder import DecoderConfig
from vitrail.nn.prototype_head import HeadConfig
from vitrail.nn.soft_targets import TargetConfig

SIZE, CLASSES = 32, 4
HALF = (0.5, 0.5, 0.5)
TRAIN = SyntheticScenes(1500, SIZE, CLASSES, 0, "train", cache=True)
VAL = SyntheticScenes(400, SIZE, CLASSES, 0, "val", cache=True)
PATCH = {"mae": 4, "dino": 8, "ibot": 8}
PATCHES = FeatureConfig(cls_blocks=0, mean_patch=True)
VIEWS = MultiCropConfig.tiny(SIZE).model_copy(
    update={"mean": HALF, "std": HALF, "locals": 2, "global_scale": (0.6, 1.0), "local_scale": (0.25, 0.6)}
)


def self_distilled() -> dict[str, Any]:
    targets = TargetConfig(kind="sinkhorn", temperature=0.02, warmup_epochs=0)
    head = HeadConfig(prototypes=16, hidden_dim=128, layers=2)
    return {"head": head, "targets": targets, "frozen_epochs": 0, "momentum": 0.9, "weight_decay_end": 0.04}


def mae(backbone: TimmViT) -> Mae:
    decoder = DecoderConfig(embed_dim=48, depth=1, heads=2)
    return Mae(MaeConfig(hidden=0.5, positions="learned", decoder=decoder), backbone)


def dino(backbone: TimmViT) -> Dino:
    return Dino(DinoConfig(**self_distilled()), backbone)


def ibot(backbone: TimmViT) -> Ibot:
    values = self_distilled()
    config = IbotConfig(**values, patch_targets=values["targets"], mask=MaskConfig(), ratio=RatioConfig(mean=0.6))
    return Ibot(config, backbone)


def shuffle(method: Any) -> None:
    """Let every image learn from the targets of another one."""
    if isinstance(method, Mae):
        right = method.targets
        method.targets = lambda images: right(images.roll(1, 0))  # type: ignore[method-assign]
    else:
        method.teacher.register_forward_pre_hook(lambda module, given: (given[0].roll(1, 0), *given[1:]))


def train(make: Callable[[TimmViT], Any], epochs: int, *, shuffled: bool = False) -> tuple[float, float]:
    """k-NN before and after."""
    torch.manual_seed(0)
    patch = PATCH[make.__name__]
    backbone = create(BackboneConfig(image_size=SIZE, patch_size=patch, embed_dim=64, depth=2, heads=2))
    Mae(MaeConfig(positions="learned"), backbone)  # its initial weights suit narrow networks better than timm's
    method = make(backbone)
    network = backbone if isinstance(method, Mae) else method.teacher
    before = knn(network)
    if shuffled:
        shuffle(method)
    plain = TrainTransformConfig(image_size=SIZE, scale=None, mean=HALF, std=HALF)
    transform = build_train_transform(plain) if isinstance(method, Mae) else MultiCrop(VIEWS)
    loader = Loader(TRAIN, transform, global_batch_size=50, seed=0)
    groups = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in method.parameter_groups()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    steps = epochs * loader.steps_per_epoch
    for number, (batch,) in enumerate(loader.batches(0, steps)):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, 10 * (number + 1) / steps) * (1 + math.cos(math.pi * number / steps)) / 2
        torch.manual_seed(number)
        optimizer.zero_grad()
        method.training_step(batch, Step(number, steps)).total.backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 3.0)
        optimizer.step()
        method.after_step(Step(number, steps))
    return before, knn(network)


@torch.no_grad()
def knn(backbone: TimmViT) -> float:
    """Top-1 in percent of the mean patch; chance is 25."""
    backbone.eval()
    found = []
    transform = build_eval_transform(EvalTransformConfig(image_size=SIZE, mean=HALF, std=HALF))
    for data in (VAL, TRAIN):
        batches = list(ordered_batches(data, transform, 200))
        found.append(torch.cat([read_features(backbone, batch.images, PATCHES) for batch in batches]))
        found.append(torch.cat([batch.labels for batch in batches if batch.labels is not None]))
    backbone.train()
    queries, query_labels, bank, bank_labels = found
    return classify(queries, query_labels, bank, bank_labels, ks=(20,), classes=CLASSES)[20][1]


@pytest.mark.parametrize(("make", "epochs"), [(mae, 15), (dino, 16), (ibot, 10)], ids=["mae", "dino", "ibot"])
def test_it_beats_the_untrained_network_and_a_shuffled_control(make: Any, epochs: int) -> None:
    before, after = train(make, epochs)
    _, control = train(make, epochs, shuffled=True)
    words = f"k-NN {before:.1f} -> {after:.1f}, control {control:.1f}"
    print(words)
    assert after > before + 6, words
    assert after > control + 6, words
