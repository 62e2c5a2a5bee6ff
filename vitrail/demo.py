"""`vitrail demo`: a tiny ViT on generated scenes, with and without SAR, and one page that compares them."""

from __future__ import annotations

import time
from pathlib import Path

from vitrail.backbones import load_classifier
from vitrail.contracts import ImageSet
from vitrail.evaluation import accuracy, attention_jaccard, knn
from vitrail.evaluation.result import Report
from vitrail.recipes.measure import call, config_of, native
from vitrail.recipes.run import Verbs, run
from vitrail.recipes.sources import open_splits
from vitrail.recipes.supervised import Recipe, scenes, scenes_sar
from vitrail.report import write_page
from vitrail.train.progress import console

# Mean and standard deviation over 3 seeds, without and with SAR; benchmarks/scenes.py measured them.
JACCARD = ((25.7, 2.2), (35.4, 4.2))
TOP1 = ((76.8, 1.9), (77.7, 0.5))
SPREAD = (
    "Over 3 seeds and with 26,000 images <code>benchmarks/scenes.py</code> found "
    "a Jaccard of {:.1f} ± {:.1f} without and {:.1f} ± {:.1f} "
    "with SAR, at an accuracy of {:.1f} ± {:.1f} and {:.1f} ± {:.1f} % (mean ± standard deviation)."
).format(*(value for pairs in (JACCARD, TOP1) for pair in pairs for value in pair))
INTRODUCTION = """
<p>Two tiny Vision Transformers ({parameters:,} weights, {rows} × {columns} patches) learned to name the object in
generated scenes: {classes} classes told by shape, hue and texture together, among distractors on textured
backgrounds. Both saw {seen:,} images from the same seed, in the same order. The second one had <b>SAR</b>: the spatial
entropy of its last block's attention was part of the loss, and its last block had no identity path around the
attention.</p>
<p><b>What to look at.</b> No model was told where the object is. <i>Attention Jaccard</i> says how well the
thresholded attention of the best head covers the object's true mask, which the measurement alone sees:
<b>{jaccard[0]:.1f}</b> without and <b>{jaccard[1]:.1f}</b> with SAR, at a top-1 accuracy of {top1[0]:.1f} and
{top1[1]:.1f} %. In the pictures each row is a held-out scene, followed by the attention of every head and their mean.
One seed is an anecdote. {spread}</p>
<p><b>The same on your own images</b>, in one folder per class:</p>
<pre>uv run vitrail doctor photos/
uv run vitrail train folder     data.root=photos --out runs/baseline
uv run vitrail train folder_sar data.root=photos --out runs/sar
uv run vitrail evaluate knn --weights runs/sar --data photos
uv run vitrail report runs/baseline runs/sar --out comparison.html</pre>
<p>Training, measuring and drawing took {seconds:.0f} s on this machine.</p>
"""


def run_demo(out: Path, *, seed: int = 0, budget: float = 0.7) -> Path:
    """Train, measure, draw and write the page; returns its path.

    Args:
        seed: of scenes, weights and order, the same for both models.
        budget: share of the scenes that the recipe asks for, in (0, 1]; small values are for a quick look.
    """
    if not 0 < budget <= 1:
        raise ValueError(f"budget {budget} is not in (0, 1]")
    started = time.perf_counter()
    folders, measured = [], []
    for number, (name, recipe) in enumerate((("baseline", scenes()), ("sar", scenes_sar())), 1):
        config = _scaled(recipe, seed, budget)
        console().print(f"training {number} of 2, {name}", highlight=False, soft_wrap=True)
        run(config, Verbs(overwrite=True), out / name)
        measured.append(measure_run(out / name, config))
        folders.append(out / name)
    words = _introduction(config, measured, time.perf_counter() - started, folders[0])
    return write_page(out / "index.html", folders, title="vitrail demo", introduction=words)


def measure_run(folder: Path, recipe: Recipe) -> dict[str, Report]:
    """Accuracy, k-NN and attention Jaccard of a finished run's weights, saved in its folder."""
    backbone, head, classes, pool = load_classifier(folder / "exported" / "backbone.safetensors")
    splits = open_splits(recipe.data)
    reports = {}
    for protocol in (accuracy, knn, attention_jaccard):
        config = native(config_of(protocol.evaluate), backbone)
        report = call(protocol.evaluate, backbone, splits.train, splits.val, config, head, classes, pool=pool)
        report.save(folder / "evaluation" / f"{report.protocol}.json")
        reports[report.protocol] = report
    return reports


def _scaled(recipe: Recipe, seed: int, budget: float) -> Recipe:
    least = 2 * recipe.train.global_batch_size
    counts = {
        "data.scenes.count": max(int(recipe.data.scenes.count * budget), least),
        "data.scenes.val_count": max(int(recipe.data.scenes.val_count * budget), least),
        "data.scenes.seed": seed,
        "train.seed": seed,
    }
    return recipe.override([f"{key}={value}" for key, value in counts.items()])


def _introduction(recipe: Recipe, measured: list[dict[str, Report]], seconds: float, folder: Path) -> str:
    backbone, head, classes, _ = load_classifier(folder / "exported" / "backbone.safetensors")
    rows, columns = (side // patch for side, patch in zip(backbone.image_size, backbone.patch_size))
    data: ImageSet = open_splits(recipe.data).train
    steps = len(data) // recipe.train.global_batch_size * recipe.train.epochs
    return INTRODUCTION.format(
        parameters=sum(value.numel() for module in (backbone, head) for value in module.parameters()),
        rows=rows,
        columns=columns,
        classes=len(classes or ()),
        seen=steps * recipe.train.global_batch_size,
        jaccard=[each["attention_jaccard"].numbers["jaccard"] for each in measured],
        top1=[each["accuracy"].numbers["top1"] for each in measured],
        seconds=seconds,
        spread=SPREAD,
    )
