"""Table 1 of the SAR paper, on ImageNet-100: the weight of the loss, the parts of the method, the length of training.

    vitrail study sar_table1a imagenet100=data/imagenet100 --runs runs/sar --out studies/sar_table1a
    vitrail study sar_table1b small=true --out studies/parts-on-scenes

By (a) lambda = 0 is row C of (b), and 0.01 its row F; with one folder of `--runs` all three tables are 12 trainings.
"""

from __future__ import annotations

from collections.abc import Sequence

from vitrail.recipes.sar_settings import asked_of, folder_of
from vitrail.recipes.sar_tables import (
    TOP1,
    VIT_S,
    Net,
    Place,
    operated,
    study_of,
    supervised,
    with_sar,
)
from vitrail.recipes.study import Study

READS = ("imagenet100",)
COLUMN = "100 ep."
LAMBDA = {0.0: 75.72, 0.001: 75.82, 0.005: 76.16, 0.01: 76.72, 0.05: 76.22, 0.1: 75.88}
"""Table 1(a)."""
PARTS = {
    "A": ("A: baseline", 74.22),
    "B": ("B: A + no MSA skip connections", 74.64),
    "C": ("C: B + no LN", 75.72),
    "D": ("D: C + no MLP skip connections", 73.76),
    "E": ("E: A + spatial entropy loss", 74.78),
    "F": ("F: A + SAR", 76.72),
}
"""Table 1(b)."""
EPOCHS = {100: (74.22, 76.72), 300: (80.82, 85.24)}
"""Table 1(c): without and with SAR."""
UNIT = "top-1 in percent"
OF = "ViT-S/16 on ImageNet-100"
PROTOCOL = "Trained by DeiT's recipe, as the authors' code does; Sec. 5.1 names Swin's protocol."
NET = Net(VIT_S.name, "imagenet100", VIT_S.small)
LONGER = Net(VIT_S.name, "imagenet100_300", VIT_S.small)


def sar_table1a(settings: Sequence[str] = ()) -> Study:
    """SAR, Table 1(a): the weight of the spatial entropy, ViT-S/16 with SAR's surgery on ImageNet-100.

    Args:
        settings: `imagenet100`, `small`, `seeds`, `schedule`, `rows`; all others go to every recipe.
    """
    asked = asked_of(settings, READS)
    root = folder_of(asked, "imagenet100")
    places = []
    for weight, published in LAMBDA.items():
        training = operated(asked, NET, root, "in100", "F" if weight else "C", weight)
        places.append(Place(f"{weight:g}", COLUMN, training, TOP1, published))
    return study_of(
        asked, "sar_table1a", "the weight lambda", "Table 1(a)", places, UNIT, OF, recipes=[PROTOCOL], corner="lambda"
    )


def sar_table1b(settings: Sequence[str] = ()) -> Study:
    """SAR, Table 1(b): surgery and loss apart, ViT-S/16 on ImageNet-100, rows A to F.

    Args:
        settings: as of `sar_table1a`; `rows` takes the letters, as in rows=A,F.
    """
    asked = asked_of(settings, READS)
    root = folder_of(asked, "imagenet100")
    places = [
        Place(name, COLUMN, operated(asked, NET, root, "in100", letter), TOP1, published)
        for letter, (name, published) in PARTS.items()
    ]
    return study_of(asked, "sar_table1b", "the parts of SAR", "Table 1(b)", places, UNIT, OF, recipes=[PROTOCOL])


def sar_table1c(settings: Sequence[str] = ()) -> Study:
    """SAR, Table 1(c): 100 and 300 epochs of ViT-S/16 on ImageNet-100, without and with SAR.

    Args:
        settings: as of `sar_table1a`; `columns` takes "100 ep." and "300 ep.".
    """
    asked = asked_of(settings, READS, fixed=["train.epochs"])
    root = folder_of(asked, "imagenet100")
    places = []
    for row, making in ((VIT_S.name, supervised), (f"{VIT_S.name} + SAR", with_sar)):
        for epochs, published in EPOCHS.items():
            net = NET if epochs == 100 else LONGER
            training = making(asked, net, root, "in100", epochs=epochs)
            places.append(Place(row, f"{epochs} ep.", training, TOP1, published[making is with_sar]))
    return study_of(asked, "sar_table1c", "the length of training", "Table 1(c)", places, UNIT, OF, recipes=[PROTOCOL])
