"""Which saved evaluation says where maps are cut, and what is said of it."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from vitrail.backbones import BackboneConfig, create
from vitrail.evaluation.features import weights_digest
from vitrail.evaluation.localization import LocalizationConfig
from vitrail.evaluation.result import Report, changes
from vitrail.localizers.centered_box import CenteredBox
from vitrail.localizers.lost import Lost
from vitrail.localizers.token_cut import TokenCut
from vitrail.recipes.chosen_cut import UNCHOSEN, cut_of, saved_evaluation
from vitrail.recipes.localizers import LocalizerWords


class Fixed(torch.nn.Module):
    """Weights with a digest, which nobody asks for maps."""

    mean, std, image_size, classes = (0.0,) * 3, (1.0,) * 3, (32, 32), None

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)


LOCALIZER: Any = Fixed()
DIGEST = weights_digest(LOCALIZER)
WORDS = {
    "held_out": "threshold {} was chosen on 9 held-out images",
    "test_set": "threshold {} was chosen on 6 of the images that are measured (threshold=test_set)",
}


@pytest.fixture
def words(tmp_path: Path) -> LocalizerWords:
    (tmp_path / "run" / "evaluation").mkdir(parents=True)
    return LocalizerWords("lost", None, str(tmp_path / "run"))


def report(words: LocalizerWords, name: str, at: float, day: int, **settings: Any) -> Path:
    """A report as `vitrail evaluate localization` leaves it, which chose `at`, on a day of June."""
    config = LocalizationConfig(**settings)
    card = {
        "config": config.plain() | config.settings()._asdict() | {"localizer": words.title},
        "preset": config.preset,
        "weights": DIGEST,
        "date": f"2026-06-{day:02}T00:00:00+00:00",
        "deviations": changes(LocalizationConfig(preset=config.preset).plain(), config.plain(), ("preset",)),
        "resolution": [40, 48],
    }
    said = WORDS.get(str(config.threshold), "threshold {} was given").format(at)
    path = Path(str(words.weights)) / "evaluation" / f"localization{name}.json"
    Report("localization", {}, card, {"chosen": {"loc": at, "words": said}}).save(path)
    return path


def test_held_out_images_go_before_a_newer_choice_on_the_measured_ones(
    words: LocalizerWords, caplog: pytest.LogCaptureFixture
) -> None:
    best = report(words, "-held", 0.25, day=2)
    report(words, "-older", 0.125, day=1)
    report(words, "", 0.75, day=8, threshold="test_set")
    report(words, "-given", 0.5, day=9, threshold=0.5)
    with caplog.at_level(logging.INFO):
        cut = cut_of(words, LOCALIZER)
    assert (cut.threshold, cut.image_size, cut.view, cut.enlarge) == (0.25, (40, 48), "squash", "bilinear")
    line = f"threshold 0.25 in the view squash 40 x 48: threshold 0.25 was chosen on 9 held-out images; {best}"
    assert caplog.messages == [line]
    assert line.endswith(cut.note)


def test_of_held_out_ones_that_without_deviations_goes_before(words: LocalizerWords) -> None:
    path = report(words, "", 0.25, day=1, preset="ppd")
    report(words, "-crop", 0.5, day=5, view="crop")
    found, where = saved_evaluation(words, DIGEST)
    assert found is not None
    assert (found.details["chosen"]["loc"], where) == (0.25, path)
    newer = report(words, "-newer", 0.75, day=6)
    assert saved_evaluation(words, DIGEST)[1] == newer


def test_a_held_out_one_with_deviations_goes_before_all_others_and_says_so(words: LocalizerWords) -> None:
    report(words, "", 0.75, day=8, threshold="test_set")
    report(words, "-crop", 0.5, day=5, view="crop", thresholds=20)
    cut = cut_of(words, LOCALIZER)
    assert (cut.threshold, cut.view) == (0.5, "crop")
    said = "; by an evaluation that deviates from the preset default: view = crop (standard null), thresholds = 20"
    assert said in cut.note
    assert "no evaluation chose" not in cut.note


@pytest.mark.parametrize("threshold", ["test_set", 0.5])
def test_where_none_chose_on_held_out_images_it_is_said(
    threshold: Any, words: LocalizerWords, caplog: pytest.LogCaptureFixture
) -> None:
    report(words, "", 0.5, day=1, threshold=threshold)
    with caplog.at_level(logging.INFO):
        cut = cut_of(words, LOCALIZER)
    assert cut.threshold == 0.5
    assert "no evaluation chose one on held-out images, which `vitrail evaluate localization` does" in caplog.text
    assert "deviates" not in cut.note  # the threshold itself is not told twice


def test_what_is_asked_for_goes_before_all(words: LocalizerWords, caplog: pytest.LogCaptureFixture) -> None:
    report(words, "", 0.25, day=1)
    with caplog.at_level(logging.INFO):
        cut = cut_of(words, LOCALIZER, threshold=0.625, size=64)
    assert (cut.threshold, cut.image_size, cut.note) == (0.625, 64, "the threshold was given")
    assert not caplog.messages
    assert cut_of(words, LOCALIZER, size=64).image_size == 64


@pytest.mark.parametrize("variant", ["component", "soft"])
def test_masks_need_no_threshold(words: LocalizerWords, variant: str) -> None:
    """Those of LOST, TokenCut and the floors are 0 and 1; what is soft has to be cut."""
    backbone: Any = create(
        BackboneConfig(name="vit_tiny_patch16_224", patch_size=8, image_size=32, embed_dim=24, depth=2, heads=2)
    )
    for each in (Lost(backbone, variant), TokenCut(backbone, variant)):
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        two = set(each(images).maps.unique().tolist()) <= {0.0, 1.0}
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            cut = cut_of(words, each)
        assert two == (variant == "component")
        assert two == (not said) == (cut.note == "the box is the same at every threshold")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cut_of(LocalizerWords("whole_image", None, None), CenteredBox(share=1.0))


def test_reports_of_others_are_passed_by(words: LocalizerWords) -> None:
    report(words._replace(name="attention"), "-other", 0.25, day=1)
    folder = Path(str(words.weights)) / "evaluation"
    (folder / "localization-half.json").write_text('{"protocol"')
    path = report(words, "-strange", 0.25, day=1)
    path.write_text(path.read_text().replace('"date"', '"day"'))
    with pytest.warns(UserWarning, match=f"the threshold {UNCHOSEN} was not chosen for lost"):
        assert cut_of(words, LOCALIZER).threshold == UNCHOSEN
    report(words, "", 0.25, day=1)
    assert saved_evaluation(words, DIGEST)[0] is not None
    with pytest.warns(UserWarning, match="is of other weights than .*run now holds"):
        assert saved_evaluation(words, "another") == (None, None)
