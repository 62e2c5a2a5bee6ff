"""Add your own method in your own script: any module with four functions goes into the training loop.

The method here predicts which of four quarter turns an image was given (Gidaris et al., 2018).

    python examples/own_method.py runs/rotation
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from vitrail.backbones import BackboneConfig, TimmViT, create, save_exported
from vitrail.contracts import Batch, Exported, Losses, Step
from vitrail.data import Loader, SyntheticScenes, TrainTransformConfig, build_train_transform
from vitrail.nn.groups import parameter_groups
from vitrail.train import RunFolder, TrainConfig, fit


class Rotation(nn.Module):
    """Four quarter turns of each image, one classifier."""

    def __init__(self, backbone: TimmViT) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.embed_dim, 4)

    def training_step(self, batch: Batch, step: Step) -> Losses:
        turned = torch.cat([torch.rot90(batch.images, turn, (2, 3)) for turn in range(4)])
        turns = torch.arange(4, device=turned.device).repeat_interleave(len(batch.images))
        logits = self.head(self.backbone(turned).cls)
        accuracy = (logits.argmax(1) == turns).float().mean() * 100
        return Losses(F.cross_entropy(logits, turns), {"turn_top1": accuracy})

    def parameter_groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self, weight_decay=0.05)

    def after_step(self, step: Step) -> None:
        pass

    def export(self) -> Exported:
        return self.backbone.export()


def main(out: Path, scenes: int = 512, epochs: int = 4) -> float:
    """Train on generated scenes; returns the last accuracy in percent."""
    config = TrainConfig(epochs=epochs, global_batch_size=64, learning_rate=1e-3, warmup_epochs=0, device="cpu")
    backbone = create(
        BackboneConfig(name="vit_tiny_patch16_224", image_size=48, patch_size=6, embed_dim=48, depth=2, heads=3)
    )
    data = SyntheticScenes(scenes, image_size=48, cache=True)
    loader = Loader(data, build_train_transform(TrainTransformConfig(image_size=48)), global_batch_size=64, seed=0)
    with RunFolder.open(out, config) as folder:
        outcome = fit(Rotation(backbone), loader, config, folder, save_exported=save_exported)
    return outcome.last["turn_top1"]


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
