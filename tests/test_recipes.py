"""Recipes: what their settings do, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail import catalog
from vitrail.backbones import BackboneConfig, create, load, save_exported
from vitrail.config import ConfigError
from vitrail.data import SyntheticScenes, TooManyUnreadable
from vitrail.recipes.look import attention_sheet, curves_sheet
from vitrail.recipes.measure import measure
from vitrail.recipes.run import Verbs, prepare, resolve, run
from vitrail.recipes.sources import DataConfig, Part, hold_out, open_data, open_splits
from vitrail.recipes.supervised import build, finetune, finetune_mae, scenes, scenes_sar

TINY = [
    "data.scenes.count=48",
    "data.scenes.val_count=16",
    "data.scenes.image_size=24",
    "augment.image_size=24",
    "backbone.embed_dim=24",
    "backbone.depth=2",
    "backbone.heads=2",
    "train.epochs=1",
    "train.warmup_epochs=0",
    "train.global_batch_size=16",
    "train.device=cpu",
]


def write_images(folder: Path, classes: tuple[str, ...], each: int = 4) -> None:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.random.default_rng([label, number]).integers(0, 255, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.mark.parametrize("name", [entry.name for entry in catalog.recipes()])
def test_every_recipe_resolves_and_survives_its_own_yaml(name: str, tmp_path: Path) -> None:
    recipe = resolve(name)
    (tmp_path / "recipe.yaml").write_text(recipe.yaml())
    assert resolve(str(tmp_path / "recipe.yaml")) == recipe


@pytest.mark.parametrize("kind", ["spatial_entropy", "total_variation", "drloc"])
def test_another_regularizer_is_one_setting(kind: str, tmp_path: Path) -> None:
    outcome = run(scenes().override([*TINY, f"method.regularizers=[{{kind: {kind}}}]"]), Verbs(), tmp_path / kind)
    assert np.isfinite(outcome.losses[f"train/{kind}"])


def test_the_same_seed_gives_baseline_and_sar_the_same_start(tmp_path: Path) -> None:
    """What both networks have, they have alike, and both see the same images in the same order."""
    both = []
    for recipe in (scenes(), scenes_sar()):
        torch.manual_seed(0)
        both.append(build(recipe.override(TINY), 0, 1))
    first = [next(iter(parts.loader.batches(0, 1)))[0] for parts in both]
    assert torch.equal(first[0].images, first[1].images)
    plain, operated = (dict(parts.method.named_parameters()) for parts in both)  # type: ignore[attr-defined]
    assert set(plain) - set(operated) == {f"backbone.vit.blocks.1.norm2.{part}" for part in ("weight", "bias")}
    assert all(torch.equal(plain[name], operated[name]) for name in operated)


@pytest.mark.parametrize("pretrained", [None, "F"])
@pytest.mark.parametrize("recipe", ["finetune", "finetune_sar"])
def test_fine_tuning_follows_the_checkpoint(pretrained: Any, recipe: str, tmp_path: Path) -> None:
    """The four configurations of Table 4: with and without SAR, from a checkpoint with and without."""
    config = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2, surgery=pretrained)
    before = create(config)
    save_exported(before.export(), tmp_path / "w.safetensors")
    write_images(tmp_path / "photos" / "train", ("a", "b"))
    write_images(tmp_path / "photos" / "val", ("a", "b"), 2)
    settings = [f"data.root={tmp_path / 'photos'}", "train.epochs=1", "train.warmup_epochs=0", "train.precision=fp32"]
    settings += ["train.global_batch_size=4", "augment.image_size=36", "backbone.drop_path=0.2", "workers=0"]
    verbs = Verbs(init_from=str(tmp_path / "w.safetensors"))
    ready, _ = prepare(recipe, settings, verbs)
    backbone = build(ready, 0, 1).method.backbone  # type: ignore[arg-type,attr-defined]
    last = backbone.vit.blocks[-1]
    assert (not last.msa_skip) == (pretrained == "F")
    assert backbone.image_size == (36, 36)
    assert torch.equal(backbone.vit.blocks[0].attn.qkv.weight, before.vit.blocks[0].attn.qkv.weight)
    assert last.drop_path2.drop_prob == pytest.approx(0.2)
    outcome = run(ready, verbs, tmp_path / "run")
    assert ("train/spatial_entropy" in outcome.losses) == recipe.endswith("sar")
    after = load(None, str(tmp_path / "run" / "exported" / "backbone.safetensors"))
    assert after.config is not None
    assert after.config.surgery == pretrained


def test_a_fine_tuned_run_goes_on_without_the_weights_it_started_from(tmp_path: Path) -> None:
    config = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2, surgery="F")
    weights = tmp_path / "w.safetensors"
    save_exported(create(config).export(), weights)
    settings = [*TINY, "backbone.surgery=null"]
    started, _ = prepare("scenes", settings, Verbs(init_from=str(weights)))
    run(started, Verbs(init_from=str(weights)), tmp_path / "run")
    weights.unlink()
    longer, _ = prepare("scenes", settings, Verbs(extend=2), tmp_path / "run")
    assert longer.init_from == str(weights)  # type: ignore[attr-defined]
    assert run(longer, Verbs(extend=2), tmp_path / "run").steps == 6
    again, _ = prepare("scenes", [*settings, "train.epochs=2"], Verbs(resume=True), tmp_path / "run")
    assert run(again, Verbs(resume=True), tmp_path / "run").steps == 6


def test_table_7() -> None:
    """The fine-tuning of DPPMask's supplement; random erasing and what is classified are MAE's."""
    recipe = finetune_mae()
    train, method = recipe.train, recipe.method
    assert train.optimizer == "adamw"
    assert train.learning_rate * 256 / train.global_batch_size == pytest.approx(5e-4)
    assert (train.global_batch_size, train.epochs, train.warmup_epochs, train.betas) == (1024, 100, 5, (0.9, 0.999))
    assert (method.weight_decay, method.layer_decay, method.label_smoothing) == (0.05, 0.65, 0.1)
    assert (method.mixup, method.cutmix, recipe.backbone.drop_path) == (0.8, 1.0, 0.1)
    assert (recipe.augment.rand_augment, recipe.augment.erase) == ("rand-m9-mstd0.5-inc1", 0.25)
    assert method.pool == "mean"
    with pytest.raises(ConfigError, match="fine-tuning starts from weights; give --init-from"):
        build(recipe, 0, 1)


def test_a_masked_autoencoder_is_fine_tuned_and_measured_by_the_mean_of_its_patches(tmp_path: Path) -> None:
    backbone = create(BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=3, heads=2))
    save_exported(backbone.export(), tmp_path / "w.safetensors")
    scenes_of = ["data.scenes.count=96", "data.scenes.val_count=48", "data.scenes.image_size=24"]
    settings = [*scenes_of, "augment.image_size=24", "train.epochs=1", "train.warmup_epochs=0", "train.precision=fp32"]
    settings += ["train.global_batch_size=16", "train.device=cpu", "workers=0"]
    ready, _ = prepare("finetune_mae", settings, Verbs(init_from=str(tmp_path / "w.safetensors")))
    method: Any = build(ready, 0, 1).method  # type: ignore[arg-type]
    vit = method.backbone.vit
    scales = {id(each): group["lr_scale"] for group in method.parameter_groups() for each in group["params"]}
    for block, part in enumerate(vit.blocks):
        assert scales[id(part.attn.qkv.weight)] == pytest.approx(0.65 ** (3 - block))
    for part in (vit.cls_token, vit.pos_embed, vit.patch_embed.proj.weight):
        assert scales[id(part)] == pytest.approx(0.65**4)
    assert scales[id(method.head.weight)] == 1
    assert vit.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)
    outcome = run(ready, Verbs(), tmp_path / "run")
    report, _ = measure("accuracy", str(tmp_path / "run"), "scenes", [])
    assert report.numbers["top1"] == pytest.approx(outcome.losses["val/top1"])
    assert report.card["token"] == "mean patch, linear head"


def test_fine_tuning_keeps_the_pixel_statistics_of_the_weights(tmp_path: Path) -> None:
    backbone = create(BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2))
    backbone.mean, backbone.std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    save_exported(backbone.export(), tmp_path / "w.safetensors")
    recipe = scenes().override([*TINY, f"init_from={tmp_path / 'w.safetensors'}"])
    parts = build(recipe, 0, 1)
    assert parts.method.backbone.mean == (0.1, 0.2, 0.3)  # type: ignore[attr-defined]
    images = next(iter(parts.loader.batches(0, 1)))[0].images
    channels = images * torch.tensor([0.4, 0.5, 0.6])[:, None, None] + torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    assert 0 <= channels.min() < channels.max() <= 1 + 1e-6  # pixels again, so those statistics were used


@pytest.mark.parametrize(
    ("letter", "regularizers", "right"),
    [("F", "[]", "C"), ("E", "[]", "A"), ("C", "[{kind: spatial_entropy}]", "F"), ("A", "[{}]", "E")],
)
def test_a_row_of_the_table_is_what_its_letter_says(letter: str, regularizers: str, right: str) -> None:
    settings = [f"backbone.surgery={letter}", f"method.regularizers={regularizers}"]
    with pytest.raises(ConfigError, match=f"surgery is {letter}.*row {right} of Table"):
        scenes().override(settings)
    scenes().override([f"backbone.surgery={right}", f"method.regularizers={regularizers}"])
    scenes().override(["backbone.surgery=B", "method.regularizers=[{kind: spatial_entropy}]"])


def test_the_released_schedule_by_settings_and_extended(tmp_path: Path) -> None:
    weight = "method.regularizers.0.weight"
    settings = [*TINY, f"{weight}.kind=warmup_cosine", f"{weight}.warmup_epochs=1", "train.log_every=3"]
    run(scenes_sar().override(settings), Verbs(), tmp_path)
    longer, _ = prepare("scenes_sar", settings, Verbs(extend=3), tmp_path)
    run(longer, Verbs(extend=3), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    weights = [line["train/spatial_entropy_weight"] for line in lines if "train/spatial_entropy_weight" in line]
    assert weights[0] == 0  # the only epoch of the first run warms up
    assert weights[-1] == pytest.approx(0.0025)  # the last epoch of three: half of the peak of 0.005


def test_an_unreadable_validation_image_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path / "photos" / "train", ("a", "b"), 8)
    write_images(tmp_path / "photos" / "val", ("a", "b"), 60)
    (tmp_path / "photos" / "val" / "a" / "0.png").write_bytes(b"")
    settings = [*TINY, f"data.root={tmp_path / 'photos'}"]
    outcome = run(scenes_sar().override(settings), Verbs(), tmp_path / "run")
    assert 0 <= outcome.losses["val/top1"] <= 100
    assert "0.png cannot be read" in (tmp_path / "run" / "log.txt").read_text()
    for number in (1, 2):
        (tmp_path / "photos" / "val" / "a" / f"{number}.png").write_bytes(b"")
    with pytest.raises(TooManyUnreadable, match="3 images cannot be read, more than 1 % of 120"):
        run(scenes_sar().override(settings), Verbs(), tmp_path / "again")


def test_an_odd_batch_with_mixup_is_refused_before_training() -> None:
    recipe = scenes().override([*TINY, "train.global_batch_size=30", "train.accumulate=2", "method.mixup=0.8"])
    with pytest.raises(ValueError, match="batch of 15 is odd"):
        build(recipe, 0, 1)


def test_a_plain_model_whose_attention_cannot_be_read_trains(tmp_path: Path) -> None:
    settings = [*TINY, "backbone.name=vit_small_patch16_18x2_224", "backbone.embed_dim=24", "backbone.heads=2"]
    outcome = run(scenes().override([*settings, "train.warmup_epochs=0"]), Verbs(), tmp_path)
    assert "val/top1" in outcome.losses
    assert "val/spatial_entropy" not in outcome.losses
    assert "no attention is drawn" in (tmp_path / "log.txt").read_text()


def test_the_picture_after_training_shows_the_averaged_weights(tmp_path: Path) -> None:
    run(scenes().override([*TINY, "train.ema=0.9"]), Verbs(), tmp_path)
    exported = load(None, str(tmp_path / "exported" / "backbone.safetensors"))
    data = open_splits(scenes().override(TINY).data).val  # type: ignore[attr-defined]
    title = "Attention of the last block, after training"
    expected = np.asarray(attention_sheet(exported, data, title=title))
    assert expected.shape[0] > np.asarray(attention_sheet(exported, data)).shape[0]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "pictures" / "attention_after.png")), expected)


def test_surgery_that_the_weights_do_not_have_is_refused(tmp_path: Path) -> None:
    config = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2)
    save_exported(create(config).export(), tmp_path / "plain.safetensors")
    recipe = scenes_sar().override([*TINY, f"init_from={tmp_path / 'plain.safetensors'}"])
    with pytest.raises(ConfigError, match=r"surgery = 'F'.*trained with surgery None.*finetune_sar"):
        build(recipe, 0, 1)


def test_sizes_that_disagree_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"48.*64.*differ"):
        scenes().override(["backbone.image_size=48", "augment.image_size=64"])
    with pytest.raises(ConfigError, match=r"planned for 7 epochs.*train.epochs is 100"):
        finetune().override(["method.regularizers=[{weight: {kind: warmup_cosine, warmup_epochs: 2, epochs: 7}}]"])


def test_a_run_leaves_everything_that_it_promises(tmp_path: Path) -> None:
    run(scenes_sar().override(TINY), Verbs(), tmp_path)
    for name in ("config.yaml", "versions.json", "log.txt", "metrics.jsonl", "checkpoints/last.pt"):
        assert (tmp_path / name).stat().st_size > 0, name
    captions = json.loads((tmp_path / "pictures" / "captions.json").read_text())
    assert set(captions) == {"attention_before.png", "attention_after.png"}
    assert all(word in captions["attention_after.png"] for word in ("after training", "as max", "uniform is what"))
    assert resolve(str(tmp_path / "config.yaml")) == scenes_sar().override(TINY)


def test_extending_to_the_same_number_twice_is_told(tmp_path: Path) -> None:
    run(scenes().override(TINY), Verbs(), tmp_path)
    longer, _ = prepare("scenes", TINY, Verbs(extend=2))
    assert run(longer, Verbs(extend=2), tmp_path).steps == 6
    with pytest.raises(ConfigError, match="nothing to extend"):
        run(longer, Verbs(extend=2), tmp_path)


class TestSources:
    def test_train_and_val_folders(self, tmp_path: Path) -> None:
        write_images(tmp_path / "training", ("cat", "dog"), 3)
        write_images(tmp_path / "validation", ("dog",), 2)
        train, val = open_splits(DataConfig(root=str(tmp_path)))
        assert (len(train), len(val), val.classes) == (6, 2, ("cat", "dog"))
        assert val[0].label == 1

    def test_without_a_val_folder_some_images_of_every_class_are_held_out(self, tmp_path: Path) -> None:
        write_images(tmp_path, ("a", "b", "c"), 20)
        train, val = open_splits(DataConfig(root=str(tmp_path), held_out=0.2))
        assert (len(train), len(val)) == (48, 12)
        assert {val[index].label for index in range(12)} == {0, 1, 2}
        assert not {train[index].path for index in range(48)} & {val[index].path for index in range(12)}
        assert train.digest() != val.digest()

    def test_a_class_whose_only_image_is_held_out_is_named(self, tmp_path: Path, caplog: Any) -> None:
        write_images(tmp_path, ("a",), 2)
        write_images(tmp_path, ("b",), 1)
        write_images(tmp_path, ("c",), 3)
        with caplog.at_level("WARNING", "vitrail"):
            open_splits(DataConfig(root=str(tmp_path), held_out=0.2))
        assert "1 classes have no image to train on, since their few are held out: b;" in caplog.text

    def test_classes_in_val_that_train_lacks(self, tmp_path: Path) -> None:
        write_images(tmp_path / "train", ("cat", "dog"))
        write_images(tmp_path / "val", ("cat", "emu"))
        with pytest.raises(ValueError, match="emu"):
            open_splits(DataConfig(root=str(tmp_path)))

    @pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.35, 0.5, 0.6, 0.9])
    def test_the_share_is_the_share(self, share: float) -> None:
        train, val = hold_out(SyntheticScenes(200, image_size=16), share)
        assert (len(train), len(val)) == (200 - round(200 * share), round(200 * share))

    def test_a_run_is_measured_with_the_images_it_was_not_trained_on(self, tmp_path: Path) -> None:
        write_images(tmp_path / "photos", ("a", "b"), 10)
        trained = DataConfig(root=str(tmp_path / "photos"), held_out=0.3)
        val = open_data(str(tmp_path / "photos"), trained).val
        assert {val[i].path for i in range(len(val))} == {image.path for image in open_splits(trained).val}  # type: ignore[attr-defined]
        assert len(open_data(str(tmp_path / "photos")).val) == 2

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no image"):
            open_splits(DataConfig(root=str(tmp_path)))

    def test_no_class_folders_for_a_supervised_recipe(self, tmp_path: Path) -> None:
        write_images(tmp_path, ("x",), 20)
        for file in (tmp_path / "x").iterdir():
            file.rename(tmp_path / file.name)
        (tmp_path / "x").rmdir()
        with pytest.raises(ValueError, match=r"no class folders.*one folder per class"):
            build(scenes().override([*TINY, f"data.root={tmp_path}"]), 0, 1)

    def test_a_voc_tree_is_not_taken_for_classes(self, tmp_path: Path) -> None:
        (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
        with pytest.raises(ValueError, match="is a VOC tree"):
            open_splits(DataConfig(root=str(tmp_path)))

    def test_too_few_images_to_hold_some_out(self) -> None:
        with pytest.raises(ValueError, match=r"4 images are too few.*0\.1"):
            hold_out(SyntheticScenes(4), 0.1)

    def test_a_part_is_an_image_set(self) -> None:
        data = SyntheticScenes(10)
        part = Part(data, [3, 7])
        assert len(part) == 2
        assert part[1].path == data[7].path
        assert part.digest() != Part(data, [7, 3]).digest()

    def test_scenes_by_name(self) -> None:
        train, val = open_data("scenes")
        assert isinstance(train, SyntheticScenes)
        assert (train.split, val.split) == ("train", "val")  # type: ignore[attr-defined]


def test_curves_are_drawn_whatever_became_of_a_run() -> None:
    """A batch size that changed makes epochs fall back; a loss that is not finite, a number that stands still."""
    lines = [
        {"step": step, "epoch": epoch, "train/loss": loss, "train/weight": 0.5}
        for step, epoch, loss in ((1, 1.0, 2.0), (2, 2.0, float("nan")), (3, 1.5, 1.0))
    ]
    sheet = curves_sheet(lines)
    assert sheet is not None
    alone = curves_sheet([{"step": 1, "epoch": 1.0, "train/loss": 2.0}])
    assert alone is not None
    assert sheet.size == alone.size  # the loss alone
    assert curves_sheet([]) is None
