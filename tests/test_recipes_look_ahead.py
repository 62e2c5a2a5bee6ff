"""Recipes that train something else first refuse what they cannot train before that, and leave a free folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vitrail.recipes import cotap, leopart, ltrp, sparse
from vitrail.recipes.run import Verbs, family_of, look_ahead, resolve, run
from vitrail.train import RunFolder


@pytest.mark.parametrize(
    ("recipe", "module"),
    [
        ("scenes_leopart", leopart),
        ("scenes_cotap", cotap),
        ("scenes_ltrp", ltrp),
        ("scenes_dge", sparse),
    ],
)
def test_a_batch_that_is_too_large(recipe: str, module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "train_before", lambda *_: pytest.fail("begun"))
    config = resolve(recipe)
    names = [name for name in ("data", "scene_data") if getattr(config, name, None) is not None]
    few = [f"{name}.scenes.{which}=16" for name in names for which in ("count", "val_count")]
    config = config.override([*few, "train.global_batch_size=64"])
    with pytest.raises(ValueError, match=r"global_batch_size 64 is larger than the (16|32) images to train on"):
        run(config, Verbs(), tmp_path)
    RunFolder(tmp_path, config).close()
    with pytest.raises(pytest.fail.Exception, match="begun"):
        run(config.override(["train.global_batch_size=16"]), Verbs(), tmp_path)


def test_what_is_built_to_be_looked_at_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    config = resolve("scenes_dynamic_vit").override(["data.scenes.count=64", "data.scenes.val_count=16"])
    with caplog.at_level("INFO", "vitrail"):
        assert look_ahead(config, Verbs()) is not None
        assert caplog.text == ""  # of a classifier that is not trained yet, it would say that it teaches nothing
        family_of(config).build(config, 0, 1)
    assert "which teaches nothing" in caplog.text
    assert look_ahead(config, Verbs(resume=True)) is None
