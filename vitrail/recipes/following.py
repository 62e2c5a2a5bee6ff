"""Settings of LocLoc and PPD that follow others, unless they are given themselves.

    views.image_size     takes views.resize and views.augment.image_size along, in proportion
    data, backbone       take those of stage1 along that were the same
    object_masks         brings mask_settings, as the folder's file tells them

Nothing follows that does not change: a run that is taken up again keeps what it was started with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitrail.data.object_masks import ObjectMasksConfig, read_about

ITS_OWN = frozenset({"image_size", "drop_path", "gradient_checkpointing"})
"""Of a backbone: what its weights do not decide, so that two trainings of one network may differ in it."""
Given = Callable[[str], bool]


def followed(before: Mapping[str, Any], values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Plain values of a recipe after `overrides`, in which others have followed.

    Args:
        before: the recipe's plain values.
        values: the same with the overrides in them; changed in place. What is wrong in them stays: they are validated
            later.
        overrides: of the form `a.b=c`.
    """
    keys = [text.partition("=")[0].strip() for text in overrides]

    def given(name: str) -> bool:
        return any(f"{key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{key}.") for key in keys)

    if isinstance(values["views"], dict) and isinstance(values["backbone"], dict):
        _resize(before["views"], values["views"], _patch(values["backbone"]), given)
    if isinstance(values["stage1"], dict):
        first, old = values["stage1"], before["stage1"] or {}
        for name, apart in (("data", frozenset[str]()), ("backbone", ITS_OWN)):
            if isinstance(values[name], dict) and isinstance(first.setdefault(name, {}), dict):
                _keep_alike(before[name], old.get(name), values[name], first[name], f"stage1.{name}", apart, given)
    if values["object_masks"] != before["object_masks"] and isinstance(values["mask_settings"], dict):
        made = _settings_of(values["object_masks"])
        values["mask_settings"] |= {name: made[name] for name in made if not given(f"mask_settings.{name}")}
    return values


def _resize(old: Mapping[str, Any], views: dict[str, Any], patch: int, given: Given) -> None:
    """The picture's and the classifier's size, by the ratio of the new size to the old one."""
    size, was = views.get("image_size"), old["image_size"]
    if not isinstance(size, int) or size < 1 or size == was:
        return
    if old["resize"] is not None and not given("views.resize"):
        views["resize"] = max(round(old["resize"] * size / was), size)
    if given("views.augment.image_size") or not isinstance(views.get("augment"), dict):
        return
    seen = old["augment"]["image_size"]
    sides = [seen] if isinstance(seen, int) else seen
    scaled = [size if side == was else max(round(side * size / was / patch), 1) * patch for side in sides]
    views["augment"]["image_size"] = scaled[0] if isinstance(seen, int) else scaled


def _patch(backbone: Mapping[str, Any]) -> int:
    """Pixels a side of a patch, as far as settings tell: else those of most ViTs."""
    size = backbone.get("patch_size")
    named = re.search(r"patch(\d+)", str(backbone.get("name")))
    return size if isinstance(size, int) and size > 0 else int(named[1]) if named else 16


def _keep_alike(
    before: Mapping[str, Any],
    old: Mapping[str, Any] | None,
    values: Mapping[str, Any],
    first: dict[str, Any],
    place: str,
    apart: frozenset[str],
    given: Given,
) -> None:
    """Settings of the first stage (`old`, now `first`) that were as the run's own (`before`, now `values`) stay so.

    All of them where there was no first stage.
    """
    for name, value in values.items():
        own = f"{place}.{name}"
        was = None if old is None else old.get(name)
        if isinstance(value, Mapping):
            if isinstance(first.setdefault(name, {}), dict):
                below = before.get(name)
                _keep_alike(below if isinstance(below, Mapping) else {}, was, value, first[name], own, apart, given)
        elif name not in apart and not given(own) and (old is None or was == before.get(name)):
            first[name] = value


def _settings_of(folder: Any) -> dict[str, Any]:
    """How the masks in a folder were made; nothing where it cannot be read, which is told when it is opened."""
    if not isinstance(folder, str):
        return {}
    try:
        about = read_about(Path(folder).expanduser())
    except ValueError:
        return {}
    return {name: about[name] for name in ObjectMasksConfig.model_fields if name in about}
