"""What is logged of each attention head, against plain loops."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny_vit import tiny_vit

from vitrail.data import EvalTransformConfig, SyntheticScenes, build_eval_transform
from vitrail.ops.spatial_entropy import spatial_entropy
from vitrail.recipes.attention_numbers import AttentionConfig, attention_numbers, entropy_by_head, sums_by_head
from vitrail.recipes.run import together
from vitrail.recipes.sources import open_splits
from vitrail.recipes.start import seen_by
from vitrail.train import Ranks

SCENES = SyntheticScenes(11, image_size=32, classes=4, split="val")
SEEN = EvalTransformConfig(image_size=32)
ALONE = Ranks(0, 1, torch.device("cpu"))


def by_loop(scores: np.ndarray) -> tuple[float, int]:
    """Spatial entropy and number of blobs of one map `[Y, X]`, as the paper has them."""
    rest = np.maximum(scores - scores.mean(), 0)
    labels, count = ndimage.label(scores > scores.mean(), np.ones((3, 3)))
    shares = [rest[labels == label].sum() / rest.sum() for label in range(1, count + 1)]
    return -sum(share * np.log(share) for share in shares), count


@pytest.mark.parametrize("shape", [(4, 3, 14, 14), (2, 6, 7, 7), (3, 1, 5, 9)])
def test_sums_are_those_of_a_loop_over_images_and_heads(shape: tuple[int, ...]) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = sums_by_head(scores)
    assert (found.shape, found.dtype) == ((2, shape[1]), torch.float64)
    for head in range(shape[1]):
        wanted = [by_loop(one.double().numpy()) for one in scores[:, head]]
        np.testing.assert_allclose(found[:, head], np.sum(wanted, 0), rtol=1e-6)


def test_a_head_that_sees_nothing_has_no_blob() -> None:
    assert sums_by_head(torch.full((5, 2, 7, 7), 0.1)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("images", [4, 256])
def test_numbers_of_a_backbone(images: int) -> None:
    backbone = tiny_vit()
    evaluate = entropy_by_head(backbone, SCENES, SEEN, AttentionConfig(images=images), 0, ALONE)
    assert evaluate is not None
    numbers = evaluate()
    chosen = [number * 11 // 4 for number in range(4)] if images == 4 else range(11)
    pixels = torch.stack([build_eval_transform(SEEN)(SCENES[index].image) for index in chosen])
    scores = backbone(pixels, scores=(-1,)).scores[-1]
    for head in range(3):
        found = [by_loop(one.double().numpy()) for one in scores[:, head]]
        assert numbers[f"spatial_entropy_head_{head}"] == pytest.approx(np.mean([nats for nats, _ in found]), rel=1e-4)
        assert numbers[f"blobs_head_{head}"] == np.mean([count for _, count in found])
    assert numbers["spatial_entropy"] == pytest.approx(float(spatial_entropy(scores).mean()), rel=1e-4)
    assert numbers["blobs"] == pytest.approx(np.mean([numbers[f"blobs_head_{head}"] for head in range(3)]))
    assert len(numbers) == 8


def test_nothing_is_measured_where_attention_cannot_be_read_or_is_not_wanted() -> None:
    backbone = tiny_vit()
    assert entropy_by_head(backbone, SCENES, SEEN, AttentionConfig(images=0), 0, ALONE) is None
    backbone._closed[2] = "its attention is of another kind"
    assert entropy_by_head(backbone, SCENES, SEEN, AttentionConfig(), 0, ALONE) is None


class _Both(Ranks):
    """A rank whose other one has sent something."""

    other: tuple[torch.Tensor | None, int] = (None, 0)

    def gather(self, value: object) -> list[object]:
        return [value, self.other]


def test_ranks_count_by_their_images() -> None:
    scores = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(2))
    whole = attention_numbers(sums_by_head(scores), 5, ALONE)
    ranks = _Both(0, 2, torch.device("cpu"))
    ranks.other = (sums_by_head(scores[1:]), 4)
    assert attention_numbers(sums_by_head(scores[:1]), 1, ranks) == pytest.approx(whole)
    ranks.other = (None, 0)  # fewer images than ranks
    assert attention_numbers(sums_by_head(scores), 5, ranks) == whole
    assert attention_numbers(None, 0, ranks) == {}


def test_measures_together() -> None:
    assert together(None, None) is None
    both = together(lambda: {"a": 1.0}, None, lambda: {"b": 2.0})
    assert both is not None
    assert both() == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize("name", ["scenes", "scenes_dino"])
def test_runs_log_what_their_exported_backbone_shows(name: str) -> None:
    """A classifier over the images that it is scored on, DINO's teacher over the first of its setting."""
    module = importlib.import_module(f"vitrail.recipes.{'supervised' if name == 'scenes' else 'dino'}")
    size = "augment.image_size=24" if name == "scenes" else "views.global_size=24"
    settings = [size, "data.scenes.image_size=24", "data.scenes.count=32", "data.scenes.val_count=20"]
    settings += ["train.global_batch_size=16", "backbone.embed_dim=24", "backbone.depth=2", "backbone.heads=2"]
    settings += [] if name == "scenes" else ["backbone.patch_size=4", "views.local_size=12", "attention.images=8"]
    recipe = getattr(module, name)().override(settings)
    made = module.build(recipe, 0, 1)
    made.method.eval()
    shown = made.method.backbone if name == "scenes" else made.method.teacher
    with torch.no_grad():
        for value in shown.parameters():
            value.add_(torch.randn_like(value) * 0.3)  # not the student any more
    data, seen = open_splits(recipe.data).val, seen_by(shown, 24)
    images = AttentionConfig(images=8 if "dino" in name else 20)
    alone = entropy_by_head(shown, data, seen, images, 0, ALONE)
    assert alone is not None
    wanted, found = alone(), made.evaluate()
    assert set(found) == {"top1" if name == "scenes" else "knn_top1", *wanted}
    assert {key: found[key] for key in wanted} == pytest.approx(wanted, rel=1e-5)
    assert len(wanted) == 2 * (1 + 2)
