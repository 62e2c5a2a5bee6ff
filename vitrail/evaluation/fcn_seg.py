"""A small convolutional segmenter ("FCN") on frozen patch features.

Definition: as `linear_seg`, with three blocks of 1x1, 1x1 and 3x3 convolutions, ReLU and bilinear upsampling by 2, and
a 1x1 convolution to the classes; see `vitrail.nn.segmentation_heads`. The backbone stays frozen.

Presets:
    features                    quick: no crops, so the backbone sees each image once; 32 channels, 6,400 samples in
                                batches of 32, Adam from 3e-3 along a cosine to 1e-4, images squashed to 224 px; the
                                truth in training is as large as the head's map
    cocostuff27, voc, ade20k    CoTAP's Table III: crops of 336 px, validation images squashed to 448 px, 256 channels,
                                400,000 samples in batches of 128, the rates {1e-4, 1e-3, 3e-3, 1e-2}, from which a
                                cosine goes to 1e-4
    cityscapes                  the same with 896 and 1,024 px and batches of 64

Source: CoTAP, Section 5.2 and Appendix B.2.
Expected, mIoU on COCO-Stuff 27, VOC, ADE20K, Cityscapes: DINO ViT-S/16 49.5, 66.8, 28.9, 54.5; with CoTAP 54.9, 76.2,
33.9, 55.6; iBOT with CoTAP 55.9, 77.2, 34.3, 55.1.

Deviations: as of `linear_seg`, and those of the head: the width of the blocks, the places of ReLU and what maps to the
classes are not stated. The published presets want a GPU; `forward_batch_size` says how many crops are held at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from vitrail.contracts import Backbone, ImageSet
from vitrail.evaluation.dense_probe import SWEEP, DenseProbeConfig, Settings, probe
from vitrail.evaluation.result import Report
from vitrail.nn.segmentation_heads import BLOCKS, ConvSegmenter

SEGMENTS = True
"""This protocol's images have masks of class ids: of COCO, its semantic maps."""

_TABLE_3 = Settings(448, 336, 400_000, None, 128, SWEEP, 1e-4)
PRESETS = {
    "features": Settings(224, 0, 6_400, None, 32, (3e-3,), 1e-4),
    "cocostuff27": _TABLE_3,
    "voc": _TABLE_3,
    "ade20k": _TABLE_3,
    "cityscapes": _TABLE_3._replace(image_size=1024, crop_size=896, batch_size=64),
}


class FcnSegConfig(DenseProbeConfig):
    """A preset, and what differs from it (null: as the preset says)."""

    PRESETS: ClassVar[Mapping[str, Settings]] = PRESETS

    preset: Literal["features", "cocostuff27", "voc", "ade20k", "cityscapes"] = "features"
    width: int | None = Field(default=None, ge=1)
    """Channels within the blocks; null for 32 in the preset `features`, and 256 in the others."""


def evaluate(
    backbone: Backbone,
    train: ImageSet,
    val: ImageSet,
    config: FcnSegConfig | None = None,
    *,
    cache: Path | None = None,
    device: str = "auto",
) -> Report:
    """Train a convolutional segmenter on `train` and measure it on `val`; samples have masks.

    Args:
        cache: taken so that all protocols are called alike; patch features are computed anew each time.

    Returns:
        A report with `fcn_seg_miou`, `fcn_seg_accuracy`, `fcn_seg_mean_accuracy`, `floor_majority_miou` and
        `floor_majority_accuracy`, percent; see `vitrail.evaluation.dense_probe.probe`.

    Raises:
        ValueError: data without masks, different class lists, a size that the patch size does not divide, features that
            do not fit `memory`, or training that diverged at every rate.
    """
    config = config or FcnSegConfig()
    width = config.width or (32 if config.preset == "features" else 256)
    make = partial(ConvSegmenter, width=width, seed=config.seed)
    return probe("fcn_seg", make, 2**BLOCKS, backbone, train, val, config, device)
