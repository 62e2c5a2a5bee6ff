"""Masks of objects on disk: two processes against one, and a run that is killed against one that is not.

    python benchmarks/grabcut.py [--images 192] [--pairs 5] [--weights FILE [--model NAME]] [--out FILE.json]

Speed: images of a folder are decoded, shown to a ViT, cut at 256 x 256 and written, once by one process alone, once by
two that cut beside the one that decodes and shows. Both ways in turns, each first in every other pair, one thread each,
into a new folder each; results are compared. Without weights the ViT is a small one with random weights, and so is the
attention. GrabCut alone is timed, too. A kill: `vitrail object-masks` with two processes gets a SIGKILL once a quarter
is done, and the same command goes on; what was done may not be done again, and all must be as without a kill. About
two minutes on two cores.

Wanted: at least 1.6 times faster; no finished image made again; equal masks.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import cv2
import numpy as np
import torch
from record import ROOT, record

from vitrail.backbones import BackboneConfig, TimmViT, create, load, save_exported
from vitrail.contracts import ImageSet
from vitrail.data import SyntheticScenes
from vitrail.data.object_masks import ObjectMasks, ObjectMasksConfig
from vitrail.ops.grabcut import grabcut_mask
from vitrail.recipes.object_masks import make_object_masks, stages_of
from vitrail.recipes.sources import open_data

VIT: dict[str, Any] = {"image_size": 224, "patch_size": 16, "embed_dim": 96, "depth": 4, "heads": 3}


def photos(folder: Path, count: int, side: int) -> Path:
    """Scenes as JPEG files."""
    scenes = SyntheticScenes(count, image_size=side, seed=0)
    folder.mkdir()
    for index in range(count):
        scenes[index].image.save(folder / f"{index:05d}.jpg", quality=90)
    return folder


def small_vit(path: Path) -> Path:
    """A small ViT whose random weights make attention uneven, as a file."""
    torch.manual_seed(0)
    backbone = create(BackboneConfig(**VIT))
    with torch.no_grad():
        for value in backbone.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    save_exported(backbone.export(), path)
    return path


def seconds(backbone: TimmViT, data: ImageSet, folder: Path, processes: int) -> tuple[float, str]:
    """Wall time of making all masks anew, and what came of it."""
    start = time.perf_counter()
    masks = make_object_masks(backbone, data, folder, processes=processes, device="cpu")
    return time.perf_counter() - start, masks.digest()


def speed(backbone: TimmViT, data: ImageSet, folder: Path, pairs: int) -> dict[str, Any]:
    """One process and two in turns."""
    times: dict[int, list[float]] = {1: [], 2: []}
    found = set()
    for pair in range(pairs):
        for processes in (1, 2) if pair % 2 == 0 else (2, 1):
            taken, own = seconds(backbone, data, folder / f"{pair}-{processes}", processes)
            times[processes].append(taken)
            found.add(own)
    ratios = sorted(one / two for one, two in zip(times[1], times[2], strict=True))
    return {
        "pairs": pairs,
        "images": len(data),
        "one_process_images_per_second": len(data) / statistics.median(times[1]),
        "two_processes_images_per_second": len(data) / statistics.median(times[2]),
        "ratio_median": statistics.median(ratios),
        "ratio_lowest": ratios[0],
        "ratio_highest": ratios[-1],
        "equal": len(found) == 1,
    }


def cut_alone(backbone: TimmViT, data: ImageSet, count: int = 16) -> dict[str, float]:
    """Milliseconds of GrabCut alone on the first images, one thread, and what it had to decide."""
    cv2.setNumThreads(1)
    times, uncertain = [], []
    for index in range(min(count, len(data))):
        stages = stages_of(backbone, data[index].image, ObjectMasksConfig())
        pixels, attention = np.asarray(stages.image.resize((256, 256))), np.asarray(stages.attention)
        start = time.perf_counter()
        grabcut_mask(pixels, attention)
        times.append(1e3 * (time.perf_counter() - start))
        uncertain.append(float((stages.marks == 2).mean()))
    return {"grabcut_ms_median": statistics.median(times), "uncertain_share_mean": statistics.fmean(uncertain)}


def command(weights: Path, photos: Path, out: Path, model: str | None) -> list[str]:
    """`vitrail object-masks` with two processes."""
    words = ["object-masks", "--weights", str(weights), "--data", str(photos), "--out", str(out), "--processes", "2"]
    return [sys.executable, "-m", "vitrail", *words, "--device", "cpu", *(["--model", model] if model else [])]


def done(folder: Path) -> np.ndarray:
    """Positions of the images that a folder says are done."""
    try:
        return np.flatnonzero(np.load(folder / "table.npy")["status"])
    except (OSError, ValueError):
        return np.empty(0, np.int64)


def killed(words: list[str], out: Path, whole: str) -> dict[str, Any]:
    """Kill a run once a quarter is done, go on, and say what was done twice."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    total = None
    while total is None or len(done(out)) < total // 4:
        if process.poll() is not None:
            raise SystemExit(f"ended before a quarter was done: {' '.join(words)}")
        about = out / "object_masks.json"
        total = json.loads(about.read_text())["images"] if about.is_file() else None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(2)  # those that cut end what they have at hand, and see that they are alone
    before = done(out)
    table = np.load(out / "table.npy")[before]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    line = next(line for line in reversed(ended.stderr.splitlines()) if line.startswith("object masks "))
    from_cache = int(line.partition("(")[2].split()[0].replace(",", "")) if "(" in line else 0
    return {
        "done_before_the_kill": len(before),
        "of": total,
        "made_again": len(before) - from_cache,
        "kept_as_they_were": bool(np.array_equal(np.load(out / "table.npy")[before], table)),
        "equal_to_a_whole_run": ObjectMasks.open(out).digest() == whole,
        "last_line": line,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--side", type=int, default=320, help="of the images, pixels")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--weights", type=Path, default=None, help="of a ViT; default: a small one of random weights")
    parser.add_argument("--model", default=None, help="timm's name, where the weights do not tell")
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        images = photos(place / "photos", options.images, options.side)
        weights = options.weights or small_vit(place / "vit.safetensors")
        backbone = load(options.model, str(weights)).eval()
        data = open_data(str(images)).train
        numbers = {"side": options.side, "weights": options.weights.name if options.weights else "small, random"}
        numbers |= cut_alone(backbone, data) | speed(backbone, data, place, options.pairs)
        whole = ObjectMasks.open(place / "0-1").digest()
        numbers["kill"] = killed(command(weights, images, place / "killed", options.model), place / "killed", whole)
    print(json.dumps(numbers, indent=2))
    print(record("grabcut", numbers, options.out))


if __name__ == "__main__":
    main()
