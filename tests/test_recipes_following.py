"""What follows other settings of LocLoc and PPD, and what does not once it is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vitrail.config import ConfigError
from vitrail.recipes import locloc
from vitrail.recipes.run import Verbs, prepare, resolve


def sizes(recipe: Any) -> tuple[int, int | None, Any]:
    return recipe.views.image_size, recipe.views.resize, recipe.views.augment.image_size


def given(name: str, *settings: str) -> Any:
    return resolve(name).override(settings)  # type: ignore[attr-defined]


class TestSizes:
    @pytest.mark.parametrize(
        ("settings", "found"),
        [
            ([], (224, 256, 224)),
            (["views.image_size=64"], (64, 73, 64)),
            (["views.image_size=448"], (448, 512, 448)),
            (["views.image_size=1"], (1, 1, 1)),
            (["views.image_size=64", "views.resize=72"], (64, 72, 64)),
            (["views.image_size=64", "views.resize=null"], (64, None, 64)),
            (["views.augment.image_size=32", "views.image_size=64"], (64, 73, 32)),
            (["views.image_size=64", "views.augment={image_size: 48}"], (64, 73, 48)),
            (["views={image_size: 100, resize: 120}"], (100, 120, 224)),  # a whole section is given as it is
        ],
    )
    def test_of_locloc(self, settings: list[str], found: tuple[int, int | None, int]) -> None:
        assert sizes(given("folder_locloc", *settings)) == found

    @pytest.mark.parametrize(
        ("settings", "found"),
        [
            ([], (256, None, 224)),
            (["views.image_size=128"], (128, None, 112)),  # 7/8 of it, as its classifier looks at the middle
            (["views.image_size=64"], (64, None, 64)),  # 3.5 patches of 16 are 4
            (["views.image_size=64", "backbone.patch_size=8"], (64, None, 56)),
            (["views.image_size=56", "backbone.name=vit_small_patch14_dinov2"], (56, None, 56)),
            (["views.image_size=128", "views.augment.image_size=96"], (128, None, 96)),
        ],
    )
    def test_of_ppd(self, settings: list[str], found: tuple[int, int | None, int]) -> None:
        assert sizes(given("folder_ppd", *settings)) == found

    def test_scenes_stay_uncropped(self) -> None:
        assert sizes(given("scenes_locloc", "views.image_size=24")) == (24, None, 24)

    def test_height_and_width(self) -> None:
        recipe = given("folder_locloc", "views.augment.image_size=[112, 224]")
        assert sizes(recipe.override(["views.image_size=448"])) == (448, 512, (224, 448))

    def test_what_was_given_before_stays_where_the_size_is_said_again(self) -> None:
        said = ["views.image_size=64", "views.resize=72", "views.augment.image_size=48"]
        assert sizes(given("folder_locloc", *said).override([said[0], "train.epochs=3"])) == (64, 72, 48)

    @pytest.mark.parametrize("value", ["small", "0", "2.5", "null"])
    def test_a_size_that_is_none_is_refused_as_ever(self, value: str) -> None:
        with pytest.raises(ConfigError, match=r"views\.image_size = "):
            given("folder_locloc", f"views.image_size={value}")


class TestStage1:
    def test_has_the_data_of_the_run(self, tmp_path: Path) -> None:
        recipe = given("scenes_locloc", "data.scenes.count=32", f"data.root={tmp_path}")
        assert recipe.stage1.data == recipe.data
        assert recipe.stage1.data.scenes.count == 32

    def test_but_for_what_is_given(self) -> None:
        recipe = given("scenes_ppd", "data.scenes.count=32", "data.scenes.seed=3", "stage1.data.scenes.count=64")
        assert (recipe.data.scenes.count, recipe.stage1.data.scenes.count, recipe.stage1.data.scenes.seed) == (
            32,
            64,
            3,
        )
        again = recipe.override(["data.scenes.count=32"])  # as of a run that goes on
        assert again == recipe
        assert recipe.override(["data.scenes.count=40"]).stage1.data.scenes.count == 64  # they were apart already

    def test_has_the_network_of_the_run(self) -> None:
        recipe = given("scenes_locloc", "backbone.depth=2", "backbone.drop_path=0.1", "backbone.options.reg_tokens=4")
        assert (recipe.stage1.backbone.depth, recipe.stage1.backbone.drop_path) == (2, 0)
        assert recipe.stage1.backbone.options == {"reg_tokens": 4}

    def test_one_that_is_asked_for_has_all_of_them(self, tmp_path: Path) -> None:
        recipe = given("folder_locloc", f"data.root={tmp_path}", "stage1.kind=dino", "backbone.drop_path=0.2")
        assert recipe.stage1.data == recipe.data
        assert (recipe.stage1.backbone.name, recipe.stage1.backbone.drop_path) == ("vit_small_patch16_224", 0)
        apart = given("folder_locloc", f"data.root={tmp_path}", "stage1.kind=dino", "stage1.data.root=other")
        assert (apart.data.root, apart.stage1.data.root) == (str(tmp_path), "other")

    def test_wrong_words_are_told(self) -> None:
        with pytest.raises(ConfigError, match=r"unknown key 'data\.scenes\.cuont'; did you mean 'data\.scenes\.count'"):
            given("scenes_locloc", "data.scenes.cuont=3")
        for wrong in ("data=3", "stage1=3", "stage1.data=3", "views=3", "backbone=3", "mask_settings=3"):
            with pytest.raises(ConfigError, match=wrong.partition("=")[0].partition(".")[0]):
                given("scenes_locloc", wrong)

    def test_one_of_no_kind_is_asked_for_it(self) -> None:
        with pytest.raises(ConfigError, match=r"stage1: it has several kinds; say which by stage1\.kind"):
            given("folder_locloc", "stage1.train.epochs=3")

    def test_what_it_cannot_be_is_told_with_its_name(self) -> None:
        with pytest.raises(
            ConfigError, match=r"stage1: .*generated scenes of 24 pixels are not what augment\.image_size"
        ):
            locloc.check(given("scenes_locloc", "data.scenes.image_size=24", "views.image_size=24"))


MADE = {"heads": [1], "image_size": [32, 32], "size": 32} | {
    "high": 0.2,
    "low": 0.05,
    "threshold": 0.1,
    "iterations": 2,
}


class TestSettingsOfMasks:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> str:
        (tmp_path / "object_masks.json").write_text(json.dumps(MADE | {"images": 3, "data": "x", "weights": "y"}))
        return f"object_masks={tmp_path}"

    def test_come_with_their_folder(self, folder: str) -> None:
        recipe = given("folder_locloc", folder)
        assert recipe.plain()["mask_settings"] == MADE

    def test_but_for_what_is_given(self, folder: str) -> None:
        recipe = given("folder_ppd", folder, "mask_settings.high=0.3", "mask_settings.heads=null")
        assert recipe.plain()["mask_settings"] == MADE | {"high": 0.3, "heads": None}
        assert recipe.override([folder]) == recipe  # as of a run that goes on
        whole = given("folder_ppd", folder, "mask_settings={high: 0.3}").mask_settings
        assert (whole.high, whole.low) == (0.3, 0.03)

    @pytest.mark.parametrize("setting", ["object_masks=gone", "init_from=x"])
    def test_masks_that_are_made_have_those_of_the_recipe(self, setting: str) -> None:
        assert given("folder_locloc", setting).mask_settings == given("folder_locloc").mask_settings

    def test_a_folder_that_cannot_be_read_is_told_where_it_is_opened(self, folder: str, tmp_path: Path) -> None:
        (tmp_path / "object_masks.json").write_text("no json")
        assert given("folder_locloc", folder).mask_settings == given("folder_locloc").mask_settings
        with pytest.raises(ConfigError, match=r"object_masks = 3"):
            given("folder_locloc", "object_masks=3")

    def test_by_the_words_of_a_command_and_kept_by_its_run(self, folder: str, tmp_path: Path) -> None:
        run = tmp_path / "run"
        config, _ = prepare("scenes_locloc", [folder], Verbs(), run)
        assert config.plain()["mask_settings"] == MADE
        run.mkdir()
        config.save(run / "config.yaml")
        (tmp_path / "object_masks.json").write_text(json.dumps(MADE | {"images": 3, "high": 0.4}))
        again, _ = prepare("scenes_locloc", [folder], Verbs(resume=True), run)
        assert again == config
