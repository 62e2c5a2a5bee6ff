"""A linear segmenter on frozen patch features: one 1x1 convolution.

Definition: patch tokens of the last block after the final norm; a 1x1 convolution maps each to class scores, which are
enlarged bilinearly to the truth's size before the best class is taken. It is trained by Adam on cross-entropy over the
labeled pixels. mIoU is that of the data set: pixels are counted over all validation images, then the IoU of each class
is taken, then the mean over the classes that are in truth or prediction. Ignored pixels (255, and the id 0 where it is
no class) count nowhere.

Presets:
    features              quick: no crops, so the backbone sees each image once; images squashed to 224 px, 40,000
                          samples in batches of 64, learning rates {1e-3, 3e-3, 1e-2, 3e-2}; the loss is that of the
                          patches' class shares
    cocostuff27_one_epoch CoTAP's Table II: crops of 336 px, validation images squashed to 448 px, Adam with 3e-3,
                          batch 256, one epoch
    cocostuff27, voc, ade20k    CoTAP's Table III: 336 and 448 px, 100,000 samples in batches of 128, learning
                          rates {1e-4, 1e-3, 3e-3, 1e-2}
    cityscapes            the same with 896 and 1,024 px and batches of 64

All rates train at once on the same features; the best on the validation set is reported, as published. The paper gives
samples and steps (1,560; 6,250 for `fcn_seg`), which fit together for batches of 64 alone, and 128 as the batch of all
sets but Cityscapes; samples and batches are followed here, which is half as many steps.

Source: CoTAP, Sections 5.1 and 5.2, Appendix B.2.
Expected, Table II (COCO-Stuff, 27 classes, mIoU and accuracy): DINO ViT-S/16 38.8, 71.7; with CoTAP 50.5, 78.9; Leopart
47.2, 77.1; iBOT 45.8, 76.5; Mugs 47.5, 77.3. Table III (mIoU on COCO-Stuff 27, VOC, ADE20K, Cityscapes): DINO 38.8,
50.7, 22.3, 42.9; with CoTAP 50.5, 71.5, 30.2, 46.5. Such numbers depend much on the recipe of the probe: the paper's
own ablation has 40.1 where its table has 38.8.

Deviations: not stated, and chosen here: crops cover 50 to 100 % of the area (`crop_scale`) and are flipped half of the
time; "resized" is squashed, nothing is cut off; pixels are counted at the size of each mask as it is in its file
(`truth=input` counts them at 448 px); rates are constant, logits are enlarged to the crop in training. VOC's background
is a class, so there are 21. `batch_norm=true` normalizes the features first, as other papers do.
Beside the numbers stands a floor: `floor_majority_*` calls every pixel the class that training saw most of. An
untrained backbone of the same shape is the other floor to compare with.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from vitrail.contracts import Backbone, ImageSet
from vitrail.evaluation.dense_probe import SWEEP, DenseProbeConfig, Settings, probe
from vitrail.evaluation.result import Report
from vitrail.nn.segmentation_heads import LinearSegmenter

SEGMENTS = True
"""This protocol's images have masks of class ids: of COCO, its semantic maps."""

_TABLE_3 = Settings(448, 336, 100_000, None, 128, SWEEP, None)
PRESETS = {
    "features": Settings(224, 0, 40_000, None, 64, (1e-3, 3e-3, 1e-2, 3e-2), None),
    "cocostuff27_one_epoch": Settings(448, 336, None, 1, 256, (3e-3,), None),
    "cocostuff27": _TABLE_3,
    "voc": _TABLE_3,
    "ade20k": _TABLE_3,
    "cityscapes": _TABLE_3._replace(image_size=1024, crop_size=896, batch_size=64),
}


class LinearSegConfig(DenseProbeConfig):
    """A preset, and what differs from it (null: as the preset says)."""

    PRESETS: ClassVar[Mapping[str, Settings]] = PRESETS

    preset: Literal["features", "cocostuff27_one_epoch", "cocostuff27", "voc", "ade20k", "cityscapes"] = "features"
    batch_norm: bool = False
    """Normalize the features over the batch before the convolution."""


def evaluate(
    backbone: Backbone,
    train: ImageSet,
    val: ImageSet,
    config: LinearSegConfig | None = None,
    *,
    cache: Path | None = None,
    device: str = "auto",
) -> Report:
    """Train a linear segmenter on `train` and measure it on `val`; samples have masks.

    Args:
        cache: taken so that all protocols are called alike; patch features are computed anew each time.

    Returns:
        A report with `linear_seg_miou`, `linear_seg_accuracy`, `linear_seg_mean_accuracy`, `floor_majority_miou` and
        `floor_majority_accuracy`, percent; see `vitrail.evaluation.dense_probe.probe`.

    Raises:
        ValueError: data without masks, different class lists, a size that the patch size does not divide, features that
            do not fit `memory`, or training that diverged at every rate.
    """
    config = config or LinearSegConfig()
    make = partial(LinearSegmenter, batch_norm=config.batch_norm, seed=config.seed)
    return probe("linear_seg", make, 1, backbone, train, val, config, device)
