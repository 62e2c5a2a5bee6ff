"""What every mask promises: exact numbers, any grid, chance from the generator alone, and the three lines of a loop."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest
import timm
import torch
from torch import Tensor

import vitrail.masks
from vitrail.backbones import TimmViT
from vitrail.contracts import Mask
from vitrail.masks import Dpp, MaskConfig, build, visible

KINDS = get_args(MaskConfig.model_fields["kind"].annotation)
MASKS = [MaskConfig(kind=kind) for kind in KINDS] + [
    MaskConfig(kind="dpp", kernel="cosine", tau=0.2),
    MaskConfig(kind="dpp", randomness="mix"),
    MaskConfig(kind="attmask", hints=0.3),
    MaskConfig(kind="attmask", order="low"),
]
NAMES = [" ".join(f"{key}={value}" for key, value in each.model_dump(exclude_defaults=True).items()) for each in MASKS]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(batch: int, grid: tuple[int, int], patch: tuple[int, int] = (4, 4)) -> Tensor:
    return torch.randn(batch, 3, grid[0] * patch[0], grid[1] * patch[1], generator=seeded())


def masked(config: MaskConfig, x: Tensor, grid: tuple[int, int], hidden: float | Tensor, seed: int = 0) -> Tensor:
    attention = torch.rand(len(x), grid[0] * grid[1], generator=seeded(9))
    return build(config)(x, grid, hidden, attention=attention, generator=seeded(seed))


@pytest.mark.parametrize("config", MASKS, ids=NAMES)
class TestContract:
    @pytest.mark.parametrize("grid", [(6, 6), (1, 9), (9, 1), (2, 7), (1, 2)])
    def test_every_row_hides_exactly_as_many(self, config: MaskConfig, grid: tuple[int, int]) -> None:
        count = grid[0] * grid[1]
        x = images(3, grid)
        for hidden in (0.3, 0.45, 1, count - 1, 0):
            mask = masked(config, x, grid, hidden)
            assert mask.dtype == torch.bool
            assert mask.shape == (3, count)
            number = count - int(count * (1 - hidden)) if isinstance(hidden, float) else hidden
            assert mask.sum(1).tolist() == [number] * 3

    def test_numbers_for_each_image(self, config: MaskConfig) -> None:
        hidden = torch.tensor([0, 35, 1, 20, 0, 13])
        assert masked(config, images(6, (6, 6)), (6, 6), hidden).sum(1).equal(hidden)
        nothing = torch.zeros(6, dtype=torch.int64)
        assert not masked(config, images(6, (6, 6)), (6, 6), nothing).any()

    def test_one_image_and_none(self, config: MaskConfig) -> None:
        assert masked(config, images(1, (4, 6)), (4, 6), 0.75).sum().item() == 18
        assert masked(config, images(0, (4, 6)), (4, 6), 0.75).shape == (0, 24)

    def test_chance_comes_from_the_generator_alone(self, config: MaskConfig) -> None:
        x = images(8, (6, 6))
        first = masked(config, x, (6, 6), 0.5)
        state = torch.get_rng_state()
        assert masked(config, x, (6, 6), 0.5).equal(first)
        assert torch.get_rng_state().equal(state)
        drawn_anew = not masked(config, x, (6, 6), 0.5, seed=1).equal(first)
        assert drawn_anew == (config.kind != "attmask" or config.hints > 0)

    def test_the_global_generator_by_default(self, config: MaskConfig) -> None:
        x, attention, mask = images(2, (6, 6)), torch.rand(2, 36), build(config)
        masks = []
        for _ in range(2):
            torch.manual_seed(3)
            masks.append(mask(x, (6, 6), 0.5, attention=attention))
        assert masks[0].equal(masks[1])

    def test_images_are_left_alone_and_the_contract_is_met(self, config: MaskConfig) -> None:
        x = images(2, (3, 4))
        before = x.clone()
        masked(config, x.requires_grad_(), (3, 4), 0.5)
        assert x.equal(before)
        assert isinstance(build(config), Mask)
        assert build(config).needs_attention == (config.kind in ("attmask", "amt"))

    def test_errors_name_both_values(self, config: MaskConfig) -> None:
        x = images(2, (6, 6))
        with pytest.raises(ValueError, match=r"hidden is 36 patches of 36: .* hide at most 35"):
            masked(config, x, (6, 6), 36)
        with pytest.raises(ValueError, match=r"image height 24 does not divide into the 5 patches of a 5x6 grid"):
            masked(config, x, (5, 6), 0.5)
        with pytest.raises(ValueError, match=r"hidden is \[3\] of torch.int64; .* int64 \[2\]"):
            masked(config, x, (6, 6), torch.tensor([1, 2, 3]))

    def test_half_precision_images(self, config: MaskConfig) -> None:
        assert masked(config, images(2, (6, 6)).bfloat16(), (6, 6), 0.5).sum(1).tolist() == [18, 18]

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: whether a mask waits for one was not looked at")
    def test_no_host_sync(self, config: MaskConfig) -> None:
        x, attention = images(4, (6, 6)).cuda(), torch.rand(4, 36).cuda()
        generator = torch.Generator("cuda").manual_seed(0)
        mask = build(config)
        mask(x, (6, 6), 0.5, attention=attention, generator=generator)
        torch.cuda.set_sync_debug_mode("error")
        try:
            hidden = mask(x, (6, 6), 0.5, attention=attention, generator=generator)
            visible(hidden, 0.5)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert hidden.sum(1).tolist() == [18] * 4
        assert mask(x, (6, 6), 0.5, attention=attention, generator=seeded()).sum(1).tolist() == [18] * 4


def test_a_loop_of_your_own() -> None:
    backbone = TimmViT(timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0))
    images = torch.randn(2, 3, 224, 224)
    mask = Dpp(tau=0.5)(images, (14, 14), 0.75)
    tokens = backbone(images, keep=visible(mask))
    assert tokens.patches.shape == (2, 49, 192)
    assert "tokens = backbone(images, keep=visible(mask))" in (vitrail.masks.__doc__ or "")


def test_every_strategy_is_a_kind() -> None:
    """A class that fulfills the contract, in any file of the room, is what some kind builds."""
    folder = Path(vitrail.masks.__file__).parent
    found = set()
    for path in folder.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and any(
                isinstance(each, ast.FunctionDef) and each.name == "__call__" for each in node.body
            ):
                found.add((path.stem, node.name))
    built = [type(build(MaskConfig(kind=kind))) for kind in KINDS]
    assert found == {(each.__module__.split(".")[-1], each.__name__) for each in built}
    assert len(set(built)) == len(KINDS)
