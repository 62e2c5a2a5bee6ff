"""Localizers by words: what is read of them, what is opened, what is refused before anything is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_vit import vit_file

from vitrail.backbones import load, save_exported
from vitrail.contracts import Exported, Localizer
from vitrail.evaluation.heat_maps import HeatMaps
from vitrail.localizers.attention import Attention
from vitrail.localizers.centered_box import CenteredBox
from vitrail.localizers.lost import Lost
from vitrail.localizers.ranker import Ranked
from vitrail.recipes.localizers import (
    LocalizerWords,
    localizer_in,
    open_localizers,
    open_words,
    parse_localizer,
    titled,
)


def test_words() -> None:
    assert parse_localizer("lost") == LocalizerWords("lost", None, None)
    assert parse_localizer("lost:soft=x.pth") == LocalizerWords("lost", "soft", "x.pth")
    assert parse_localizer("attention:0,3=x.pth").heads == (0, 3)
    assert parse_localizer("attention:first_three").heads is None
    ranker = parse_localizer("ranker:dino:mass_vote=x.pth").ranker
    assert ranker is not None
    assert (ranker.name, ranker.variant, ranker.weights) == ("dino", "mass_vote", "x.pth")
    for bad in ("", "=x", "lost=", "lost:"):
        with pytest.raises(ValueError, match=r"--localizer .* is not NAME, NAME=WEIGHTS or"):
            parse_localizer(bad)
    assert parse_localizer("lost").given("x.pth") == parse_localizer("lost=x.pth").given("x.pth")
    with pytest.raises(ValueError, match=r"named twice, x\.pth with the localizer and y\.pth"):
        parse_localizer("lost=x.pth").given("y.pth")


def test_titles_tell_localizers_apart(tmp_path: Path) -> None:
    (tmp_path / "cam").mkdir()
    words = titled(
        ["attention=a/one.pth", "attention=b/one.pth", "attention:0", "whole_image", "ranker:center"], "w.pth"
    )
    assert list(words) == ["attention a/one", "attention b/one", "attention:0", "whole_image", "ranker:center"]
    assert [each.weights for each in words.values()] == ["a/one.pth", "b/one.pth", "w.pth", None, None]
    assert list(titled([f"heat_maps={tmp_path / 'cam'}"], "w.pth")) == ["heat_maps"]
    with pytest.raises(ValueError, match="the localizer lost x is named twice; name it once"):
        titled(["lost", "lost"], "x.pth")
    with pytest.raises(ValueError, match=r"no localizer is named; give --weights RUN, .* known names: attention, cam"):
        titled([])


def test_weights_say_what_they_were_trained_to_be(tmp_path: Path) -> None:
    plain = vit_file(tmp_path)
    assert localizer_in(plain) == LocalizerWords("attention", None, plain)
    assert localizer_in("pretrained").name == "attention"
    assert list(open_localizers([], plain)) == ["attention"]
    exported = load(plain).export()
    run = str(tmp_path / "run.safetensors")
    save_exported(Exported(exported.state, exported.metadata | {"localizer": "ppd"}), Path(run))
    assert list(titled([], run)) == ["ppd"]
    with pytest.raises(ValueError, match="there is no file of weights"):
        titled([], "nowhere.pth")


def test_what_is_opened(tmp_path: Path) -> None:
    weights = vit_file(tmp_path)
    (tmp_path / "maps").mkdir()
    texts = ["attention:1", "lost", "ranker:center", "whole_image", f"heat_maps={tmp_path / 'maps'}"]
    opened = open_localizers(texts, weights, device="cpu")
    kinds = (Attention, Lost, Ranked, CenteredBox, HeatMaps)
    assert [type(each) for each in opened.values()] == list(kinds)
    assert all(isinstance(each, Localizer) for each in list(opened.values())[:4])
    attention = opened["attention:1"]
    assert isinstance(attention, Attention)
    assert attention.heads == (1,)
    assert not any(value.requires_grad for value in attention.parameters())
    small = open_words(parse_localizer("whole_image"), image_size=48)
    assert isinstance(small, CenteredBox)
    assert small.image_size == (48, 48)


def test_what_is_wrong_is_told_before_anything_is_opened(tmp_path: Path) -> None:
    for words, said in (
        ("atention", "no localizer 'atention'; did you mean 'attention'"),
        ("attention:some=x.pth", "attention has no variant 'some'; known: all_heads, first_three"),
        ("whole_image:big", "whole_image has no variants; leave 'big' out"),
        ("lost", "the localizer lost needs weights: give"),
        (f"lost={tmp_path / 'x.pth'}", "there is no file of weights"),
        ("ranker:centre", "no ranker 'centre'; did you mean 'center'"),
        ("ranker:center:left", "the ranker center has no variants"),
        ("heat_maps", "heat_maps names no folder of maps; say heat_maps=FOLDER"),
        ("heat_maps=nowhere", "no folder of heat maps 'nowhere'"),
    ):
        with pytest.raises(ValueError, match=said):
            parse_localizer(words).check()
    for words in ("whole_image", "ranker:center", "lost=pretrained", f"heat_maps={tmp_path}"):
        parse_localizer(words).check()
    with pytest.raises(ValueError, match="needs the name of one"):
        open_localizers(["ranker"], vit_file(tmp_path))
