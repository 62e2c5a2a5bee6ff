"""What `vitrail rank photo.jpg` costs for one image of 224 pixels, beyond importing torch and timm.

    python benchmarks/rank.py [--rounds 7] [--out FILE.json]

LTRP's published size, ViT-S/16 with fresh weights, on a generated picture of 224 x 224. Each round starts one fresh
process of each command, in turns: Python that imports torch and timm, and the whole of `vitrail rank`, which also reads
weights, writes scores, ids and the picture. Wanted: less than 3 s between them on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from record import record
from startup import seconds


def files(folder: Path) -> tuple[Path, Path]:
    """A photo and a ranking model."""
    from vitrail.backbones import BackboneConfig, create, save_exported
    from vitrail.data import SyntheticScenes
    from vitrail.rankers.ltrp import LtrpRanker

    SyntheticScenes(1, image_size=224, split="val")[0].image.save(folder / "photo.jpg")
    ranker = LtrpRanker(create(BackboneConfig(name="vit_small_patch16_224")))
    save_exported(ranker.export(), folder / "ltrp.safetensors")
    return folder / "photo.jpg", folder / "ltrp.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo, weights = files(Path(folder))
        ask = ["--ranker", "ltrp", "--weights", str(weights), "--device", "cpu", "--out", str(Path(folder) / "ranked")]
        commands = {
            "import_torch_and_timm": ["-c", "import torch, timm"],
            "rank": ["-m", "vitrail", "rank", str(photo), *ask],
        }
        for arguments in commands.values():
            seconds(arguments)  # bytecode and the disk's cache
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, arguments in commands.items():
                times[name].append(seconds(arguments))
    beyond = [a - b for a, b in zip(times["rank"], times["import_torch_and_timm"], strict=True)]
    numbers = {f"{name}_s_median": statistics.median(values) for name, values in times.items()}
    numbers |= {"beyond_imports_s_median": statistics.median(beyond), "beyond_imports_s_max": max(beyond)}
    numbers["rounds"] = options.rounds
    for name, value in numbers.items():
        print(f"{name:<34} {value:.3f}")
    print(f"written to {record('rank', numbers, options.out)}")


if __name__ == "__main__":
    main()
