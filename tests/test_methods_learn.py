"""MAE, DINO and iBOT learn: k-NN beats the untrained network and a control whose targets are of other images.

The control has the same images, weights, order and number of steps. It also guesses the targets worse: what is
reconstructed, or what the teacher says of other views and of hidden patches. What short runs of DINO and iBOT reach
depends on the weights they start from, so two starts are averaged; they are drawn alike by every version of torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from vitrail.backbones import BackboneConfig, TimmViT, create
from vitrail.contracts import Batch, Step
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

HALF = (0.5, 0.5, 0.5)
PATCHES = FeatureConfig(cls_blocks=0, mean_patch=True)


class Setting(NamedTuple):
    """On which scenes and how long; just enough for each method."""

    size: int
    classes: int
    scenes: int
    backbone: BackboneConfig
    batch: int
    epochs: int
    rate: float


class Outcome(NamedTuple):
    """k-NN in percent, and the last epoch's losses by name."""

    before: float
    after: float
    losses: dict[str, float]


SMALL = BackboneConfig(patch_size=8, embed_dim=64, depth=2, heads=2)
SETTINGS = {
    "mae": Setting(48, 4, 2000, BackboneConfig(patch_size=6, embed_dim=64, depth=3, heads=2), 50, 12, 4e-3),
    "dino": Setting(32, 4, 1500, SMALL, 50, 12, 4e-3),
    "ibot": Setting(32, 4, 1500, SMALL, 50, 16, 4e-3),
    "ibot patches": Setting(32, 4, 1500, SMALL, 50, 4, 2e-3),
}


def make(name: str, backbone: TimmViT) -> Any:
    if name == "mae":
        return Mae(MaeConfig(hidden=0.5, decoder=DecoderConfig(embed_dim=48, depth=1, heads=4)), backbone)
    targets = TargetConfig(kind="sinkhorn", temperature=0.02, warmup_epochs=0)
    head = HeadConfig(prototypes=16, hidden_dim=128, layers=2)
    values: dict[str, Any] = {"head": head, "targets": targets, "frozen_epochs": 0}
    values |= {"momentum": 0.9, "weight_decay_end": 0.04}
    if name == "dino":
        return Dino(DinoConfig(**values), backbone)
    # There are 16 patches: the published 70 % would hide the object.
    values |= {"patch_targets": targets, "mask": MaskConfig(), "ratio": RatioConfig(mean=0.3, spread=0)}
    values |= {"cls_weight": 0, "momentum": 1} if name == "ibot patches" else {"patch_weight": 0.1}
    return Ibot(IbotConfig(**values), backbone)


def shuffle(method: Any) -> Callable[[], None]:
    """Let every image learn from the targets of another one; returns what ends that, so that features are its own."""
    if isinstance(method, Mae):
        right = method.targets
        method.targets = lambda images: right(images.roll(1, 0))  # type: ignore[method-assign]
        return lambda: None
    hook = method.teacher.register_forward_pre_hook(lambda module, given: (given[0].roll(1, 0), *given[1:]))
    return hook.remove


def views(size: int, **more: Any) -> MultiCrop:
    """Crops that mostly hold the object, which is small."""
    changes = {"mean": HALF, "std": HALF, "locals": 2, "global_scale": (0.6, 1.0), "local_scale": (0.25, 0.6)}
    return MultiCrop(MultiCropConfig.tiny(size).model_copy(update=changes | more))


def draw_head(method: Any, start: int) -> None:
    """Xavier's uniform for the head of both networks, which suits narrow ones better than its published weights."""
    torch.manual_seed(start)
    for layer in method.head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    method.teacher_head.load_state_dict(method.head.state_dict())


class Training:
    """One network that learns, on right targets or on those of other images."""

    def __init__(self, name: str, data: list[SyntheticScenes], start: int = 0, *, shuffled: bool = False) -> None:
        self.data, self.setting, self.start = data, SETTINGS[name], start
        torch.manual_seed(start)
        backbone = create(self.setting.backbone.model_copy(update={"image_size": self.setting.size}))
        Mae(MaeConfig(positions="learned"), backbone)  # its initial weights suit narrow networks better than timm's
        self.method = make(name, backbone)
        if name != "mae":
            draw_head(self.method, start)
        self.network = backbone if name == "mae" else self.method.teacher
        self.before = knn(self.network, data, self.setting)
        self.end = shuffle(self.method) if shuffled else lambda: None
        groups = [
            {"params": group["params"], "weight_decay": group["weight_decay"]}
            for group in self.method.parameter_groups()
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
        self.told: list[dict[str, float]] = []

    def step(self, batch: Batch, number: int, steps: int) -> None:
        for group in self.optimizer.param_groups:
            warm, cosine = min(1, 10 * (number + 1) / steps), (1 + math.cos(math.pi * number / steps)) / 2
            group["lr"] = self.setting.rate * warm * cosine
        torch.manual_seed(1000 * self.start + number)
        self.optimizer.zero_grad()
        losses = self.method.training_step(batch, Step(number, steps))
        losses.total.backward()
        self.told.append({key: float(value) for key, value in (losses.parts | {"loss": losses.total.detach()}).items()})
        torch.nn.utils.clip_grad_norm_(self.method.parameters(), 3.0)
        self.optimizer.step()
        self.method.after_step(Step(number, steps))

    def outcome(self) -> Outcome:
        last = self.told[-len(self.told) // self.setting.epochs :]
        self.end()
        after = knn(self.network, self.data, self.setting)
        return Outcome(self.before, after, {key: fmean(each[key] for each in last) for key in last[0]})


def train(name: str, starts: list[int]) -> tuple[list[Outcome], Outcome]:
    """Train from each start, and from the first one on targets of other images; all see the same batches, made once."""
    setting = SETTINGS[name]
    data = [
        SyntheticScenes(count, setting.size, setting.classes, 0, split, cache=True)  # type: ignore[arg-type]
        for count, split in ((setting.scenes, "train"), (1000, "val"))
    ]
    trainings = [*(Training(name, data, start) for start in starts), Training(name, data, starts[0], shuffled=True)]
    plain = TrainTransformConfig(image_size=setting.size, scale=None, mean=HALF, std=HALF)
    transform = views(setting.size, **({"locals": 0} if name == "ibot patches" else {}))
    if name == "mae":
        transform = build_train_transform(plain)
    loader = Loader(data[0], transform, global_batch_size=setting.batch, seed=0)
    steps = setting.epochs * loader.steps_per_epoch
    for number, (batch,) in enumerate(loader.batches(0, steps)):
        for training in trainings:
            training.step(batch, number, steps)
    *found, control = [training.outcome() for training in trainings]
    return found, control


@torch.no_grad()
def knn(backbone: TimmViT, data: list[SyntheticScenes], setting: Setting) -> float:
    """Top-1 in percent of the mean patch, 20 neighbors."""
    backbone.eval()
    found = []
    transform = build_eval_transform(EvalTransformConfig(image_size=setting.size, mean=HALF, std=HALF))
    for part in reversed(data):
        batches = list(ordered_batches(part, transform, 200))
        found.append(torch.cat([read_features(backbone, batch.images, PATCHES) for batch in batches]))
        found.append(torch.cat([batch.labels for batch in batches if batch.labels is not None]))
    backbone.train()
    queries, query_labels, bank, bank_labels = found
    return classify(queries, query_labels, bank, bank_labels, ks=(20,), classes=setting.classes)[20][1]


@pytest.mark.parametrize(
    ("name", "guessed", "starts"),
    [("mae", ["loss"], [0]), ("dino", ["views"], [0, 1]), ("ibot", ["views", "patches"], [0, 1])],
)
def test_it_beats_the_untrained_network_and_a_shuffled_control(
    name: str, guessed: list[str], starts: list[int]
) -> None:
    found, control = train(name, starts)
    before, after = fmean(each.before for each in found), fmean(each.after for each in found)
    words = f"k-NN {before:.1f} -> {after:.1f}, control {control.after:.1f}; {found}, {control}"
    print(words)
    assert after > before + 4, words
    assert after > control.after + 1, words
    for part in guessed:
        assert found[0].losses[part] < 0.95 * control.losses[part], words


def test_hidden_patches_are_guessed_from_what_is_visible() -> None:
    """iBOT's second loss alone, against a teacher that rests: only what is visible tells an image from another."""
    (found,), control = train("ibot patches", [0])
    words = f"{found}, {control}"
    print(words)
    assert found.losses["patches"] < 0.9 * control.losses["patches"], words
