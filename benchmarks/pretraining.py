"""What is learned without labels: MAE, DINO, iBOT and MoCo-v3 on generated scenes, with random masks and with DPPMask.

    python benchmarks/pretraining.py [--seeds 0 1 2] [--runs FOLDER] [--out FILE.json]

Each seed gives other scenes, weights and order, the same for all models. k-NN is the library's protocol on all scenes,
of the class token and of the mean patch token; beside it the untrained network's. MAE's loss says nothing about the
class token. Several calls on the same folder, each with seeds of its own, may run side by side; the last one, with all
seeds, gathers. Alignment and diversity are those of the trained network under the masks of
`evaluation/alignment_diversity`; attention Jaccard and spatial entropy, of the last block, those of held-out scenes.
What was interrupted goes on, what is finished is measured alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from over_seeds import summary
from record import record

from vitrail.backbones import TimmViT, load
from vitrail.config import Config
from vitrail.data import EvalTransformConfig, build_eval_transform, ordered_batches
from vitrail.evaluation import alignment_diversity, attention_jaccard, knn
from vitrail.evaluation.features import FeatureConfig
from vitrail.ops.spatial_entropy import spatial_entropy
from vitrail.recipes.dino import scenes_dino, scenes_dino_sar
from vitrail.recipes.ibot import scenes_ibot, scenes_ibot_dpp
from vitrail.recipes.mae import PATCHES, scenes_mae, scenes_mae_dpp
from vitrail.recipes.mocov3 import scenes_mocov3, scenes_mocov3_sar
from vitrail.recipes.run import Verbs, family_of, run
from vitrail.recipes.sources import scenes
from vitrail.train import seed_everything

FEATURES = {"knn20_cls": FeatureConfig(), "knn20_mean_patch": PATCHES}


def recipes() -> dict[str, Any]:
    """The models, by name."""
    return {
        "mae": scenes_mae(),
        "mae_dpp_tau0.9": scenes_mae_dpp(),
        "mae_dpp_tau0.5": scenes_mae_dpp().override(["method.mask.tau=0.5"]),
        "dino": scenes_dino(),
        "dino_sar": scenes_dino_sar(),
        "mocov3": scenes_mocov3(),
        "mocov3_sar": scenes_mocov3_sar(),
        "ibot": scenes_ibot(),
        "ibot_dpp_tau0.9": scenes_ibot_dpp(),
        "ibot_dpp_tau0.5": scenes_ibot_dpp().override(["method.mask.tau=0.5"]),
    }


def knn_of(backbone: TimmViT, recipe: Any, features: FeatureConfig) -> float:
    """Top-1 in percent, 20 neighbors."""
    splits = scenes(recipe.data.scenes)
    side = recipe.data.scenes.image_size
    config = knn.KnnConfig(k=(20,), features=features, transform=EvalTransformConfig(image_size=side))
    return knn.evaluate(backbone, splits.train, splits.val, config).numbers["knn20_top1"]


@torch.no_grad()
def attention_of(backbone: TimmViT, recipe: Any) -> dict[str, float]:
    """Attention Jaccard in percent, and the mean spatial entropy of the last block's heads in nats."""
    val, side = scenes(recipe.data.scenes).val, recipe.data.scenes.image_size
    asked = attention_jaccard.JaccardConfig(image_size=side)
    transform = build_eval_transform(EvalTransformConfig(image_size=side, mean=backbone.mean, std=backbone.std))
    batches = ordered_batches(val, transform, 100)
    entropies = [spatial_entropy(backbone(batch.images, scores=(-1,)).scores[-1]) for batch in batches]
    jaccard = attention_jaccard.evaluate(backbone, val, asked).numbers["jaccard"]
    return {"jaccard": jaccard, "spatial_entropy": torch.cat(entropies).mean().item()}


def measure(name: str, recipe: Config, seed: int, runs: Path) -> dict[str, Any]:
    """Train one model and measure it, and its untrained self; what was measured stays in its run folder."""
    config: Any = recipe.override([f"train.seed={seed}", f"data.scenes.seed={seed}"])
    folder = runs / f"{name}-{seed}"
    kept = folder / "measured.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    seed_everything(seed)
    untrained = family_of(config).build(config, 0, 1).method.backbone.eval()
    before = {f"{which}_untrained": knn_of(untrained, config, features) for which, features in FEATURES.items()}
    before |= {f"{which}_untrained": value for which, value in attention_of(untrained, config).items()}
    resume = (folder / "checkpoints" / "last.pt").is_file()
    outcome = run(config, Verbs(resume=resume, overwrite=not resume), folder)
    trained = load(str(folder)).eval()
    side = config.data.scenes.image_size
    asked = alignment_diversity.AlignmentConfig(taus=(0.5, 0.9, 1.0), transform=EvalTransformConfig(image_size=side))
    masks = alignment_diversity.evaluate(trained, scenes(config.data.scenes).val, asked).numbers
    found = {
        **{which: knn_of(trained, config, features) for which, features in FEATURES.items()},
        **attention_of(trained, config),
        **before,
        "seconds": outcome.seconds,
        "images_per_second": outcome.images_per_second,
        "data_wait": outcome.data_wait,
        "loss": outcome.losses["train/loss"],
        **masks,
    }
    kept.write_text(json.dumps(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", default=list(recipes()))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=Path, default=Path("runs/pretraining"))
    parser.add_argument("--out", default=None, help="path of the JSON, by default under benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in options.models}
    for seed in options.seeds:
        for name in options.models:
            found[name].append(measure(name, recipes()[name], seed, options.runs))
            row = found[name][-1]
            words = [f"{which} {row[f'{which}_untrained']:.1f} -> {row[which]:.1f}" for which in FEATURES]
            print(f"{name} {seed}: {', '.join(words)}", flush=True)
    numbers = {"threads": options.threads, "models": {name: summary(rows) for name, rows in found.items()}}
    print(f"written to {record('pretraining', numbers, options.out)}")


if __name__ == "__main__":
    main()
