"""Localizers by name: what the catalog finds, and what does not open."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from processes import python
from typer.testing import CliRunner

import vitrail.localizers
from vitrail import catalog
from vitrail.cli import app
from vitrail.localizers import open_localizer
from vitrail.localizers.centered_box import CenteredBox


def test_the_catalog_names_the_files_that_can_be_opened() -> None:
    entries = {entry.name: entry for entry in catalog.localizers()}
    known = {"attention", "cam", "centered_box", "grad_cam", "lost", "ranker", "token_cut", "whole_image"}
    assert known <= set(entries)
    assert not {"build", "labels", "maps"} & set(entries)
    folder = Path(vitrail.localizers.__file__).parent
    for name, entry in entries.items():
        assert "\ndef from_source(source: Source" in (folder / f"{name}.py").read_text()
        assert entry.module == f"vitrail.localizers.{name}"
        assert 10 < len(entry.summary) < 110
        assert not entry.summary.endswith(".")


def test_the_catalog_says_what_opening_says() -> None:
    for entry in catalog.localizers():
        if entry.name == "ranker":  # asks its ranker
            continue
        if entry.weights:
            with pytest.raises(ValueError, match=re.escape(f"{entry.name} needs weights: give {entry.weights};")):
                open_localizer(entry.name)
        else:
            open_localizer(entry.name)
        known = f"known: {', '.join(entry.variants)}" if entry.variants else "has no variants"
        with pytest.raises(ValueError, match=re.escape(known)):
            open_localizer(entry.name, weights="pretrained" if entry.weights else None, variant="nonsense")
    assert {each.name for each in catalog.localizers() if not each.weights} == {"centered_box", "whole_image"}


def test_listed() -> None:
    lines = CliRunner().invoke(app, ["list", "localizers"]).output.splitlines()
    assert [line.split()[0] for line in lines[1:] if line[2:3].strip()] == [each.name for each in catalog.localizers()]
    at = next(number for number, line in enumerate(lines) if line.startswith("  lost"))
    assert lines[at + 1].strip().startswith("weights: the file of a ViT")
    assert lines[at + 2].strip() == "variants: component, soft"


def test_opened_by_name() -> None:
    found = open_localizer("centered_box", image_size=(32, 48), share=0.5)
    assert isinstance(found, CenteredBox)
    assert (found.image_size, found.share) == ((32, 48), 0.5)
    assert not found.training


def test_unknown_names_and_sizes() -> None:
    with pytest.raises(ValueError, match="there is no localizer 'lots'; did you mean 'lost'"):
        open_localizer("lots")
    with pytest.raises(ValueError, match="there is no localizer 'maps'"):
        open_localizer("maps")
    with pytest.raises(ValueError, match="image_size is 0; it is pixels"):
        open_localizer("whole_image", image_size=0)
    with pytest.raises(ValueError, match="the localizer whole_image has no setting 'share'; it has none"):
        open_localizer("whole_image", share=0.5)
    with pytest.raises(AttributeError, match="has no attribute 'open'"):
        vitrail.localizers.open  # noqa: B018


def test_the_room_is_light() -> None:
    code = "import sys, vitrail.localizers; print('timm' in sys.modules or 'torch' in sys.modules)"
    done = python("-c", code)
    assert done.stdout.strip() == "False"
