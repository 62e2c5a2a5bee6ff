"""The class token's attention against an attention written out, and the votes of its heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from tiny_vit import images, tiny_vit, vit_file
from torch import Tensor

from vitrail.backbones import TimmViT
from vitrail.ops.selection import select
from vitrail.rankers import open_ranker
from vitrail.rankers.dino import Dino

OPENINGS = {
    "sum_attention": lambda folder: {"weights": vit_file(folder)},
    "mass_vote": lambda folder: {"weights": vit_file(folder), "variant": "mass_vote"},
    "registers": lambda folder: {"weights": vit_file(folder, options={"reg_tokens": 2})},
    "another size": lambda folder: {"weights": vit_file(folder), "image_size": (40, 24)},
}


def by_hand(backbone: TimmViT, x: Tensor) -> Tensor:
    """Softmax over all tokens of the last block's class query, `[B, H, N]`, from timm's own forward pass."""
    entered: list[Tensor] = []
    last = backbone.vit.blocks[-1]
    handle = last.norm1.register_forward_hook(lambda module, args, output: entered.append(output))
    backbone.vit(x)
    handle.remove()
    heads, width = backbone.heads, backbone.embed_dim // backbone.heads
    query, key, _ = last.attn.qkv(entered[0]).view(len(x), -1, 3, heads, width).permute(2, 0, 3, 1, 4)
    weights = (query @ key.transpose(2, 3) / width**0.5).softmax(-1)
    return weights[:, :, 0, backbone.prefix_tokens :]


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 3}])
def test_the_attention(options: dict[str, int]) -> None:
    backbone, x = tiny_vit(options=options), images(2, 32, 48)
    expected = by_hand(backbone, x)
    ranker = Dino(backbone)
    torch.testing.assert_close(ranker.attention(x), expected.view(2, 3, 4, 6))
    torch.testing.assert_close(ranker(x), expected.sum(1).view(2, 4, 6))
    assert (expected.sum(-1) < 1).all()  # the other tokens have their part, and a head's weight depends on it
    assert expected.sum(-1).std() > 0.01


def test_the_votes() -> None:
    backbone, x = tiny_vit(), images(2)
    attention = by_hand(backbone, x)
    ranker = Dino(backbone, "mass_vote")
    for number in (1, 4, 9, 15):
        votes = torch.zeros(2, 16)
        for b in range(2):
            for row in attention[b].double():
                reached = 0.0
                for patch in row.argsort(descending=True).tolist():
                    votes[b, patch] += 1
                    reached += float(row[patch])
                    if reached >= number / 16 * float(row.sum()):
                        break
        assert torch.equal(ranker(x, number=number).flatten(1), votes)
    assert torch.equal(ranker(x, number=16), torch.full((2, 4, 4), 3.0))


def test_votes_need_the_number() -> None:
    ranker = Dino(tiny_vit(), "mass_vote")
    assert ranker.needs_number
    assert not Dino(tiny_vit()).needs_number
    with pytest.raises(ValueError, match="the ranker dino with variant mass_vote depend on how many patches are kept"):
        ranker(images())


def test_teacher_and_student_of_dinos_files(tmp_path: Path) -> None:
    teacher, student = tiny_vit(embed_dim=64, heads=1), tiny_vit(seed=1, embed_dim=64, heads=1)
    content = {
        "teacher": {f"backbone.{name}": value for name, value in teacher.vit.state_dict().items()},
        "student": {f"module.backbone.{name}": value for name, value in student.vit.state_dict().items()},
        "epoch": 3,
    }
    content["teacher"]["head.mlp.0.weight"] = torch.zeros(3)
    torch.save(content, tmp_path / "checkpoint.pth")
    path, x = str(tmp_path / "checkpoint.pth"), images()
    assert torch.equal(open_ranker("dino", path)(x), Dino(teacher)(x))
    assert torch.equal(open_ranker("dino", path, key="student")(x), Dino(student)(x))


def test_a_looked_at_patch_comes_first() -> None:
    """A last block whose query finds the one bright patch."""
    backbone = tiny_vit(depth=1, heads=1)
    vit, last = backbone.vit, backbone.vit.blocks[0]
    for value in (vit.pos_embed, vit.cls_token, vit.patch_embed.proj.bias, last.attn.qkv.weight, last.attn.qkv.bias):
        value.zero_()
    last.attn.qkv.weight[24:48] = torch.eye(24)  # keys are the normalized tokens
    x = torch.zeros(1, 3, 32, 32)
    x[:, :, 8:16, 16:24] = 1.0  # row 1, column 2: patch 6
    bright = last.norm1(backbone.embed(x)[0])[0, 1 + 6]
    last.attn.qkv.bias[:24] = bright  # of each query
    assert select(Dino(backbone)(x), 1).tolist() == [[6]]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no variant 'mass'; known: sum_attention, mass_vote"):
        open_ranker("dino", vit_file(tmp_path), variant="mass")
    with pytest.raises(ValueError, match="variant is 'mass'; known"):
        Dino(tiny_vit(), "mass")
    with torch.device("meta"):
        closed = TimmViT(timm.create_model("vit_base_patch16_18x2_224", depth=2))
    with pytest.raises(ValueError, match="the ranker dino reads the last block's attention: "):
        Dino(closed)
