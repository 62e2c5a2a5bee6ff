"""How the masks came about that a run learned from: its own images and settings, step by step as a picture."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from vitrail.backbones import need_vit
from vitrail.config import read_yaml
from vitrail.contracts import ImageSet
from vitrail.data.object_masks import ABOUT, ObjectMasksConfig, read_about
from vitrail.evaluation.features import weights_digest
from vitrail.recipes.look import different
from vitrail.recipes.object_masks import stages_of
from vitrail.recipes.weights import open_backbone, run_folder_of
from vitrail.viz.grabcut import grabcut_sheet

log = logging.getLogger("vitrail")


class MadeBy(NamedTuple):
    """What made the masks of a run."""

    weights: str  # whose attention
    config: ObjectMasksConfig
    digest: str | None  # of these weights; None where the masks are no longer there


class Steps(NamedTuple):
    """Masks of some images, made again."""

    picture: Image.Image
    caption: str


def made_by(weights: str) -> MadeBy | None:
    """What made the masks that a run learned from, by its folder; None for other weights, and runs without masks.

    A run of LocLoc or PPD leaves its backbone as it was, so that its own weights stand for those that it started from.
    Raises `ValueError` for a configuration or a table of masks that cannot be read.
    """
    folder = run_folder_of(weights)
    if folder is None or not (folder / "config.yaml").is_file():
        return None
    run = read_yaml(folder / "config.yaml")
    if "mask_settings" not in run:
        return None
    named = run.get("object_masks")
    places = [Path(named).expanduser()] if named else []
    about = next((read_about(each) for each in (*places, folder / "object_masks") if (each / ABOUT).is_file()), None)
    settings: dict[str, Any] = run["mask_settings"] or {}
    if about is not None:
        settings = {name: about[name] for name in ObjectMasksConfig.model_fields if name in about}
    config = ObjectMasksConfig.parse(settings, source=str(folder))
    return MadeBy(run.get("masks_from") or str(folder), config, None if about is None else str(about["weights"]))


def mask_steps(weights: str, data: ImageSet, count: int = 4, *, device: str = "auto") -> Steps | None:
    """Image, attention, trimap and masks of images of different classes; None where `made_by` knows nothing.

    What cannot be drawn, as for weights of masks that are not there any more, is told in the log, and gives None.
    """
    try:
        found = made_by(weights)
        if found is None or count < 1:
            return None
        opened = open_backbone(found.weights, model=None, key="auto", device=device)
        backbone = need_vit(opened, "making object masks")
    except (OSError, ValueError) as error:
        log.warning("the masks that %s learned from are not drawn: %s", weights, error)
        return None
    rows = []
    for index in different(data, count):
        sample = data[index]
        name = data.classes[sample.label] if data.classes and sample.label is not None else ""
        rows.append(stages_of(backbone, sample.image, found.config)._replace(title=name))
    heads = "all heads" if found.config.heads is None else f"heads {', '.join(map(str, found.config.heads))}"
    caption = (
        f"Attention of {heads}; from {found.config.high:g} on surely the object, below {found.config.low:g} surely "
        f"background, between them GrabCut decides; the plain mask is attention from {found.config.threshold:g} on"
    )
    if found.digest is not None and found.digest != weights_digest(backbone):
        caption += f". The masks that were learned from are of other weights than {found.weights}"
    return Steps(grabcut_sheet(rows, cell=170), caption)
