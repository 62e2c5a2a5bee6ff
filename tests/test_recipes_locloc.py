"""Recipes of LocLoc and PPD: what comes first, what is kept, published values, numbers and pictures, refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from object_scenes import squares
from PIL import Image

from vitrail import train as training
from vitrail.backbones import load, load_part, save_exported
from vitrail.config import ConfigError
from vitrail.contracts import Located, Step
from vitrail.data import EvalTransformConfig
from vitrail.data.mask_writer import MaskWriter
from vitrail.data.object_masks import ObjectMasks
from vitrail.localizers import locloc as locloc_files
from vitrail.localizers import ppd as ppd_files
from vitrail.rankers.source import Source
from vitrail.recipes import locloc, ppd, two_parts
from vitrail.recipes.localization_probe import box_of, drawing_located, localization_probe
from vitrail.recipes.run import Verbs, describe, prepare, resolve, run
from vitrail.train import Ranks, RunFolder

BACKBONE = ["backbone.embed_dim=24", "backbone.depth=2", "backbone.heads=2", "backbone.patch_size=8"]
IMAGES = ["data.scenes.count=32", "data.scenes.val_count=8", "data.scenes.image_size=32"]
SETTINGS = [
    *BACKBONE,
    *IMAGES,
    "stage1.augment.image_size=32",
    "stage1.train.epochs=1",
    "stage1.train.global_batch_size=16",
    "stage1.train.warmup_epochs=0",
    "views.image_size=32",
    "mask_settings.size=32",
    "mask_settings.heads=[0, 1]",
    "train.epochs=1",
    "train.global_batch_size=16",
    "train.warmup_epochs=0",
]
GENERATOR_FIRST = [
    "generator_train.epochs=1",
    "generator_train.global_batch_size=16",
    "generator_train.warmup_epochs=0",
    "generator_train.learning_rate=1e-3",
]


def tiny(*settings: str, recipe: str = "scenes_locloc") -> Any:
    return resolve(recipe).override([*SETTINGS, *settings])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained its first stage, made masks, and trained the generator and then the classifier."""
    folder = tmp_path_factory.mktemp("runs") / "locloc"
    run(tiny(*GENERATOR_FIRST), Verbs(), folder)
    return folder


@pytest.fixture(scope="module")
def start(trained: Path) -> list[str]:
    """Settings of a run that uses the first one's backbone and masks."""
    return [f"init_from={trained / 'stage1'}", f"object_masks={trained / 'object_masks'}"]


def numbers(folder: Path) -> dict[str, float]:
    told: dict[str, float] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        told |= json.loads(line)
    return told


class TestARun:
    def test_what_it_leaves(self, trained: Path) -> None:
        localizer = locloc_files.from_source(Source(str(trained)))
        assert localizer.classifier is not None
        assert localizer.classes is not None
        assert len(localizer.classes) == 8
        assert len(ObjectMasks.open(trained / "object_masks")) == 32
        assert {"train/cross_entropy", "val/top1", "val/gt_known_50", "val/floor_whole_50"} <= set(numbers(trained))
        assert "train/segmentation" not in numbers(trained)
        assert {path.name for path in (trained / "pictures").glob("*.png")} == {
            "located_before.png",
            "located_after.png",
        }

    def test_the_generator_is_that_of_its_own_training(self, trained: Path) -> None:
        assert "train/segmentation" in numbers(trained / "generator")
        assert load_part(trained / "generator", locloc_files.CLASSIFIER) is None
        first, last = (load_part(folder, locloc_files.PART) for folder in (trained / "generator", trained))
        assert first is not None
        assert last is not None
        assert all(torch.equal(value, last.state[name]) for name, value in first.state.items())

    def test_the_backbone_rests(self, trained: Path) -> None:
        first, last = (load(weights=folder).state_dict() for folder in (trained / "stage1", trained))
        assert all(torch.equal(value, last[name]) for name, value in first.items())

    def test_the_masks_to_learn_from_are_told_of_once(self, trained: Path) -> None:
        said = rf"enhanced masks in {re.escape(str(trained / 'object_masks'))} cover \d+ % of their image on average"
        assert len(re.findall(said, (trained / "log.txt").read_text())) == 1

    def test_stage1_is_of_the_same_images_and_network(self, trained: Path) -> None:
        stage1 = resolve(str(trained / "stage1" / "config.yaml"))
        assert stage1.data == tiny().data  # type: ignore[attr-defined]
        assert load(weights=trained / "stage1").depth == 2

    def test_it_goes_on_without_what_came_first(self, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(two_parts, "make_object_masks", lambda *_, **__: pytest.fail("made again"))
        config, _ = prepare("scenes_locloc", [], Verbs(extend=2), trained)
        assert run(config, Verbs(extend=2), trained).steps == 4


def test_both_parts_together(start: list[str], tmp_path: Path) -> None:
    run(tiny(*start, recipe="scenes_ppd"), Verbs(), tmp_path / "run")
    told = numbers(tmp_path / "run")
    assert {"train/segmentation", "train/cross_entropy", "train/top1", "val/top1", "val/gt_known_50"} <= set(told)
    found = ppd_files.from_source(Source(str(tmp_path / "run"))).eval()(torch.randn(2, 3, 32, 32))
    assert found.logits is not None
    assert found.logits.shape == (2, 8)
    assert found.maps.shape == (2, 16, 16)


def test_locloc_trains_both_together_by_default(start: list[str]) -> None:
    parts = locloc.build(tiny(*start), 0, 1)
    (given,) = next(parts.loader.batches(0, 1))
    assert [view.shape[1:] for view in (given.images, *given.views)] == [(3, 32, 32), (1, 32, 32), (3, 32, 32)]
    assert set(parts.method.training_step(given, Step(0, 1)).parts) == {"segmentation", "cross_entropy", "top1"}


@pytest.mark.parametrize(("recipe", "which"), [("scenes_locloc", "enhanced"), ("scenes_ppd", "plain")])
def test_which_masks_are_learned_from(recipe: str, which: str, trained: Path, start: list[str]) -> None:
    made = ObjectMasks.open(trained / "object_masks")
    differ = [place for place in range(len(made)) if (made[place].enhanced != made[place].plain).any()]
    assert differ
    data: Any = {"scenes_locloc": locloc, "scenes_ppd": ppd}[recipe].build(tiny(*start, recipe=recipe), 0, 1).loader
    for place in differ[:4]:
        assert (data.data[place].mask.astype(bool) == getattr(made[place], which)).all()


def test_masks_are_made_by_the_weights_that_are_named_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(two_parts, "load", lambda _, weights: asked.append(weights))
    monkeypatch.setattr(two_parts, "need_vit", lambda found, _: found)
    monkeypatch.setattr(two_parts, "make_object_masks", lambda *_, **__: None)
    monkeypatch.setattr(two_parts, "await_object_masks", lambda *_: None)
    for settings in (["masks_from=other"], []):
        two_parts._made_masks(tiny("init_from=own", *settings), Verbs(), tmp_path)
    assert asked == ["other", "own"]


def test_a_generator_alone_goes_on_to_be_a_whole(trained: Path, start: list[str]) -> None:
    """By two commands, as `generator_train` does it in one."""
    alone = locloc.build(tiny(*start, "method.parts=generator"), 0, 1)
    assert alone.method.localizer.classifier is None
    assert "top1" not in alone.evaluate()  # type: ignore[misc]
    settings = [start[1], f"init_from={trained / 'generator'}", "method.parts=classifier"]
    whole = locloc.build(tiny(*settings), 0, 1)
    kept = load_part(trained / "generator", locloc_files.PART)
    assert kept is not None
    assert torch.equal(whole.method.localizer.generator.last[0].weight, kept.state["last.0.weight"])
    assert set(whole.evaluate()) == {"top1", "gt_known_50", "floor_whole_50"}  # type: ignore[misc]


def test_a_classifier_of_whole_images_needs_no_masks_and_locates_nothing(start: list[str]) -> None:
    recipe = tiny(start[0], "method.parts=classifier", recipe="scenes_ppd")
    assert not two_parts.needs_masks(recipe)
    parts = ppd.build(recipe, 0, 1)
    assert parts.draw is None
    assert set(parts.evaluate()) == {"top1", "floor_whole_50"}  # type: ignore[misc]
    (given,) = next(parts.loader.batches(0, 1))
    assert given.views == ()
    parts.method.training_step(given, Step(0, 1)).total.backward()


def test_a_part_of_another_make_is_trained_anew(trained: Path, start: list[str], caplog: Any) -> None:
    settings = [start[1], f"init_from={trained}"]
    with caplog.at_level("INFO", "vitrail"):
        same = locloc.build(tiny(*settings), 0, 1).method
    assert "of another make" not in caplog.text
    old = locloc_files.from_source(Source(str(trained)))
    assert torch.equal(same.localizer.generator.last[0].weight, old.generator.last[0].weight)  # type: ignore[union-attr]
    with caplog.at_level("INFO", "vitrail"):
        other = locloc.build(tiny(*settings, "method.generator.width=8"), 0, 1).method
    assert "brings a generator of another make, and a fresh one is trained" in caplog.text
    assert other.localizer.generator.config.width == 8


def test_a_dry_run_makes_nothing(tmp_path: Path) -> None:
    for recipe in ("scenes_locloc", "scenes_ppd"):
        assert "32 images, 1 epoch of 2 steps of 16" in describe(tiny(recipe=recipe), 1)


def test_published_values() -> None:
    cub, imagenet = locloc.locloc_cub(), locloc.locloc_imagenet()
    for recipe, generator, batch, rate, epochs in ((cub, 5e-4, 256, 7.5e-5, 100), (imagenet, 1e-3, 512, 1.5e-4, 50)):
        first = recipe.generator_train
        assert first is not None
        assert (first.learning_rate, first.min_learning_rate) == (generator, generator)
        assert (first.epochs, first.warmup_epochs) == (20, 0)
        assert (first.global_batch_size, recipe.train.global_batch_size) == (batch, batch)
        assert (recipe.train.learning_rate, recipe.train.epochs, recipe.train.warmup_epochs) == (rate, epochs, 5)
        assert (recipe.train.min_learning_rate, recipe.backbone.drop_path) == (1e-5, 0.1)
        assert (recipe.views.image_size, recipe.views.resize, recipe.views.masked) == (224, 256, True)
        assert recipe.views.augment.rand_augment == "rand-m9-mstd0.5-inc1"
        assert recipe.views.augment.erase == 0
        settings = recipe.mask_settings
        assert (settings.high, settings.low, settings.iterations, settings.size) == (0.10, 0.03, 1, 256)
        assert (settings.heads, recipe.which, recipe.method.weight_decay) == ((0, 1, 2), "enhanced", 0.05)
    assert 1e-3 * 256 / 512 == 5e-4
    assert 1.5e-4 * 256 / 512 == 7.5e-5
    baseline = ppd.ppd_cub()
    assert baseline.generator_train is not None
    assert (baseline.generator_train.epochs, baseline.generator_train.learning_rate) == (300, 1e-3)
    assert (baseline.train.optimizer, baseline.train.min_learning_rate) == ("sgd", 0)
    assert (baseline.views.image_size, baseline.views.squash, baseline.which) == (256, True, "plain")
    assert (baseline.mask_settings.threshold, baseline.mask_settings.image_size) == (0.05, 256)


def test_the_generators_own_training_is_the_recipe_but_for_its_train() -> None:
    recipe = locloc.locloc_cub().override(["train.seed=7", "init_from=x", "object_masks=y"])
    first, second = (two_parts._of_part(recipe, part) for part in ("generator", "classifier"))
    assert (first.method.parts, second.method.parts) == ("generator", "classifier")
    assert (first.train.epochs, first.train.seed, second.train) == (20, 7, recipe.train)
    assert first.generator_train is None
    assert first.views == second.views == recipe.views


class TestLookAhead:
    """What would be refused after hours is refused before the first of them."""

    @pytest.fixture(autouse=True)
    def _nothing_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("train_before", "make_object_masks"):
            monkeypatch.setattr(two_parts, name, lambda *_, **__: pytest.fail("begun"))

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            (["train.global_batch_size=64"], r"^global_batch_size 64 is larger than the 32 images to train on"),
            (["train.global_batch_size=1"], r"a batch of 1 image per device cannot be normalized over"),
            (["mask_settings.heads=[0, 5]"], r"heads \[5\] are not there; the block has 2, 0 to 1"),
            (["mask_settings.image_size=30"], r"image height 30 is not a multiple of the patch size 8"),
            (["views.augment.image_size=30"], r"views\.augment\.image_size 30 is not a multiple of the patch size 8"),
            (
                [*GENERATOR_FIRST, "generator_train.global_batch_size=64"],
                r"^generator_train: global_batch_size 64 is larger than the 32 images",
            ),
            ([*GENERATOR_FIRST, "train.global_batch_size=64"], r"^global_batch_size 64 is larger than the 32 images"),
        ],
    )
    def test_settings(self, settings: list[str], said: str, tmp_path: Path) -> None:
        for recipe in ("scenes_locloc", "scenes_ppd"):
            extra = ["generator_train.learning_rate=1e-3"] if settings[0] in GENERATOR_FIRST else []
            with pytest.raises(ValueError, match=said):
                run(tiny(*settings, *extra, recipe=recipe), Verbs(), tmp_path / recipe)
            RunFolder(tmp_path / recipe, tiny(recipe=recipe)).close()  # the corrected command may begin

    def test_images_of_no_classes(self, start: list[str], tmp_path: Path) -> None:
        for number in range(18):
            Image.new("RGB", (40, 40), (10 * number, 0, 0)).save(tmp_path / f"{number:02d}.png")
        recipe = tiny(start[0], f"data.root={tmp_path}")
        with pytest.raises(ValueError, match=r"a classifier needs at least 2 classes.*or set method\.parts=generator"):
            two_parts.first_of_two(recipe, Verbs(), tmp_path)
        with pytest.raises(pytest.fail.Exception, match="begun"):  # one that locates alone needs none
            two_parts.first_of_two(recipe.override(["method.parts=generator"]), Verbs(), tmp_path)

    def test_each_process_looks_at_its_own_part(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(training, "join", lambda _: Ranks(3, 16, torch.device("cpu")))
        with pytest.raises(ValueError, match="a batch of 1 image per device cannot be normalized over"):
            two_parts.first_of_two(tiny(), Verbs(), tmp_path)

    def test_a_run_that_goes_on_was_looked_at(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(locloc, "build", lambda *_: pytest.fail("built"))
        for verbs in (Verbs(resume=True), Verbs(extend=3)):
            with pytest.raises(pytest.fail.Exception, match="begun"):
                two_parts.first_of_two(tiny(), verbs, tmp_path)


def test_overwriting_makes_other_masks_anew_and_keeps_the_same(
    trained: Path, start: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    right = two_parts.make_object_masks

    def noted(backbone: Any, images: Any, path: Path, *settings: Any, **more: Any) -> Any:
        made.append(len(MaskWriter(path, two_parts.about_masks(backbone, images, settings[0])).todo))
        return right(backbone, images, path, *settings, **more)

    monkeypatch.setattr(two_parts, "make_object_masks", noted)
    path = tmp_path / "object_masks"
    copytree(trained / "object_masks", path)
    (path / "mine.txt").write_text("mine")
    other = tiny(start[0], "mask_settings.low=0.01")
    with pytest.raises(ValueError, match=r"holds other masks: low 0\.05, wanted 0\.01"):
        two_parts._made_masks(other, Verbs(), path)
    two_parts._made_masks(tiny(start[0]), Verbs(overwrite=True), path)
    two_parts._made_masks(other, Verbs(overwrite=True), path)
    assert made == [0, 32]
    assert ObjectMasks.open(path).about["low"] == 0.01
    assert (path / "mine.txt").read_text() == "mine"


class TestRefusals:
    def test_no_weights(self) -> None:
        with pytest.raises(ConfigError, match="the backbone rests, so it has to be trained before; name its weights"):
            locloc.check(tiny("stage1=null"))

    def test_masks_that_are_not_there(self) -> None:
        with pytest.raises(ConfigError, match="object_masks=gone is not there; make it with `vitrail object-masks`"):
            locloc.check(tiny("object_masks=gone"))

    def test_masks_of_other_images(self, start: list[str]) -> None:
        with pytest.raises(ValueError, match="are of other images"):
            locloc.build(tiny(*start, "data.scenes.count=40"), 0, 1)

    def test_masks_of_other_weights_are_taken_only_where_these_are_named(
        self, trained: Path, start: list[str], tmp_path: Path
    ) -> None:
        other, path = load(weights=trained / "stage1"), tmp_path / "other.safetensors"
        with torch.no_grad():
            next(other.parameters()).add_(0.5)
        save_exported(other.export(), path)
        settings = [start[1], f"init_from={path}"]
        said = r"of weights with the digest \w{16}, and init_from=.*other\.safetensors has \w{16}; name the masks'"
        with pytest.raises(ValueError, match=said):
            locloc.build(tiny(*settings), 0, 1)
        named = f"masks_from={trained / 'stage1'}"
        assert locloc.build(tiny(*settings, named), 0, 1).loader.data.masks.folder == trained / "object_masks"
        with pytest.raises(ValueError, match=r"and masks_from=.*other\.safetensors has"):
            locloc.build(tiny(*start, f"masks_from={path}"), 0, 1)
        assert locloc.build(tiny(*settings), 0, 1, own=str(trained / "exported" / "backbone.safetensors"))

    def test_masks_made_in_another_way(self, start: list[str]) -> None:
        said = r"were made with low=0\.05, and mask_settings says low=0\.01; set mask_settings as they were made"
        with pytest.raises(ValueError, match=said):
            locloc.build(tiny(*start, "mask_settings.low=0.01"), 0, 1)
        with pytest.raises(ValueError, match=r"heads=\[0, 1\], and mask_settings says heads=\[0\]"):
            ppd.build(tiny(*start, "mask_settings.heads=[0]", recipe="scenes_ppd"), 0, 1)

    def test_views_of_no_whole_patches(self, start: list[str]) -> None:
        with pytest.raises(ConfigError, match=r"views\.augment\.image_size 30 is not a multiple of the patch size 8"):
            locloc.build(tiny(*start, "views.augment.image_size=30"), 0, 1)

    def test_scenes_of_another_size(self) -> None:
        with pytest.raises(ConfigError, match=r"generated scenes of 48 pixels are not what views\.image_size 32"):
            locloc.check(tiny("data.scenes.image_size=48"))

    def test_a_batch_of_one(self, start: list[str]) -> None:
        with pytest.raises(ValueError, match="a batch of 1 image per device cannot be normalized over"):
            locloc.build(tiny(*start, "train.global_batch_size=4"), 0, 4)


class Painter(torch.nn.Module):
    """A localizer that says where an image is colored, and its class by the color."""

    mean, std, image_size, classes = (0.5,) * 3, (0.5,) * 3, (32, 32), None
    generator = True

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Linear(1, 1)

    def forward(self, images: torch.Tensor) -> Located:
        spread = images.amax(1) - images.amin(1)
        inside = spread > 0.5
        return Located(spread, torch.stack([(each * inside).sum((1, 2)) for each in images.unbind(1)], 1))


class TestNumbers:
    SEEN = EvalTransformConfig(image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)

    def test_a_right_localizer(self) -> None:
        found = localization_probe(Painter(), squares(30), self.SEEN, 0.5)()
        assert found["top1"] == 100
        assert found["gt_known_50"] > 95
        assert found["floor_whole_50"] == 0  # at most 18 of 32 pixels a side: 0.32 of the area

    def test_images_without_boxes_or_labels(self) -> None:
        plain = squares(6)
        plain.samples = [each._replace(boxes=None, label=None) for each in plain.samples]
        assert localization_probe(Painter(), plain, self.SEEN, 0.5)() == {}

    def test_unreadable_images_are_left_out(self) -> None:
        some = squares(6)
        some.broken = (1, 2)
        assert localization_probe(Painter(), some, self.SEEN, 0.5)()["top1"] == 100

    def test_pictures(self, tmp_path: Path) -> None:
        draw = drawing_located(Painter(), squares(6), self.SEEN, 0.5)
        assert draw is not None
        draw(tmp_path, "before", None)
        assert "before training" in json.loads((tmp_path / "captions.json").read_text())["located_before.png"]

    def test_boxes(self) -> None:
        values = torch.zeros(20, 30)
        values[3:8, 4:10], values[12:18, 20:29] = 1.0, 0.6
        assert box_of(values, 0.5).tolist() == [20, 12, 29, 18]
        assert box_of(values, 0.7).tolist() == [4, 3, 10, 8]
        assert box_of(values - 5, 0.7).tolist() == [4, 3, 10, 8]
        assert box_of(torch.ones(20, 30), 0.5) is None
        values[8, 10] = 1.0  # touches the first by a corner
        assert box_of(values, 0.7).tolist() == [4, 3, 11, 9]
