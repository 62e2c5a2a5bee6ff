"""What does it cost to rank the patches of one image? Operations of every ranker, at 224 pixels.

    python benchmarks/rankers_cost.py [--number 49] [--out FILE.json]

Networks have fresh weights, which change no count but that of `ia_red2:group1`, which looks before any block. ViTs are
ViT-S/16, `moco` and `gfnet` have a ResNet-50, `gfnet` five looks at 96 pixels; `dge` pads to 256. Counted by
torch.utils.flop_counter, as in the protocol selection_accuracy: matrix products, convolutions and attention, backward
passes too where a ranker needs one, a multiplication and an addition each as one. It is what this library computes:
where a network computes what its decisions leave out (`ada_vit`, `ia_red2`, `dge`), more than its method would need.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from record import record
from torch import nn

from vitrail.backbones import BackboneConfig, TimmViT, create
from vitrail.evaluation.selection_accuracy import flops_of
from vitrail.rankers import ada_vit, center, dge, dino, dynamic_vit, evit, gfnet, grad_cam, ia_red2, ltrp, random, tome

CLASSES = 1000


def vit() -> TimmViT:
    return create(BackboneConfig(name="vit_small_patch16_224", image_size=224)).eval()


def resnet() -> Any:
    """What `moco` runs; its sum over channels and its resizing have no products."""
    network = timm.create_model("resnet50", num_classes=0).eval()
    return lambda images, *, number: network.forward_features(images)


def skipping(kind: str, variant: str) -> nn.Module:
    """The rankers of networks that skip parts of themselves."""
    backbone = vit()
    if kind == "dynamic_vit":
        return dynamic_vit.DynamicVitRanker(backbone, dynamic_vit.predictors(backbone.embed_dim))
    if kind == "ada_vit":
        return ada_vit.AdaVitRanker(backbone, ada_vit.decisions(backbone), variant)
    if kind == "ia_red2":
        return ia_red2.IaRed2(ia_red2.IaRed2Vit(backbone), variant)
    return dge.Dge(dge.GrainedVit(backbone), variant)


RANKERS: dict[str, Callable[[], Any]] = {
    "random": random.Random,
    "center": center.Center,
    "grad_cam": lambda: grad_cam.GradCam(grad_cam.VitFeatures(vit(), nn.Linear(384, CLASSES), "cls")),
    "moco": resnet,
    "dino": lambda: dino.Dino(vit()),
    "tome": lambda: tome.Tome(vit()),
    "ltrp": lambda: ltrp.LtrpRanker(vit()),
    "evit:fourth_layer": lambda: evit.EvitRanker(vit()),
    "evit:staged": lambda: evit.EvitRanker(vit(), "staged"),
    "dynamic_vit:staged": lambda: skipping("dynamic_vit", ""),
    "ada_vit:last_block": lambda: skipping("ada_vit", "last_block"),
    "ia_red2:group2": lambda: skipping("ia_red2", "group2"),
    "ia_red2:group1": lambda: skipping("ia_red2", "group1"),
    "dge:crop": lambda: skipping("dge", "crop"),
    "gfnet": lambda: gfnet.Gfnet(gfnet.GfNet(gfnet.GfNetConfig(window=96), CLASSES)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=49, help="of patches to keep, for rankers that need it")
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    torch.manual_seed(0)
    image, found = torch.randn(1, 3, 224, 224), {}
    plain = vit()
    with torch.no_grad():
        found["a plain ViT-S/16"] = flops_of(lambda: plain(image)) / 1e9
    for name, opened in RANKERS.items():
        ranker = opened()
        ranker = ranker.eval().requires_grad_(False) if isinstance(ranker, nn.Module) else ranker
        with torch.no_grad():
            found[name] = flops_of(partial(ranker, image, number=options.number)) / 1e9
        print(f"{name:<20} {found[name]:7.2f} GFLOPs", flush=True)
    print(f"written to {record('rankers_cost', {'unit': 'GFLOPs', 'number': options.number, **found}, options.out)}")


if __name__ == "__main__":
    main()
