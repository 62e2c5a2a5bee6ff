"""What every localizer promises, of each one that `vitrail list localizers` names.

How a localizer is opened stands in its own test module, `tests/test_localizers_NAME.py`: a table `OPENINGS` with a word
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
from vitrail.contracts import Localizer
from vitrail.localizers import open_localizer

NAMES = [entry.name for entry in catalog.localizers()]
NEEDS_WEIGHTS = [name for name in NAMES if name not in ("whole_image", "centered_box", "ranker")]


def openings(name: str) -> dict[str, Callable[[Path], dict[str, Any]]]:
    module = f"test_localizers_{name}"
    if importlib.util.find_spec(module) is None:
        return {}
    return getattr(importlib.import_module(module), "OPENINGS", {})


CASES = [(name, word) for name in NAMES for word in openings(name)]
READS_NO_PIXELS = [case for case in CASES if case[0] in ("whole_image", "centered_box") or case == ("ranker", "center")]


@pytest.mark.parametrize("name", NAMES)
def test_every_localizer_says_how_it_is_opened(name: str) -> None:
    assert openings(name), (
        f"tests/test_localizers_{name}.py has no table OPENINGS, so nothing checks that the localizer {name} keeps the "
        "contract; see the head of tests/test_localizers.py"
    )


@pytest.fixture(scope="module", params=CASES, ids=[" ".join(case) for case in CASES])
def localizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    name, word = request.param
    return open_localizer(name, **openings(name)[word](tmp_path_factory.mktemp(name)))


def images(localizer: Localizer, batch: int = 3, times: int = 1, seed: int = 0) -> Tensor:
    """Images of the localizer's own size, or so many times as wide."""
    height, width = localizer.image_size
    return torch.randn(batch, 3, height, width * times, generator=torch.Generator().manual_seed(seed))


def test_ready_to_use(localizer: Any) -> None:
    assert isinstance(localizer, nn.Module)
    assert isinstance(localizer, Localizer)
    assert not localizer.training
    assert not any(value.requires_grad for value in localizer.parameters())
    assert len(localizer.mean) == len(localizer.std) == 3
    assert all(side > 0 for side in localizer.image_size)


@pytest.mark.parametrize("times", [1, 2])
def test_a_finite_map_of_each_image(localizer: Any, times: int) -> None:
    x = images(localizer, times=times)
    before = x.clone()
    maps, logits = localizer(x)
    assert maps.ndim == 3
    assert len(maps) == 3
    assert all(1 <= side <= most for side, most in zip(maps.shape[1:], x.shape[2:]))
    assert maps.is_floating_point()
    assert maps.isfinite().all()
    assert not maps.requires_grad
    if logits is None:
        assert localizer.classes is None
    else:
        assert logits.shape[0] == 3
        assert logits.isfinite().all()
        assert localizer.classes is None or len(localizer.classes) == logits.shape[1]
    assert torch.equal(x, before)
    assert torch.equal(localizer(x).maps, maps)
    with torch.inference_mode():
        torch.testing.assert_close(localizer(x).maps, maps)


def test_a_map_does_not_depend_on_the_batch(localizer: Any) -> None:
    x = torch.cat((images(localizer), 5 * images(localizer, 1, seed=1)))
    maps, logits = localizer(x)
    for index in range(len(x)):
        alone = localizer(x[index : index + 1])
        torch.testing.assert_close(alone.maps[0], maps[index], atol=1e-5, rtol=1e-4)
        if logits is not None:
            torch.testing.assert_close(alone.logits[0], logits[index], atol=1e-5, rtol=1e-4)


def test_labels_choose_the_class_or_are_passed_over(localizer: Any) -> None:
    x = images(localizer)
    maps, logits = localizer(x)
    if logits is None:
        assert torch.equal(localizer(x, labels=torch.tensor([1, 0, 2])).maps, maps)
        return
    torch.testing.assert_close(localizer(x, labels=logits.argmax(1)).maps, maps)


def test_chance_is_left_alone(localizer: Any) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    localizer(images(localizer))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_no_batch_of_images_is_told(localizer: Any) -> None:
    with pytest.raises(ValueError, match=r"a list of 2, .*; a localizer reads one tensor"):
        localizer([torch.zeros(3, 32, 32), torch.zeros(3, 40, 32)])
    with pytest.raises(ValueError, match=r"of torch.uint8; a localizer reads floats \[B, 3, H, W\]"):
        localizer(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


def test_nan_pixels_are_told_by_what_reads_pixels(localizer: Any, request: pytest.FixtureRequest) -> None:
    x = images(localizer)
    clean = localizer(x).maps
    x[1] = torch.nan
    if request.node.callspec.params["localizer"] in READS_NO_PIXELS:
        assert torch.equal(localizer(x).maps, clean)
        return
    with pytest.raises(ValueError, match=r"image 1 of the batch (is|are) NaN or infinite|run from nan to nan"):
        localizer(x)


@pytest.mark.parametrize("name", NEEDS_WEIGHTS)
def test_missing_weights(name: str) -> None:
    with pytest.raises(ValueError, match=rf"the localizer {name} needs weights: give .*`whole_image` and"):
        open_localizer(name)
    with pytest.raises(ValueError, match=r"there is no file of weights at /nowhere\.pth"):
        open_localizer(name, "/nowhere.pth")


@pytest.mark.parametrize(("name", "word"), CASES, ids=[" ".join(case) for case in CASES])
def test_variants_and_settings_that_are_not_there_are_refused(name: str, word: str, tmp_path: Path) -> None:
    given = openings(name)[word](tmp_path)
    with pytest.raises(
        ValueError, match=rf"the localizer {name} has no variants?.*'no such'|there is no ranker 'no such'"
    ):
        open_localizer(name, **(given | {"variant": "no such"}))
    with pytest.raises(ValueError, match=rf"the localizer {name} has no setting 'colour'; it has"):
        open_localizer(name, **given, colour=1)
