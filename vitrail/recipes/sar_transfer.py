"""Tables 3 and 4 of the SAR paper: from scratch on few images, and fine-tuning after ImageNet-1k.

    vitrail study sar_table3 cars=data/stanford_cars clipart=data/domainnet/clipart --out studies/sar_table3
    vitrail study sar_table4 imagenet=data/imagenet flowers=data/flowers-102 --out studies/sar_table4
    vitrail study sar_table4 weights=runs/vit weights_sar=runs/vit-sar pets=data/oxford-iiit-pet --out studies/pets

Columns whose folder is not given are left out. Of Table 4 both pre-trainings are made once for all columns and seeds,
each before the first cell that starts from it, or are named by `weights` and `weights_sar`. Flowers are trained on
train and val, Pets on trainval, and both measured on test. The network follows the pre-trained weights: what was
trained with SAR has no skip connection there in fine-tuning either, and the third row adds the loss alone (appendix
D.3).
"""

from __future__ import annotations

from collections.abc import Sequence

from vitrail.config import ConfigError
from vitrail.recipes.sar_settings import Asked, asked_of, folder_of
from vitrail.recipes.sar_tables import (
    TOP1,
    VIT_S,
    WRONG_DELTAS,
    Net,
    Place,
    Training,
    loss,
    study_of,
    supervised,
    wants,
    with_sar,
)
from vitrail.recipes.study import First, Study

TABLE_3 = {
    "cars": ("Cars", 35.3, 64.65),
    "clipart": ("Clipart", 41.0, 64.95),
    "painting": ("Painting", 38.4, 57.11),
    "sketch": ("Sketch", 37.2, 62.98),
}
"""Column, top-1 without SAR, which is El-Nouby et al.'s, and with it."""
TABLE_4 = {
    (False, False): ("no SAR", (98.59, 88.95, 95.07, 92.21)),
    (True, False): ("SAR pre-training", (98.69, 89.19, 96.05, 92.7)),
    (False, True): ("SAR fine-tuning", (98.72, 88.95, 95.1, 92.34)),
    (True, True): ("SAR in both", (98.65, 89.21, 96.1, 92.7)),
}
"""Rows by SAR in pre-training and in fine-tuning; top-1 of the four columns."""
COLUMNS_4 = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "flowers": "Flowers", "pets": "Pets"}
STARTS = (
    "The rows `no SAR` and `SAR fine-tuning` start from a pre-training without SAR, that is with neither the loss nor "
    "the surgery; `SAR pre-training` and `SAR in both` from one with both. The surgery follows the weights, and SAR in "
    "fine-tuning is the loss alone. Rows of one pre-training start from the same weights, in all columns and seeds."
)
UNIT = "top-1 in percent"
SCRATCH = Net(VIT_S.name, "scratch", VIT_S.small)
FINETUNE = Net("finetune", "finetune", VIT_S.small)


def sar_table3(settings: Sequence[str] = ()) -> Study:
    """SAR, Table 3: ViT-S/16 from scratch on Cars, clip art, painting and sketch, 5,000 epochs, without and with SAR.

    Args:
        settings: `cars`, `clipart`, `painting`, `sketch`, `small`, `seeds`, `schedule`, `rows`, `columns`; all others
            go to every recipe.
    """
    asked = asked_of(settings, tuple(TABLE_3))
    places = []
    for number, name in enumerate(TABLE_3, 1):
        title, *published = TABLE_3[name]
        if not _wanted(asked, name, tuple(TABLE_3)):
            continue
        root, column = folder_of(asked, name), _column(asked, name, title)
        for row, making, value in zip((VIT_S.name, f"{VIT_S.name} + SAR"), (supervised, with_sar), published):
            training = making(asked, SCRATCH, root, name, epochs=5000, scenes=0 if root else number)
            places.append(Place(row, column, training, TOP1, value))
    notes = [WRONG_DELTAS, "The published row without SAR is that of El-Nouby et al. 2021, arXiv 2112.10740."]
    return study_of(asked, "sar_table3", "from scratch on small sets", "Table 3", places, UNIT, "ViT-S/16", notes)


def sar_table4(settings: Sequence[str] = ()) -> Study:
    """SAR, Table 4: ViT-S/16 fine-tuned on four sets, with SAR in pre-training, in fine-tuning, in both or not.

    Args:
        settings: `imagenet` or `weights` and `weights_sar`; `cifar10`, `cifar100`, `flowers`, `pets`; `small`, `seeds`,
            `schedule`, `rows`, `columns`; all others go to every recipe, that of the pre-training included.
    """
    asked = asked_of(settings, ("imagenet", "weights", "weights_sar", *COLUMNS_4))
    rows = {key: told for key, told in TABLE_4.items() if wants(asked.own.rows, told[0])} or TABLE_4
    starts = {before: _start(asked, before) for before in {before for before, _ in rows}}
    places = []
    for number, name in enumerate(COLUMNS_4):
        if not _wanted(asked, name, tuple(COLUMNS_4)):
            continue
        column = _column(asked, name, COLUMNS_4[name])
        for (before, after), (row, published) in rows.items():
            training = _finetuned(asked, name, number + 1, before, after, starts[before])
            start = starts[before]
            first = start if isinstance(start, First) else None
            places.append(Place(row, column, training, TOP1, published[number], first))
    notes = [STARTS]
    return study_of(asked, "sar_table4", "fine-tuning", "Table 4", places, UNIT, "ViT-S/16 of ImageNet-1k", notes)


def _start(asked: Asked, operated: bool) -> First | str:
    """The pre-training, or the weights that stand for it."""
    given = asked.own.weights_sar if operated else asked.own.weights
    if given is not None:
        from vitrail.recipes.weights import find_weights

        return find_weights(given)
    making = with_sar if operated else supervised
    if asked.own.imagenet is None and not asked.own.small:
        name = "weights_sar" if operated else "weights"
        raise ConfigError(
            f"Table 4 starts from ViT-S/16 {'with' if operated else 'without'} SAR: give imagenet=FOLDER to train it, "
            f"or {name}=RUN, or small=true for tiny networks on generated scenes"
        )
    training = making(asked, VIT_S, folder_of(asked, "imagenet"), "in1k")
    return First(f"{training.run}-0", training.recipe, training.overrides)


def _finetuned(asked: Asked, name: str, scenes: int, before: bool, after: bool, start: First | str) -> Training:
    """Fine-tuning on one set, with the loss or without."""
    root = folder_of(asked, name)
    changes = [loss(asked)] if after else []
    changes += [f"init_from={start}"] if isinstance(start, str) else []
    if asked.own.small and root is not None and asked.own.imagenet is None:
        changes.append("augment.image_size=48")  # what starts on scenes has patches of 6 pixels
    mark = f"from-sar{'-and-loss' * after}" if before else "loss" if after else "plain"
    mark += "-code" * (asked.own.schedule != "constant" and (before or after))
    found = supervised(
        asked, FINETUNE, root, name, epochs=100, changes=changes, mark=mark, scenes=0 if root else scenes
    )
    return found._replace(recipe="finetune_sar") if after and not asked.own.small else found


def _wanted(asked: Asked, name: str, names: Sequence[str]) -> bool:
    """Whether a column is to be filled. Raises `ConfigError` where there would be none."""
    given = [each for each in names if getattr(asked.own, each) is not None]
    if not given and not asked.own.small:
        hints = ", ".join(f"{each}=FOLDER" for each in names)
        raise ConfigError(f"there is nothing to train on: give {hints}, or small=true for generated scenes")
    return name in given or not given


def _column(asked: Asked, name: str, title: str) -> str:
    return title if getattr(asked.own, name) is not None else f"scenes for {title}"
