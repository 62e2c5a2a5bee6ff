"""LocLoc and PPD as localizers: the contract, files and back, parts that are missing, how often the backbone runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_methods_locloc import CLASSES, make
from tiny_vit import images, vit_file

from vitrail.backbones import load, load_part, save_exported
from vitrail.contracts import Localizer
from vitrail.localizers import locloc, ppd
from vitrail.localizers.locloc import LocLoc
from vitrail.localizers.ppd import Ppd
from vitrail.rankers.source import Source

ROOMS: dict[str, Any] = {"locloc": locloc, "ppd": ppd}


def saved(name: str, folder: Path, **config: Any) -> tuple[Any, str]:
    method = make(name, **config).eval()
    if method.localizer.generator is not None:  # averages that are not those of fresh weights
        for value in method.localizer.generator.buffers():
            if value.is_floating_point():
                value.add_(0.1)
    save_exported(method.export(), folder / "run.safetensors")
    return method, str(folder / "run.safetensors")


OPENINGS = {
    "both parts": lambda folder: {"weights": saved("locloc", folder)[1]},
    "a generator alone": lambda folder: {"weights": saved("locloc", folder, parts="generator")[1]},
}


@pytest.mark.parametrize("name", ["locloc", "ppd"])
class TestBoth:
    def test_what_is_exported_locates_alike(self, name: str, tmp_path: Path) -> None:
        method, path = saved(name, tmp_path)
        opened = ROOMS[name].from_source(Source(path)).eval()
        assert isinstance(opened, Localizer)
        assert (opened.classes, opened.image_size) == (CLASSES, (32, 32))
        assert tuple(opened.mean) == tuple(method.backbone.mean)
        expected, found = method.localizer(images()), opened(images())
        assert torch.equal(expected.maps, found.maps)
        assert torch.equal(expected.logits, found.logits)
        assert found.maps.dtype == found.logits.dtype == torch.float32
        assert found.maps.isfinite().all()
        assert found.logits.shape == (3, 3)
        assert torch.equal(opened.class_logits(images()), found.logits)

    def test_an_image_does_not_depend_on_the_others_nor_on_labels(self, name: str) -> None:
        localizer = make(name).eval().localizer
        whole = localizer(images())
        for row, each in enumerate(images()):
            alone = localizer(each[None], labels=torch.tensor([2]))
            assert torch.allclose(alone.maps[0], whole.maps[row], atol=1e-5)
            assert torch.allclose(alone.logits[0], whole.logits[row], atol=1e-5)

    def test_the_backbone_is_read_by_everyone(self, name: str, tmp_path: Path) -> None:
        method, path = saved(name, tmp_path)
        backbone = load(path).eval()
        assert torch.equal(backbone(images()).patches, method.backbone(images()).patches)

    def test_other_sizes_of_images(self, name: str, tmp_path: Path) -> None:
        _, path = saved(name, tmp_path)
        opened = ROOMS[name].from_source(Source(path, image_size=48)).eval()
        assert opened.image_size == (48, 48)
        found = opened(images(height=48, width=40))
        assert found.maps.shape == ((3, 48, 40) if name == "locloc" else (3, 24, 24))

    def test_a_generator_alone_locates_and_does_not_classify(self, name: str, tmp_path: Path) -> None:
        _, path = saved(name, tmp_path, parts="generator", classes=None)
        opened = ROOMS[name].from_source(Source(path)).eval()
        assert opened(images()).logits is None
        assert opened.class_logits(images()) is None
        assert opened.classes is None

    def test_a_classifier_alone_does_not_locate(self, name: str, tmp_path: Path) -> None:
        method, path = saved(name, tmp_path, parts="classifier")
        with pytest.raises(ValueError, match=f"holds no {name}_generator beside the backbone, and {name} needs it"):
            ROOMS[name].from_source(Source(path))
        with pytest.raises(ValueError, match="without its generator, which makes the maps; train one"):
            method.localizer(images())
        assert method.localizer.class_logits(images()).shape == (3, 3)

    def test_refusals(self, name: str, tmp_path: Path) -> None:
        from_source = ROOMS[name].from_source
        with pytest.raises(ValueError, match=f"the localizer {name} needs weights: give a run of"):
            from_source(Source())
        with pytest.raises(ValueError, match=f"the localizer {name} has no variants; leave 'best' out"):
            from_source(Source("x", variant="best"))
        with pytest.raises(ValueError, match=f"holds no {name}_generator beside the backbone"):
            from_source(Source(vit_file(tmp_path)))

    def test_a_file_that_does_not_fit_is_refused(self, name: str, tmp_path: Path) -> None:
        method, path = saved(name, tmp_path)
        exported = method.export()
        del exported.state[next(key for key in exported.state if key.startswith(f"{name}_generator."))]
        save_exported(exported, tmp_path / "run.safetensors")
        with pytest.raises(ValueError, match="does not fit this"):
            ROOMS[name].from_source(Source(path))


def test_what_stands_in_a_file(tmp_path: Path) -> None:
    _, path = saved("locloc", tmp_path, generator={"wiring": "released"})
    part = load_part(path, locloc.PART)
    assert part is not None
    assert (part.config["wiring"], part.config["features"]) == ("released", 24)
    assert locloc.from_source(Source(path)).generator.unet.wiring == "released"  # type: ignore[union-attr]
    classifier = load_part(path, locloc.CLASSIFIER)
    assert classifier is not None
    assert classifier.config == {"relu": False, "classes": 3}


def test_the_crop_of_ppd_is_kept_in_its_file(tmp_path: Path) -> None:
    _, path = saved("ppd", tmp_path)
    assert ppd.from_source(Source(path)).crop == 1.0


def calls(localizer: Any, given: torch.Tensor) -> dict[str, int]:
    """How often embedding, frozen blocks, generator and classifier run for one batch."""
    parts = {
        "embedding": localizer.backbone.vit.patch_embed,
        "frozen blocks": localizer.backbone.vit.blocks[-1],
        "generator": localizer.generator,
        "classifier": localizer.classifier,
    }
    counted = dict.fromkeys(parts, 0)
    handles = []
    for name, part in parts.items():

        def note(*_: Any, name: str = name) -> None:
            counted[name] += 1

        handles.append(part.register_forward_hook(note))
    localizer(given)
    for handle in handles:
        handle.remove()
    return counted


def test_three_computations_and_four() -> None:
    three, four = calls(make("locloc").eval().localizer, images()), calls(make("ppd").eval().localizer, images())
    assert three == {"embedding": 1, "frozen blocks": 1, "generator": 1, "classifier": 1}
    assert four == {"embedding": 2, "frozen blocks": 2, "generator": 1, "classifier": 1}


@pytest.mark.parametrize(
    ("size", "crop", "expected"),
    [((64, 64), 0.875, (56, 56)), ((32, 64), 0.875, (32, 56)), ((32, 32), 0.1, (8, 8)), ((32, 32), 1.0, (32, 32))],
)
def test_the_middle_holds_whole_patches(size: tuple[int, int], crop: float, expected: tuple[int, int]) -> None:
    made = Ppd(make("ppd").backbone, None, crop=crop)
    given = torch.randn(1, 3, *size)
    middle = made.middle(given)
    assert middle.shape[-2:] == expected
    top, left = ((a - b) // 2 for a, b in zip(size, expected))
    assert torch.equal(middle, given[..., top : top + expected[0], left : left + expected[1]])


def test_locloc_without_a_generator_or_classifier_is_no_error_until_it_is_asked() -> None:
    made = LocLoc(make("locloc").backbone, None)
    with pytest.raises(ValueError, match="hold LocLoc's classifier without its generator"):
        made(images())
