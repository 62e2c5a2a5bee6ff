"""`vitrail demo`: a tiny ViT on generated scenes, with and without SAR, and one page that compares them."""

from __future__ import annotations

import time
from pathlib import Path

from vitrail.recipes.compare import measure_run
from vitrail.recipes.run import Verbs, run
from vitrail.recipes.supervised import Recipe, scenes, scenes_sar
from vitrail.report import write_page

RUNS = {"baseline": scenes, "sar": scenes_sar}

INTRODUCTION = """
<p>Two tiny Vision Transformers ({parameters} parameters, {grid} patches) learned to name the object in {images}
generated scenes each: {classes} classes told by shape, hue and texture, on textured backgrounds with distractors.
Same seed, same scenes, same order. The second one had <b>SAR</b>: the spatial entropy of its last block's attention
was part of the loss, and the last block had no identity path around attention.</p>
<p><b>What to look at.</b> Neither model was told where the object is. <i>Attention Jaccard</i> says how well the
thresholded attention of the best head covers the object's true mask, which only the measurement sees. In the pictures,
each row shows one held-out scene, then the attention of each head.</p>
<p><b>On your own images</b>, in one folder per class:</p>
<pre>vitrail doctor photos/
vitrail train folder     data.root=photos --out runs/baseline
vitrail train folder_sar data.root=photos --out runs/sar
vitrail report runs/baseline runs/sar</pre>
<p>This page took {seconds:.0f} s on this machine. One seed is an anecdote: `benchmarks/scenes.py` repeats the comparison
over several seeds and states the spread.</p>
"""


def run_demo(out: Path, *, seed: int = 0, budget: float = 1.0) -> Path:
    """Train, measure, draw and write the page; returns its path. `budget` is the share of the full training length."""
    started = time.perf_counter()
    folders = []
    for name, recipe in RUNS.items():
        folder = out / name
        config = shortened(recipe(), seed, budget)
        run(config, Verbs(overwrite=True), folder)
        measure_run(folder, config)
        folders.append(folder)
    introduction = _introduction(shortened(scenes(), seed, budget), time.perf_counter() - started)
    return write_page(out / "index.html", folders, title="vitrail demo", introduction=introduction)
