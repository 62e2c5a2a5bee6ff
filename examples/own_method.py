"""Add your own method in your own script: any module with four functions goes into the training loop.

The method here is a small contrastive one. Two handfuls of patches are drawn from each image; the class token of one
must find the class token of the other among all images of the batch (InfoNCE, van den Oord et al., 2018).

    python examples/own_method.py runs/handfuls
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from vitrail.backbones import BackboneConfig, TimmViT, create, save_exported
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.data import Loader, SyntheticScenes, TrainTransformConfig, build_train_transform
from vitrail.nn.groups import parameter_groups
from vitrail.train import RunFolder, TrainConfig, fit


class Handfuls(nn.Module):
    """Two handfuls of an image's patches, one image."""

    def __init__(self, backbone: TimmViT, patches: int = 8, temperature: float = 0.1) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.embed_dim, 64, bias=False)
        self.patches, self.temperature = patches, temperature

    def training_step(self, batch: Batch, step: Step) -> Losses:
        count = len(batch.images)
        rows, columns = (side // patch for side, patch in zip(batch.images.shape[2:], self.backbone.patch_size))
        order = torch.rand(count, rows * columns, device=batch.images.device).argsort(1)
        handfuls = order[:, : 2 * self.patches].chunk(2, dim=1)
        one, two = (
            functional.normalize(self.head(self.backbone(batch.images, keep=some).cls), dim=1) for some in handfuls
        )
        logits = one @ two.T / self.temperature
        partners = torch.arange(count, device=logits.device)
        loss = (functional.cross_entropy(logits, partners) + functional.cross_entropy(logits.T, partners)) / 2
        found = (logits.argmax(1) == partners).float().mean() * 100
        return Losses(loss, {"found": found})  # parts are logged, never differentiated

    def parameter_groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self, weight_decay=0.05)

    def after_step(self, step: Step) -> None:
        pass  # an EMA teacher or a queue would move here

    def export(self) -> Exported:
        return self.backbone.export()


def main(out: Path, scenes: int = 512, epochs: int = 8) -> float:
    """Train on generated scenes; returns how often, in percent, a handful found its partner in the last steps."""
    config = TrainConfig(
        epochs=epochs, global_batch_size=32, learning_rate=2e-3, warmup_epochs=1, device="cpu", log_every=8
    )
    backbone = create(BackboneConfig(image_size=48, patch_size=6, embed_dim=48, depth=2, heads=3))
    data = SyntheticScenes(scenes, image_size=48, cache=True)
    loader = Loader(data, build_train_transform(TrainTransformConfig.flips(48)), global_batch_size=32, seed=0)
    with RunFolder(out, config) as folder:
        outcome = fit(Handfuls(backbone), loader, config, folder, save_exported=save_exported)
    return outcome.losses["train/found"]


if __name__ == "__main__":
    found = main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/handfuls"))
    print(f"{found:.1f} % of the handfuls found their partner; chance is 3.1 %")
