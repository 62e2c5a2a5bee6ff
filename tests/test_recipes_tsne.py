"""Maps of patches: which patches, their classes, and that features decide who stands beside whom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vit import vit_file

from vitrail.contracts import Tokens
from vitrail.recipes import tsne as recipe
from vitrail.recipes.look import Seen
from vitrail.recipes.tsne import Wanted, draw_tsne, patch_classes, patches_of, tsne_page


def seen(grid: tuple[int, int], features: torch.Tensor) -> Seen:
    return Seen(Image.new("RGB", (80, 60), "gray"), Tokens(features[None, 0], features[None], grid))


def test_the_class_of_a_patch_is_that_of_most_of_its_pixels():
    mask = np.zeros((16, 24), np.uint8)
    mask[:8, 8:] = 3
    mask[8:, :8] = 255
    mask[8:12, 16:] = 7  # half of a patch: of ties the lowest
    mask[0:3, 0:3] = 9  # few
    assert patch_classes(mask, (2, 3)).tolist() == [0, 3, 3, -1, 0, 0]
    large = np.kron(mask, np.ones((5, 5), np.uint8))
    assert patch_classes(large, (2, 3)).tolist() == [0, 3, 3, -1, 0, 0]


def test_patches_are_grouped_by_class_or_by_image():
    pictures = [seen((1, 2), torch.randn(2, 4)), seen((2, 2), torch.randn(4, 4))]
    plain = patches_of(pictures, ["x.png", "y.png"])
    assert plain.groups.tolist() == plain.owners.tolist() == [0, 0, 1, 1, 1, 1]
    assert plain.numbers.tolist() == [0, 1, 0, 1, 2, 3]
    assert (plain.names, plain.neutral) == (["x.png", "y.png"], None)
    mask = np.kron(np.array([[2, 0], [255, 1]], np.uint8), np.ones((8, 8), np.uint8))
    some = patches_of(pictures, ["x.png", "y.png"], [None, mask])
    assert some.groups.tolist() == [-1, -1, 2, 0, -1, 1]
    assert (some.names, some.neutral) == (["no class", "class 1", "class 2"], 0)
    assert patches_of(pictures, [], [None, mask], classes=("cat", "dog", "cow")).names == ["no class", "cat", "dog"]


def test_similar_patches_stand_together(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {}
    drawing = recipe.point_map
    monkeypatch.setattr(
        recipe, "point_map", lambda *a, **how: told.update(layout=a[0], groups=a[1]) or drawing(*a, **how)
    )
    directions = torch.eye(8)[:2].repeat_interleave(30, 0) + 0.1 * torch.randn(60, 8)
    lengths = 10 ** (2 * torch.rand(60, 1) - 1)  # of no influence
    mask = np.zeros((60, 8), np.uint8)
    mask[:30], mask[30:] = 1, 2
    features = (directions * lengths)[:, :]
    tsne_page(patches_of([seen((60, 1), features)], ["x"], [mask]), Wanted(points=50, perplexity=8))
    layout, groups = told["layout"], torch.tensor(told["groups"])
    assert len(layout) == 50
    nearest = torch.cdist(layout, layout).fill_diagonal_(1e9).topk(5, largest=False).indices
    assert (groups[nearest] == groups[:, None]).float().mean() > 0.99


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, size in (("a", (64, 40)), ("b", (40, 48))):
        Image.effect_noise(size, 80).convert("RGB").save(folder / f"{name}.png")
    return folder


def test_a_map_of_image_files(photos: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(np.ones((40, 64), np.uint8)).save(masks / "a.png")
    wanted = Wanted(points=30, steps=20)
    weights = vit_file(tmp_path)
    plain, again = (
        Path(draw_tsne([photos], weights, tmp_path / name, wanted, device="cpu")[0]) for name in ("one", "two")
    )
    by_class = draw_tsne([photos], weights, tmp_path / "c", wanted._replace(masks=masks), device="cpu")
    other = draw_tsne([photos], weights, tmp_path / "o", wanted._replace(seed=1), device="cpu")
    assert plain.read_bytes() == again.read_bytes()
    assert plain.read_bytes() not in (by_class[0].read_bytes(), other[0].read_bytes())
    with pytest.raises(ValueError, match="--points 3 are too few"):
        draw_tsne([photos], weights, tmp_path / "n", Wanted(points=3), device="cpu")
    Image.fromarray(np.ones((4, 6), np.uint8)).save(masks / "a.png")
    with pytest.raises(ValueError, match=r"mask \(4, 6\) and image \(40, 64\) of .*a.png differ"):
        draw_tsne([photos], weights, tmp_path / "n", wanted._replace(masks=masks), device="cpu")
    with pytest.raises(ValueError, match=r"holds no mask of 2 images, such as a.png"):
        draw_tsne([photos], weights, tmp_path / "n", wanted._replace(masks=tmp_path), device="cpu")
    with pytest.raises(ValueError, match="no folder of masks"):
        draw_tsne([photos], weights, tmp_path / "n", wanted._replace(masks=tmp_path / "none"), device="cpu")
    assert not (tmp_path / "n").exists()


def test_too_few_patches(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 patches are too few"):
        tsne_page(patches_of([seen((1, 2), torch.randn(2, 4))], ["x"]), Wanted())
