"""MAE: the loss by hand for a given mask, what it must not see, positions, throwing, every mask, and its decoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vitrail.backbones import BackboneConfig, create, load, load_part, save_exported
from vitrail.contracts import Batch, Mask, Method, Step
from vitrail.masks import MaskConfig
from vitrail.methods.mae import Mae, MaeConfig, targets, thrown
from vitrail.nn.cls_attention import cls_attention
from vitrail.nn.masked_autoencoder import DecoderConfig, MaskedDecoder
from vitrail.nn.positions import sine_cosine

TINY = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2)
DECODER = DecoderConfig(embed_dim=16, depth=1, heads=2)
START = Step(0, 10)


class Given:
    """Hides what it was told, and remembers what it was asked."""

    needs_attention = False

    def __init__(self, hidden: Tensor, needs_attention: bool = False) -> None:
        self.hidden, self.needs_attention = hidden, needs_attention
        self.attention: Tensor | None = None

    def __call__(
        self,
        images: Tensor,
        grid: tuple[int, int],
        hidden: float | Tensor,
        *,
        attention: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        self.attention = attention
        return self.hidden


def method(config: MaeConfig | None = None, backbone: BackboneConfig = TINY, *, fresh: bool = True) -> Mae:
    torch.manual_seed(0)
    return Mae((config or MaeConfig(hidden=0.5)).model_copy(update={"decoder": DECODER}), create(backbone), fresh=fresh)


def batch(size: int = 3, sides: tuple[int, int] = (24, 24)) -> Batch:
    images = torch.randn(size, 3, *sides, generator=torch.Generator().manual_seed(1))
    return Batch(images, None, torch.arange(size))


def some_hidden(rows: int = 3, patches: int = 16, number: int = 8) -> Tensor:
    order = torch.rand(rows, patches, generator=torch.Generator().manual_seed(2)).argsort(1)
    return order < number


def pixels_of(image: Tensor, patch: int, side: int = 6, across: int = 4) -> Tensor:
    """The values of one patch, channel, row, column, cut out by hand."""
    y, x = divmod(patch, across)
    return image[:, y * side : (y + 1) * side, x * side : (x + 1) * side].reshape(-1)


def test_fulfills_the_contract() -> None:
    assert isinstance(method(), Method)
    assert isinstance(Given(some_hidden()), Mask)


@pytest.mark.parametrize("normalized", [True, False])
def test_the_loss_by_hand(normalized: bool) -> None:
    module, given, hidden = method(MaeConfig(hidden=0.5, normalized_targets=normalized)), batch(), some_hidden()
    module.mask = Given(hidden)
    errors = []
    for b in range(3):
        kept = (~hidden[b]).nonzero()[:, 0][None]
        tokens = module.backbone(given.images[b : b + 1], keep=kept)
        predicted = module.decoder(tokens.cls, tokens.patches, kept, (4, 4))[0]
        for n in hidden[b].nonzero()[:, 0].tolist():
            wanted = pixels_of(given.images[b], n).double()
            if normalized:
                spread = ((wanted - wanted.mean()) ** 2).sum() / (len(wanted) - 1)
                wanted = (wanted - wanted.mean()) / (spread + 1e-6).sqrt()
            errors.append(((predicted[n].double() - wanted) ** 2).mean())
    assert len(errors) == 24
    total = module.training_step(given, START).total
    assert total.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


def test_targets_in_closed_form() -> None:
    """A patch of two values in equal parts: +-1 scaled by the unbiased variance; a flat patch gives 0."""
    images = torch.zeros(1, 3, 2, 4)
    images[0, :, :, 0], images[0, :, :, 1] = 1.0, 3.0
    images[0, :, :, 2:] = 7.0
    found = targets(images, (2, 2), True)
    spread = 12 / 11  # of six 1 and six 3: mean 2, sum of squares 12
    assert found.shape == (1, 2, 12)
    torch.testing.assert_close(found[0, 0].abs(), torch.full((12,), 1 / (spread + 1e-6) ** 0.5))
    torch.testing.assert_close(found[0, 0].sum(), torch.tensor(0.0))
    assert torch.equal(found[0, 1], torch.zeros(12))
    raw = targets(images.half(), (2, 2), False)
    assert raw.dtype == torch.float32
    assert torch.equal(raw[0, 1], torch.full((12,), 7.0))


def test_predictions_do_not_depend_on_hidden_pixels() -> None:
    module, given, hidden = method().eval(), batch(), some_hidden()
    covered = hidden.view(3, 1, 4, 1, 4, 1).expand(3, 3, 4, 6, 4, 6).reshape(3, 3, 24, 24)
    elsewhere = torch.where(covered, torch.randn_like(given.images) * 9, given.images)
    assert torch.equal(module.reconstruct(given.images, hidden), module.reconstruct(elsewhere, hidden))
    shown = torch.where(covered, given.images, given.images + 1)
    assert not torch.allclose(module.reconstruct(given.images, hidden), module.reconstruct(shown, hidden))


def test_the_gradient_of_the_pixels_reaches_visible_patches_through_the_encoder_alone() -> None:
    module, given = method(MaeConfig(hidden=0.5, normalized_targets=False)), batch()
    module.mask = Given(hidden := some_hidden())
    images = given.images.requires_grad_()
    predictions = module.reconstruct(images, hidden)
    (gradient,) = torch.autograd.grad(predictions.square().sum(), images)
    reached = torch.stack([torch.stack([pixels_of(one, n).abs().sum() > 0 for n in range(16)]) for one in gradient])
    assert torch.equal(reached, ~hidden)


class TestThrow:
    @pytest.mark.parametrize("number", [1, 2, 7, 10, 15])
    @pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
    def test_counts(self, share: float, number: int) -> None:
        hidden = some_hidden(5, number=number)
        left = thrown(hidden, share)
        assert not (left & ~hidden).any()
        assert left.sum(1).tolist() == [max(number - int(share * number + 1e-9), 1)] * 5

    def test_a_row_that_hides_nothing_counts_nothing(self) -> None:
        assert not thrown(torch.zeros(2, 5, dtype=torch.bool), 0.5).any()

    def test_is_uniform(self) -> None:
        hidden = torch.ones(4000, 4, dtype=torch.bool)
        share = thrown(hidden, 0.5, torch.Generator().manual_seed(0)).float().mean(0)
        torch.testing.assert_close(share, torch.full((4,), 0.5), atol=0.04, rtol=0)

    def test_the_loss_is_of_what_is_left(self) -> None:
        module, given, hidden = method(MaeConfig(hidden=0.5, throw=0.75)), batch(), some_hidden()
        module.mask = Given(hidden)
        torch.manual_seed(5)
        total = module.training_step(given, START).total
        torch.manual_seed(5)
        left = thrown(hidden, 0.75)
        assert left.sum(1).tolist() == [2, 2, 2]
        errors = (module.reconstruct(given.images, hidden) - module.targets(given.images)).square().mean(-1)
        torch.testing.assert_close(total, errors[left].mean())


class TestStart:
    def test_fixed_positions_are_sines_and_stay(self) -> None:
        module = method()
        positions = module.backbone.vit.pos_embed
        assert torch.equal(positions[0, 0], torch.zeros(24))
        torch.testing.assert_close(positions[0, 1:], sine_cosine((4, 4), 24))
        assert not positions.requires_grad
        assert all(positions is not each for group in module.parameter_groups() for each in group["params"])

    def test_learned_positions_learn(self) -> None:
        module = method(MaeConfig(hidden=0.5, positions="learned"))
        module.training_step(batch(), START).total.backward()
        gradient = module.backbone.vit.pos_embed.grad
        assert gradient is not None
        assert gradient.abs().sum() > 0

    def test_matrices_are_drawn_as_published(self) -> None:
        module = method(backbone=TINY.model_copy(update={"embed_dim": 96}))
        vit = module.backbone.vit
        for weight, (into, out) in {
            vit.blocks[0].attn.qkv.weight: (96, 288),
            vit.patch_embed.proj.weight: (108, 96),
            vit.blocks[1].mlp.fc1.weight: (96, 384),
        }.items():
            bound = (6 / (into + out)) ** 0.5
            assert 0.97 * bound < weight.abs().max() <= bound
        assert not vit.blocks[0].attn.qkv.bias.any()
        assert vit.cls_token.std().item() == pytest.approx(0.02, rel=0.3)

    @pytest.mark.parametrize("positions", ["fixed", "learned"])
    def test_weights_that_are_not_fresh_are_left_alone(self, positions: str) -> None:
        torch.manual_seed(3)
        backbone = create(TINY)
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        module = Mae(MaeConfig(decoder=DECODER, positions=positions), backbone, fresh=False)  # type: ignore[arg-type]
        assert all(torch.equal(value, before[name]) for name, value in module.backbone.state_dict().items())
        assert module.backbone.vit.pos_embed.requires_grad == (positions == "learned")

    def test_a_width_that_has_no_fixed_positions(self) -> None:
        with pytest.raises(ValueError, match="width 30 is not a multiple of 4"):
            method(backbone=TINY.model_copy(update={"embed_dim": 30}))

    def test_every_trained_weight_is_in_one_group(self) -> None:
        module = method()
        grouped = [id(each) for group in module.parameter_groups() for each in group["params"]]
        assert len(grouped) == len(set(grouped))
        assert set(grouped) == {id(each) for each in module.parameters() if each.requires_grad}
        decayed = {id(each) for group in module.parameter_groups() if group["weight_decay"] for each in group["params"]}
        for spared in (module.backbone.vit.cls_token, module.decoder.mask_token, module.decoder.embed.bias):
            assert id(spared) not in decayed
        assert id(module.decoder.embed.weight) in decayed


def assert_learns(module: nn.Module, images: Batch) -> None:
    losses = module.training_step(images, START)  # type: ignore[operator]
    losses.total.backward()
    assert losses.total.isfinite()
    for name, value in module.named_parameters():
        if value.requires_grad:
            assert value.grad is not None, name
            assert value.grad.isfinite().all(), name


@pytest.mark.parametrize("kind", ["random", "block", "inverse_block", "dpp", "attmask", "amt"])
def test_every_mask_trains(kind: str) -> None:
    module = method(MaeConfig(hidden=0.75, mask=MaskConfig(kind=kind)))  # type: ignore[arg-type]
    assert module.hide(batch().images).sum(1).tolist() == [12, 12, 12]
    assert_learns(module, batch())
    parts = module.training_step(batch(), START).parts
    assert set(parts) == ({"greedy_length"} if kind == "dpp" else set())


def test_a_guided_mask_gets_the_encoder_s_attention_without_gradient() -> None:
    module, given = method(), batch()
    module.mask = mask = Given(some_hidden(), needs_attention=True)
    module.training_step(given, START)
    assert mask.attention is not None
    assert not mask.attention.requires_grad
    torch.testing.assert_close(mask.attention, cls_attention(module.backbone, given.images))
    torch.testing.assert_close(mask.attention.sum(1), torch.ones(3))


@pytest.mark.parametrize(("hidden", "number"), [(0.5, 10), (0.01, 1), (0.74, 15), (0.9, 19)])
def test_odd_shares_grids_and_images_that_are_not_square(hidden: float, number: int) -> None:
    """A grid of 4 x 5, asked of weights made for 4 x 4. 20 * (1 - 0.9) is a bit less than 2, as in MAE's rule."""
    module = method(MaeConfig(hidden=hidden))
    given = batch(2, (24, 30))
    assert module.hide(given.images).sum(1).tolist() == [number] * 2
    assert module.reconstruct(given.images, module.hide(given.images)).shape == (2, 20, 108)
    assert_learns(module, given)


def test_images_that_hold_no_whole_patches_and_shares_that_leave_nothing() -> None:
    with pytest.raises(ValueError, match="image height 25 is not a multiple of the patch size 6"):
        method().training_step(batch(2, (25, 24)), START)
    with pytest.raises(ValueError, match=r"hidden 0\.99 is 16 patches of 16"):
        method(MaeConfig(hidden=0.99)).training_step(batch(), START)


def test_bf16() -> None:
    module = method()
    module.mask = Given(some_hidden())
    wide = module.training_step(batch(), START).total
    with torch.autocast("cpu", torch.bfloat16):
        narrow = module.training_step(batch(), START).total
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, wide, rtol=0.02, atol=0)
    narrow.backward()
    assert module.decoder.predict.weight.grad is not None
    assert module.decoder.predict.weight.grad.isfinite().all()


def test_exported_and_read_again_it_reconstructs_the_same(tmp_path: Path) -> None:
    module, given, hidden = method(MaeConfig(hidden=0.5, normalized_targets=False)).eval(), batch(), some_hidden()
    save_exported(module.export(), tmp_path / "x.safetensors")
    part = load_part(tmp_path / "x.safetensors", "decoder")
    assert part is not None
    assert part.normalized_targets is False
    again = Mae(module.config, load(weights=tmp_path / "x.safetensors"), fresh=False).eval()
    assert not torch.equal(again.reconstruct(given.images, hidden), module.reconstruct(given.images, hidden))
    part.fill(again.decoder)
    assert torch.equal(again.reconstruct(given.images, hidden), module.reconstruct(given.images, hidden))
    config = DecoderConfig.parse(part.config["decoder"])
    part.fill(MaskedDecoder(config, 24, (6, 6), (4, 4)))


def test_it_learns_more_than_the_mean() -> None:
    """Images that are one ramp each: what is visible tells the rest. Predicting 0 has a loss near 1."""
    torch.manual_seed(0)
    slope = torch.randn(32, 3, 1, 1)
    images = slope * torch.linspace(-1, 1, 24)[None, None, None] + torch.zeros(32, 3, 24, 24)
    module = method(MaeConfig(hidden=0.5))
    optimizer = torch.optim.AdamW(module.parameter_groups(), lr=3e-3)
    given, losses = Batch(images, None, torch.arange(32)), []
    for step in range(60):
        optimizer.zero_grad()
        losses.append(module.training_step(given, Step(step, 60)).total)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 < 0.9 < losses[0]
