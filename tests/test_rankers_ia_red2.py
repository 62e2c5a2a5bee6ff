"""IA-RED2's ranker: interest in closed form, dropping as taking out, scores of both groups, files of both kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sparse_training import TINY, fresh, tiny_batch
from torch import Tensor

from vitrail.backbones import load, load_part, save_exported
from vitrail.backbones.parts import with_part
from vitrail.ops.selection import select
from vitrail.rankers import open_ranker
from vitrail.rankers.ia_red2 import (
    PART,
    IaRed2,
    IaRed2Vit,
    Interpreter,
    InterpretersConfig,
    interest,
    open_network,
    thirds,
)
from vitrail.rankers.source import Source


def network(**config: object) -> IaRed2Vit:
    found = IaRed2Vit(fresh(TINY), InterpretersConfig(**config))  # type: ignore[arg-type]
    for number, interpreter in enumerate(found.interpreters):
        torch.manual_seed(number)
        torch.nn.init.normal_(interpreter.qk.weight, std=0.5)  # type: ignore[arg-type, union-attr]
    return found.eval().requires_grad_(False)


def interpreted_file(folder: Path, **more: str) -> dict[str, str]:
    found = network()
    save_exported(with_part(found.backbone.export(), PART, found.interpreters, found.config), folder / "x.safetensors")
    return {"weights": str(folder / "x.safetensors")} | more


OPENINGS = {
    "group2": interpreted_file,
    "group1": lambda folder: interpreted_file(folder, variant="group1"),
}


def released(found: IaRed2Vit) -> dict[str, Tensor]:
    """The names of a released file: every block twice, and interpreters with values that nothing reads."""
    vit = found.backbone.vit.state_dict()
    state = {name: value.clone() for name, value in vit.items()}
    first = 0
    for group, size in enumerate(found.config.groups):
        for place in range(size):
            start = f"blocks.{first + place}."
            state |= {
                f"groups.{group}.block_list.{place}.{name[len(start) :]}": value.clone()
                for name, value in vit.items()
                if name.startswith(start)
            }
        first += size
        for kind, value in found.interpreters[group].qk.state_dict().items():  # type: ignore[union-attr]
            unused = torch.randn(len(value) // 2, *value.shape[1:])
            state[f"groups.{group}.agent.qk.{kind}"] = torch.cat((value, unused))
    return state | {"head.weight": torch.randn(4, 24), "head.bias": torch.zeros(4)}


def test_interest_in_closed_form() -> None:
    """Two heads of width 4: products 2 ln 3 and 0 over sqrt(4) are ln 3 and 0, chances 3/4 and 1/2."""
    query = torch.zeros(1, 2, 4)
    query[0, 0, 0] = 2.0
    key = torch.zeros(1, 2, 3, 4)
    key[0, 0, 0, 0] = torch.tensor(3.0).log()
    key[0, 0, 2, 0] = -torch.tensor(3.0).log()
    torch.testing.assert_close(interest(query, key), torch.tensor([[0.625, 0.5, 0.375]]))


def test_an_interpreter_normalizes_without_weights() -> None:
    torch.manual_seed(0)
    module, x = Interpreter(8, 2), torch.randn(2, 5, 8)
    assert {name for name, _ in module.named_parameters()} == {"qk.weight", "qk.bias"}
    torch.testing.assert_close(module(x), module(x * 3 + 1), atol=1e-4, rtol=0)
    normal = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    query = (normal[:, 0] @ module.qk.weight[:8].T + module.qk.bias[:8]).view(2, 2, 4)
    key = (normal[:, 1:] @ module.qk.weight[8:].T + module.qk.bias[8:]).view(2, 4, 2, 4).transpose(1, 2)
    torch.testing.assert_close(module(x), interest(query, key))
    with pytest.raises(ValueError, match="tokens are 8 wide, and 3 heads"):
        Interpreter(8, 3)


@pytest.mark.parametrize(("depth", "groups"), [(12, (4, 4, 4)), (4, (2, 1, 1)), (5, (2, 2, 1)), (2, (1, 1)), (1, (1,))])
def test_groups_are_thirds(depth: int, groups: tuple[int, ...]) -> None:
    assert thirds(depth) == groups


def test_groups_that_are_not_the_blocks() -> None:
    with pytest.raises(ValueError, match=r"groups of \[2, 1\] blocks are 3 in all, and the backbone has 4"):
        network(groups=(2, 1))


def test_with_everything_kept_it_is_the_plain_network() -> None:
    found, images = network(), tiny_batch().images
    kept = found(images, lambda group, interest: torch.ones_like(interest, dtype=torch.bool))
    torch.testing.assert_close(kept.cls, found.backbone(images).cls, atol=1e-6, rtol=0)
    none = found(images, dropping=0)
    torch.testing.assert_close(none.cls, kept.cls, atol=1e-6, rtol=0)
    assert all(each.all() for each in none.kept)


def test_dropping_is_taking_out() -> None:
    found, images = network(), tiny_batch().images
    ids = torch.tensor([[0, 3, 7], [1, 2, 15], [4, 5, 6]])
    wanted = torch.zeros(3, 16, dtype=torch.bool).scatter(1, ids, True)
    dropped = found(images, lambda group, interest: wanted)
    torch.testing.assert_close(dropped.cls, found.backbone(images, keep=ids).cls, atol=2e-6, rtol=0)


def test_what_is_dropped_stays_dropped() -> None:
    found = network()

    def choose(group: int, interest: Tensor) -> Tensor:
        return (torch.arange(16) % (group + 2) == 0).expand(3, -1)

    kept = found(tiny_batch().images, choose).kept
    assert [each[0].nonzero()[:, 0].tolist() for each in kept] == [list(range(0, 16, 2)), [0, 6, 12], [0, 12]]
    later = found(tiny_batch().images, choose, dropping=1).kept
    assert all(torch.equal(each, kept[0]) for each in later)


def test_group1_scores_what_enters_the_network() -> None:
    found, images = network(), tiny_batch().images
    tokens, _ = found.backbone.embed(images)
    wanted = found.interpreters[0](tokens).view(3, 4, 4)
    assert torch.equal(IaRed2(found, "group1")(images), wanted)
    assert wanted.std() > 0.05


def test_group2_scores_by_hand() -> None:
    found, images = network(), tiny_batch().images
    told = found(images)
    scores = IaRed2(found)(images)
    by_hand = torch.where(told.kept[0], told.interest[1], told.interest[0] - 1)
    torch.testing.assert_close(scores, by_hand.view(3, 4, 4))
    assert 0 < told.kept[0].sum() < told.kept[0].numel()
    assert scores[told.kept[0].view(3, 4, 4)].min() > 0 > scores[~told.kept[0].view(3, 4, 4)].max()


@pytest.mark.parametrize("variant", ["group2", "group1"])
def test_every_number_alone_and_in_a_batch(variant: str) -> None:
    ranker, images = IaRed2(network(), variant), torch.randn(3, 3, 24, 36, generator=torch.Generator().manual_seed(2))
    scores = ranker(images)
    assert scores.shape == (3, 4, 6)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, ranker(images, number=3))
    torch.testing.assert_close(scores[1:2], ranker(images[1:2]))
    for number in range(1, 25):
        assert all(len(set(row)) == number for row in select(scores, number).tolist())


def test_a_network_of_one_group_has_no_second() -> None:
    with pytest.raises(ValueError, match="group2 asks for group 2, and this network has 1"):
        IaRed2(network(groups=(4,)))


def test_our_file_round_trip(tmp_path: Path) -> None:
    found, images = network(groups=(1, 2, 1), heads=3), tiny_batch().images
    save_exported(
        with_part(found.backbone.export(), PART, found.interpreters, found.config), tmp_path / "x.safetensors"
    )
    ranker = open_ranker("ia_red2", str(tmp_path / "x.safetensors"))
    assert ranker.network.config == found.config
    assert torch.equal(ranker(images), IaRed2(found)(images))
    other = open_ranker("ia_red2", str(tmp_path / "x.safetensors"), variant="group1")
    assert torch.equal(other(images), IaRed2(found, "group1")(images))


@pytest.mark.parametrize("nested", [False, True])
def test_released_file_round_trip(nested: bool, tmp_path: Path) -> None:
    """A width of 384 with 6 heads, as in the released file, of which heads are guessed; three blocks are enough."""
    config = TINY.model_copy(update={"embed_dim": 384, "heads": 6, "depth": 3})
    found = IaRed2Vit(fresh(config)).eval()
    state = released(found)
    torch.save({"model": state} if nested else state, tmp_path / "ia_red2.pth")
    again = open_network(Source(str(tmp_path / "ia_red2.pth")))
    assert again.config == InterpretersConfig(groups=(1, 1, 1), heads=6)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in found.state_dict().items())
    assert again.backbone.report.layout == "IA-RED2"
    assert torch.equal(load(weights=tmp_path / "ia_red2.pth").vit.pos_embed, found.backbone.vit.pos_embed)


def test_errors_say_what_is_missing(tmp_path: Path) -> None:
    save_exported(fresh(TINY).export(), tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="holds no interpreters beside the backbone"):
        open_ranker("ia_red2", str(tmp_path / "plain.safetensors"))
    with pytest.raises(ValueError, match="the ranker ia_red2 needs weights"):
        open_ranker("ia_red2")
    with pytest.raises(ValueError, match="no variant 'group3'; known: group2, group1"):
        open_ranker("ia_red2", str(tmp_path / "plain.safetensors"), variant="group3")
    assert load_part(tmp_path / "plain.safetensors", PART) is None
