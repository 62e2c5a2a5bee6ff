"""Tables 5, 6 and 8 of the SAR paper: other images than those of training, attention as segmentation, self-supervision.

    vitrail study sar_table5 imagenet=data/imagenet imagenet_a=data/imagenet-a --runs runs/sar --out studies/sar_table5
    vitrail study sar_table6 imagenet=data/imagenet voc=data/VOCdevkit/VOC2012 --runs runs/sar --out studies/sar_table6
    vitrail study sar_table8 imagenet100=data/imagenet100 voc=data/VOCdevkit/VOC2012 --out studies/sar_table8

Tables 5 and 6 measure the networks of Table 2: with one folder of `--runs` they train nothing anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from vitrail.config import ConfigError
from vitrail.recipes.sar_settings import Asked, asked_of, folder_of
from vitrail.recipes.sar_tables import (
    VIT_S,
    WRONG_DELTAS,
    Measure,
    Net,
    Place,
    Training,
    sar,
    short,
    study_of,
    supervised,
    with_sar,
)
from vitrail.recipes.study import Study

TABLE_5: dict[str, tuple[str, float, float]] = {
    "imagenet_a": ("IN-A top-1", 19.2, 22.39),
    "imagenet_c": ("IN-C mCE", 52.8, 51.6),
}
"""Column, without and with SAR; of mCE less is better."""
GENERATED_C = "error on corruptions"
"""The column of corruptions that are made here."""
TABLE_5_UNITS = {
    "IN-A top-1": "IN-A: top-1 in percent",
    "IN-C mCE": "IN-C: mean corruption error in percent of AlexNet's, less is better",
    GENERATED_C: "error on corruptions: mean top-1 error in percent on corruptions made here, less is better; it is no "
    "mCE, so no published number stands beside it",
}
"""By column."""
LOADING = ("workers=8",)
"""Of protocols that read many images; has no influence on numbers."""
OF = "ViT-S/16 of ImageNet-1k"
TABLE_6 = (19.18, 31.19)
"""Jaccard without and with SAR."""
TABLE_8 = {
    "MoCo-v3": (77.60, 27.40),
    "MoCo-v3 + SAR": (78.88, 33.10),
    "DINO": (77.42, 35.06),
    "DINO + SAR": (79.90, 35.28),
}
"""Top-1 by a linear probe on ImageNet-100 (a), Jaccard on VOC (b)."""
MOCO = Net("MoCo-v3", "mocov3_small_in100", with_sar="mocov3_small_sar")
DINO = Net("DINO", "dino_small_in100", with_sar="dino_small_sar")
STAND_INS = {"MoCo-v3": "mocov3", "DINO": "dino"}
"""Recipes for small=true: scenes_NAME and folder_NAME."""


def sar_table5(settings: Sequence[str] = ()) -> Study:
    """SAR, Table 5: ViT-S/16 of ImageNet-1k on ImageNet-A and ImageNet-C, without and with SAR.

    Args:
        settings: `imagenet`, `imagenet_a`, `imagenet_c`, `small`, `seeds`, `schedule`, `rows`, `columns`; all others go
            to every recipe. A column whose folder is not given is left out; small=true generates corruptions instead.
    """
    asked = asked_of(settings, ("imagenet", *TABLE_5))
    columns = {name: found for name in TABLE_5 if (found := _unlike(asked, name)) is not None}
    if not columns:
        raise ConfigError("there is nothing to measure on: give imagenet_a=FOLDER, imagenet_c=FOLDER, or small=true")
    places = [
        Place(row, column, training, measure, TABLE_5[name][1:][place] if column == TABLE_5[name][0] else None)
        for place, (row, training) in enumerate(_vit_s(asked))
        for name, (column, measure) in columns.items()
    ]
    unit = "; ".join(TABLE_5_UNITS[column] for column, _ in columns.values())
    return study_of(asked, "sar_table5", "images unlike those of training", "Table 5", places, unit, OF)


def _unlike(asked: Asked, name: str) -> tuple[str, Measure] | None:
    """Column and measurement; None where there are no such images."""
    if getattr(asked.own, name) is not None:
        number = "top1" if name == "imagenet_a" else "mce"
        return TABLE_5[name][0], Measure("robustness", number, (f"mode={name}", *LOADING), folder_of(asked, name))
    if name == "imagenet_a" or not asked.own.small:
        return None
    settings = ("mode=generated", "severities=3", "images=100")
    return GENERATED_C, Measure("robustness", "mce_unnormalized", settings)


def sar_table6(settings: Sequence[str] = ()) -> Study:
    """SAR, Table 6: attention of ViT-S/16 of ImageNet-1k as segmentation of VOC 2012, without and with SAR.

    Args:
        settings: `imagenet`, `voc`, `small`, `seeds`, `schedule`, `rows`; all others go to every recipe.
    """
    asked = asked_of(settings, ("imagenet", "voc"))
    measure = _jaccard(asked)
    places = [
        Place(row, "Jaccard", training, measure, published)
        for (row, training), published in zip(_vit_s(asked), TABLE_6, strict=True)
    ]
    unit, of = "Jaccard of thresholded attention and masks in percent", f"{OF} on VOC 2012"
    return study_of(asked, "sar_table6", "attention as segmentation", "Table 6", places, unit, of)


def sar_table8(settings: Sequence[str] = ()) -> Study:
    """SAR, Table 8: MoCo-v3 and DINO on ImageNet-100, without and with SAR: linear probe (a), Jaccard on VOC (b).

    Args:
        settings: `imagenet100`, `voc`, `small`, `seeds`, `schedule`, `rows`, `columns`; all others go to every recipe.
    """
    asked = asked_of(settings, ("imagenet100", "voc"))
    root, jaccard = folder_of(asked, "imagenet100"), _jaccard(asked)
    places = []
    for net in (MOCO, DINO):
        for operated in (False, True):
            row = net.name + " + SAR" * operated
            training = _self_supervised(asked, net, root, operated)
            top1, overlap = TABLE_8[row]
            places.append(Place(row, "linear probe", training, _linear(asked, net), top1))
            places.append(Place(row, "Jaccard", training, jaccard, overlap))
    recipes = [
        "Inferred: of the probes the text says SGD for 100 epochs, the rest is each method's own. The entropy is on "
        "both views of MoCo-v3 and on DINO's large crops, of the student alone, which the text does not say.",
    ]
    notes = [WRONG_DELTAS]
    if asked.own.small:
        notes.append("The linear probe's number is the best of its learning rates, chosen on the images of the number.")
    unit, of = "linear probe: top-1 in percent; Jaccard in percent", "ViT-S/16 on ImageNet-100 and VOC 2012"
    return study_of(asked, "sar_table8", "self-supervision", "Table 8", places, unit, of, notes, recipes)


def _vit_s(asked: Asked) -> list[tuple[str, Training]]:
    """The two networks of ImageNet-1k, those of Table 2."""
    root = folder_of(asked, "imagenet")
    rows = (VIT_S.name, f"{VIT_S.name} + SAR")
    return [(row, making(asked, VIT_S, root, "in1k")) for row, making in zip(rows, (supervised, with_sar))]


def _jaccard(asked: Asked) -> Measure:
    voc = folder_of(asked, "voc")
    settings = () if asked.own.small else ("preset=sar",)
    return Measure("attention_jaccard", "jaccard", settings, voc or "scenes")


def _linear(asked: Asked, net: Net) -> Measure:
    if asked.own.small:
        return Measure("linear", "linear_best_top1", ("preset=features",))
    return Measure("linear", "linear_top1", ("preset=sar" if net is MOCO else "preset=dino", *LOADING))


def _self_supervised(asked: Asked, net: Net, root: str | None, operated: bool) -> Training:
    """MoCo-v3 or DINO on ImageNet-100, 300 epochs."""
    found = (with_sar if operated else supervised)(asked, net, root, "in100")
    if not asked.own.small:
        return found
    recipe = f"{'folder' if root else 'scenes'}_{STAND_INS[net.name]}"
    data = (f"data.root={root}",) if root else ()
    return found._replace(
        recipe=recipe, overrides=(*short(asked, 300), *data, *(sar(asked, "F") if operated else ()), *asked.others)
    )
