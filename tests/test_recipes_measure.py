"""Protocols by name on weights by name: which sizes, which split, which classifier."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vitrail.backbones import BackboneConfig, create, save_exported
from vitrail.data import SyntheticScenes
from vitrail.evaluation import attention_jaccard, linear, pointing
from vitrail.evaluation.result import Report
from vitrail.recipes.measure import call, config_of, data_of, measure, native
from vitrail.recipes.run import Verbs, run
from vitrail.recipes.supervised import scenes
from vitrail.report.collect import read_run

TINY = [
    "data.scenes.count=48",
    "data.scenes.val_count=24",
    "data.scenes.image_size=24",
    "data.scenes.seed=7",
    "augment.image_size=24",
    "backbone.embed_dim=24",
    "backbone.depth=2",
    "backbone.heads=2",
    "train.epochs=1",
    "train.warmup_epochs=0",
    "train.global_batch_size=16",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run(scenes().override(TINY), Verbs(), folder)
    return folder


PROTOCOLS = ["accuracy", "knn", "linear", "attention_jaccard", "pointing", "alignment_diversity"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_measures_a_small_model(protocol: str, trained: Path) -> None:
    settings = ["cls_blocks=2", "epochs=2", "batch_size=16"] if protocol == "linear" else []
    report, path = measure(protocol, str(trained), "scenes", settings)
    assert path == trained / "evaluation" / f"{protocol}.json"
    assert report.card["resolution"] == [24, 24]
    assert all(0 <= value <= 100 for value in report.numbers.values())
    assert 24 in [part["images"] for part in report.card["data"].values()]


def test_curves_of_masks_are_drawn_where_the_page_finds_them(trained: Path, tmp_path: Path) -> None:
    settings = ["taus=0,1", "masks=attmask", "trials=2", "images=8"]
    report, path = measure("alignment_diversity", str(trained), "scenes", settings)
    assert set(report.details["strategies"]) == {"tau0", "tau1", "attmask"}
    pictures = read_run(trained).pictures
    assert "8 images" in pictures[f"{path.stem}.png"].caption
    measure("alignment_diversity", str(trained), "scenes", settings, out=tmp_path / "own.json")
    with Image.open(tmp_path / "own.png") as picture:
        assert picture.size == (640, 360)


def test_linear_trains_and_tests_at_the_same_size() -> None:
    backbone = create(BackboneConfig(image_size=(48, 72), patch_size=6, embed_dim=24, depth=2, heads=2))
    config = native(config_of(linear.evaluate), backbone)
    assert config.transform.image_size == config.train_transform.image_size == (48, 72)  # type: ignore[attr-defined]


@pytest.mark.parametrize("protocol", [attention_jaccard, pointing])
def test_a_model_that_is_not_square(protocol: object) -> None:
    backbone = create(BackboneConfig(image_size=(24, 36), patch_size=6, embed_dim=24, depth=2, heads=2))
    data = SyntheticScenes(6, image_size=(24, 36), split="val")
    config = native(config_of(protocol.evaluate), backbone)  # type: ignore[attr-defined]
    report = call(protocol.evaluate, backbone, data, data, config)  # type: ignore[attr-defined]
    assert all(0 <= value <= 100 for value in report.numbers.values())


def test_a_named_preset_keeps_its_paper_s_size(trained: Path, tmp_path: Path) -> None:
    own, _ = measure("attention_jaccard", str(trained), "scenes", [], out=tmp_path / "own.json")
    paper, _ = measure("attention_jaccard", str(trained), "scenes", ["preset=sar"], out=tmp_path / "paper.json")
    assert own.card["resolution"] == [24, 24]
    assert paper.card["resolution"] == [480, 480]


def test_the_run_s_own_scenes_are_measured(trained: Path) -> None:
    config = data_of(trained)
    assert config is not None
    assert config.scenes.seed == 7
    assert data_of(None) is None
    assert data_of(trained / "pictures") is None


def test_accuracy_needs_a_classifier(tmp_path: Path) -> None:
    config = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2)
    save_exported(create(config).export(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="no classifier"):
        measure("accuracy", str(tmp_path / "w.safetensors"), "scenes", [])
    hint = r"train one on it, `vitrail train finetune data\.root=FOLDER --init-from .*w\.safetensors`.* evaluate knn"
    with pytest.raises(ValueError, match=hint):
        measure("selection_accuracy", str(tmp_path / "w.safetensors"), "scenes", [], rankers=["center"])
    with pytest.raises(ValueError, match="knn or linear"):
        measure("accuracy", "pretrained", "scenes", [], model="vit_tiny_patch16_224")
    with pytest.raises(ValueError, match="nonsense"):
        measure("accuracy", str(tmp_path / "w.safetensors"), "scenes", [], key="nonsense")


def test_presets_with_their_own_weights_keep_the_model_s_size(trained: Path, tmp_path: Path) -> None:
    for protocol, preset in (("knn", "dino"), ("linear", "features")):
        settings = [f"preset={preset}", *(["epochs=1", "batch_size=16"] if protocol == "linear" else [])]
        report, _ = measure(protocol, str(trained), "scenes", settings, out=tmp_path / "x.json")
        assert report.card["resolution"] == [24, 24], protocol
        assert any("image_size = 24" in line for line in report.card["deviations"]), protocol


def test_a_result_is_replaced_by_the_same_question_alone(trained: Path, tmp_path: Path) -> None:
    evaluated = tmp_path / "run"
    shutil.copytree(trained, evaluated)
    shutil.rmtree(evaluated / "evaluation")
    first, place = measure("knn", str(evaluated), "scenes", ["k=5"])
    again, same = measure("knn", str(evaluated), "scenes", ["k=5"])
    assert place == same == evaluated / "evaluation" / "knn.json"
    assert first.numbers == again.numbers
    _, other = measure("knn", str(evaluated), "scenes", ["k=7"])
    assert other != place
    assert other.name.startswith("knn-default-SyntheticScenes-")
    assert Report.load(place).numbers == first.numbers
    assert measure("knn", str(evaluated), "scenes", ["k=7"])[1] == other


def test_words_for_a_terminal_name_what_a_number_hangs_on(trained: Path, tmp_path: Path) -> None:
    report, _ = measure("knn", str(trained), "scenes", ["preset=dino"], out=tmp_path / "x.json")
    words = "\n".join(report.words())
    for part in ("48 images in 8 classes", "24 x 24 px", "preset     dino", report.card["weights"], "deviation"):
        assert part in words


SEGMENTERS = {
    "linear_seg": ["samples=96"],
    "fcn_seg": ["samples=64", "width=8"],
    "segment_retrieval": ["k=5"],
    "over_clustering": ["clusters=0,20"],
}


@pytest.mark.parametrize("protocol", SEGMENTERS)
def test_segmentation_leaves_label_maps_among_the_pictures(protocol: str, trained: Path, tmp_path: Path) -> None:
    report, path = measure(protocol, str(trained), "scenes", SEGMENTERS[protocol])
    assert report.card["resolution"] == [24, 24]
    assert all(0 <= value <= 100 for value in report.numbers.values())
    caption = read_run(trained).pictures[f"{path.stem}.png"].caption
    assert "6 of 24 images" in caption
    assert f"mIoU {report.numbers[report.details['examples_of']]:.1f}" in caption
    measure(protocol, str(trained), "scenes", [*SEGMENTERS[protocol], "pictures=0"], out=tmp_path / "own.json")
    assert not (tmp_path / "own.png").exists()


def test_segmentation_opens_the_masks_of_a_tree(
    trained: Path, tmp_path: Path, real_data: Callable[[str], Path]
) -> None:
    root = str(real_data("coco-mini"))
    settings = ["samples=16", "images=16", "learning_rates=0.01", "truth=input"]
    report, _ = measure("linear_seg", str(trained), root, settings, out=tmp_path / "coco.json")
    assert report.card["data"]["val"]["name"] == "COCO, 133 classes"
    assert (tmp_path / "coco.png").is_file()
    with pytest.raises(ValueError, match="has no masks of class ids"):
        measure("linear_seg", str(trained), str(real_data("cls-mini")), settings)
