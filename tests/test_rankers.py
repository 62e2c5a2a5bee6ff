"""What every ranker promises, of each one that `vitrail list rankers` names.

How a ranker is opened stands in its own test module, `tests/test_rankers_NAME.py`: a table `OPENINGS` with a word
for each way (its variants, say) and a function that makes a tiny file in a folder and returns what to open it with.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitrail import catalog
from vitrail.contracts import Ranker
from vitrail.ops.selection import select
from vitrail.rankers import open_ranker

NAMES = [entry.name for entry in catalog.rankers()]
WITHOUT_WEIGHTS = ("random", "center")


def openings(name: str) -> dict[str, Callable[[Path], dict[str, Any]]]:
    module = f"test_rankers_{name}"
    if importlib.util.find_spec(module) is None:
        return {}
    return getattr(importlib.import_module(module), "OPENINGS", {})


CASES = [(name, word) for name in NAMES for word in openings(name)]


@pytest.mark.parametrize("name", NAMES)
def test_every_ranker_says_how_it_is_opened(name: str) -> None:
    assert openings(name), (
        f"tests/test_rankers_{name}.py has no table OPENINGS, so nothing checks that the ranker {name} keeps the "
        "contract; see the head of tests/test_rankers.py"
    )


@pytest.fixture(scope="module", params=CASES, ids=[" ".join(case) for case in CASES])
def ranker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    name, word = request.param
    return open_ranker(name, **openings(name)[word](tmp_path_factory.mktemp(name)))


def images(ranker: Ranker, batch: int = 3, wider: int = 0, seed: int = 0) -> Tensor:
    """Images of the ranker's own size, or `wider` by so many patches."""
    (height, width), (_, step) = ranker.image_size, ranker.patch_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, height, width + wider * step, generator=generator)


def number_for(ranker: Ranker, x: Tensor) -> int | None:
    rows, columns = grid_of(ranker, x)
    return rows * columns // 2 if ranker.needs_number else None


def grid_of(ranker: Ranker, x: Tensor) -> tuple[int, int]:
    return x.shape[2] // ranker.patch_size[0], x.shape[3] // ranker.patch_size[1]


def test_ready_to_use(ranker: Any) -> None:
    assert isinstance(ranker, nn.Module)
    assert isinstance(ranker, Ranker)
    assert not ranker.training
    assert not any(value.requires_grad for value in ranker.parameters())
    assert len(ranker.mean) == len(ranker.std) == 3
    assert [side % step for side, step in zip(ranker.image_size, ranker.patch_size)] == [0, 0]


@pytest.mark.parametrize("wider", [0, 2])
def test_one_finite_score_for_each_patch(ranker: Any, wider: int) -> None:
    x = images(ranker, wider=wider)
    before = x.clone()
    scores = ranker(x, number=number_for(ranker, x))
    assert scores.shape == (3, *grid_of(ranker, x))
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert not scores.requires_grad
    assert torch.equal(x, before)
    assert torch.equal(ranker(x, number=number_for(ranker, x)), scores)
    with torch.inference_mode():
        torch.testing.assert_close(ranker(x, number=number_for(ranker, x)), scores)


def test_scores_of_an_image_do_not_depend_on_the_batch(ranker: Any) -> None:
    x = torch.cat((images(ranker), 5 * images(ranker, 1, seed=1)))
    number = number_for(ranker, x)
    together = ranker(x, number=number)
    for index in range(len(x)):
        alone = ranker(x[index : index + 1], number=number)[0]
        torch.testing.assert_close(alone, together[index], atol=1e-5, rtol=1e-4)


def test_chance_comes_from_the_generator_alone(ranker: Any) -> None:
    x = images(ranker)
    number = number_for(ranker, x)
    one, other = (ranker(x, number=number, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == ranker(x, number=number).shape
    assert one.isfinite().all()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    ranker(x, number=number)
    assert torch.equal(torch.get_rng_state(), state)


def test_exactly_k_patches_for_every_k(ranker: Any) -> None:
    x = images(ranker, 2)
    rows, columns = grid_of(ranker, x)
    scores = None
    for number in range(1, rows * columns + 1):
        if scores is None or ranker.needs_number:
            scores = ranker(x, number=number)
        ids = select(scores, number)
        assert ids.shape == (2, number)
        assert (ids.diff(dim=1) > 0).all()
        assert ids.min() >= 0
        assert ids.max() < rows * columns


def test_sizes_that_are_no_whole_patches(ranker: Any) -> None:
    x = images(ranker, 1)
    for cut in (x[..., :-1], x[..., :-1, :]):
        with pytest.raises(ValueError, match="is not a multiple of the patch size"):
            ranker(cut, number=number_for(ranker, x))


def test_a_number_that_is_needed(ranker: Any) -> None:
    x = images(ranker, 1)
    if not ranker.needs_number:
        assert torch.equal(ranker(x, number=3), ranker(x))
        return
    rows, columns = grid_of(ranker, x)
    for number in (None, 0, rows * columns + 1):
        with pytest.raises(ValueError, match=r"number|are to be kept of"):
            ranker(x, number=number)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_WEIGHTS])
def test_missing_weights(name: str) -> None:
    with pytest.raises(ValueError, match=rf"the ranker {name} needs weights: give .*offline nothing can be d"):
        open_ranker(name)
    with pytest.raises(ValueError, match=r"there is no file of weights at /nowhere\.pth"):
        open_ranker(name, "/nowhere.pth")


def test_nan_pixels_are_told_not_ranked(ranker: Ranker, request: pytest.FixtureRequest) -> None:
    """By the ranker, or by `select`, which refuses scores that are NaN."""
    if request.node.callspec.params["ranker"][0] in WITHOUT_WEIGHTS:
        pytest.skip("reads no pixels as numbers")
    x = images(ranker)
    x[1] = torch.nan
    with torch.no_grad(), pytest.raises(ValueError, match=r"NaN|nan"):
        select(ranker(x, number=number_for(ranker, x)), 3)


@pytest.mark.parametrize(("name", "word"), CASES, ids=[" ".join(case) for case in CASES])
def test_a_variant_that_is_not_there_is_refused(name: str, word: str, tmp_path: Path) -> None:
    given = openings(name)[word](tmp_path) | {"variant": "no such"}
    with pytest.raises(ValueError, match=rf"the ranker {name} has no variants?.*'no such'"):
        open_ranker(name, **given)
