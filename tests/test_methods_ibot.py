"""iBOT: both losses by hand, the center of all patches, hidden numbers, heads, the mask token, and empty masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vitrail.backbones import BackboneConfig, create
from vitrail.config import ConfigError
from vitrail.contracts import Batch, Method, Step
from vitrail.masks import MaskConfig
from vitrail.methods.dino import Dino, DinoConfig
from vitrail.methods.ibot import Ibot, IbotConfig
from vitrail.nn.cls_attention import cls_attention
from vitrail.nn.prototype_head import HeadConfig
from vitrail.nn.soft_targets import TargetConfig
from vitrail.ops.sinkhorn import sinkhorn
from vitrail.ops.spatial_entropy import spatial_entropy

TINY = BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2)
HEAD = HeadConfig(prototypes=10, hidden_dim=16, bottleneck_dim=8)
OWN = HeadConfig(prototypes=7, hidden_dim=12, bottleneck_dim=8, layers=2)
AT_ONCE = TargetConfig(warmup_epochs=0)
PLAIN = IbotConfig(
    head=HEAD, targets=AT_ONCE, patch_targets=AT_ONCE, frozen_epochs=0, momentum=0.9, mask=MaskConfig(kind="random")
)
SEPARATE = PLAIN.model_copy(update={"patch_head": OWN})
START = Step(0, 10)


class Given:
    """Hides what it was told, and remembers what it was asked."""

    def __init__(self, hidden: Tensor, needs_attention: bool = False) -> None:
        self.hidden, self.needs_attention = hidden, needs_attention
        self.asked: dict[str, Any] = {}

    def __call__(self, images: Tensor, grid: tuple[int, int], hidden: Any, **more: Any) -> Tensor:
        self.asked = {"images": images, "grid": grid, "hidden": hidden, **more}
        return self.hidden


def method(config: IbotConfig = PLAIN, hidden: Tensor | None = None) -> Ibot:
    """A student that has moved away from its teacher; where `hidden` is given, that is the mask."""
    torch.manual_seed(0)
    module = Ibot(config, create(TINY))
    with torch.no_grad():
        for part in (module.backbone, module.head, module.patch_head):
            for value in () if part is None else part.parameters():
                value.add_(torch.randn_like(value) * 0.05)
        module.mask_token.normal_()
        for targets in (module.targets, module.patch_targets):
            targets.center.normal_(std=0.02)
    if hidden is not None:
        module.mask = Given(hidden)
    return module


def batch(size: int = 2, sides: tuple[int, ...] = (24, 24, 12, 12)) -> Batch:
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(size, 3, side, side, generator=generator) for side in sides]
    return Batch(views[0], None, torch.arange(size), tuple(views[1:]))


def doubled(given: Batch) -> Batch:
    return given._replace(images=given.images.double(), views=tuple(view.double() for view in given.views))


def unequal() -> Tensor:
    """Of four crops: three hidden patches, none, one, fifteen."""
    hidden = torch.zeros(4, 16, dtype=torch.bool)
    hidden[0, [1, 7, 8]] = hidden[2, 11] = hidden[3, :15] = True
    return hidden


@torch.no_grad()
def by_hand(module: Ibot, given: Batch, hidden: Tensor) -> tuple[float, float]:
    """The loss between views and that of patches: crop by crop, pair by pair, patch by patch."""
    views, size = (given.images, *given.views), len(given.images)
    teacher_head, head = module.teacher_patch_head or module.teacher_head, module.patch_head or module.head

    def teacher(view: int, b: int) -> Any:
        return module.teacher(views[view][b : b + 1])

    def student(view: int, b: int) -> Any:
        covered = {"hidden": hidden[view * size + b][None], "mask_token": module.mask_token} if view < 2 else {}
        return module.backbone(views[view][b : b + 1], **covered)

    pairs, patches = [], []
    for t in range(2):
        for b in range(size):
            seen, target = teacher(t, b), module.teacher_head(teacher(t, b).cls[0])
            target = ((target - module.targets.center) / 0.07).softmax(0)
            for s in range(len(views)):
                if s != t:
                    pairs.append(-(target * (module.head(student(s, b).cls[0]) / 0.1).log_softmax(0)).sum())
            terms = []
            for n in hidden[t * size + b].nonzero()[:, 0].tolist():
                wanted = ((teacher_head(seen.patches[0, n]) - module.patch_targets.center) / 0.07).softmax(0)
                terms.append(-(wanted * (head(student(t, b).patches[0, n]) / 0.1).log_softmax(0)).sum())
            patches.append(sum(terms) / max(len(terms), 1))
    return torch.stack(pairs).mean().item(), sum(float(each) for each in patches) / len(patches)


def test_fulfills_the_contract() -> None:
    assert isinstance(method(), Method)


@pytest.mark.parametrize("config", [PLAIN, SEPARATE], ids=["shared", "separate"])
def test_both_losses_by_hand(config: IbotConfig) -> None:
    weights = config.override(["cls_weight=0.5", "patch_weight=2"])
    module, given = method(weights, unequal()).double(), doubled(batch())
    losses = module.training_step(given, START)
    of_views, of_patches = by_hand(module, given, unequal())
    assert losses.parts["views"].item() == pytest.approx(of_views, rel=1e-12)
    assert losses.parts["patches"].item() == pytest.approx(of_patches, rel=1e-12)
    assert losses.total.item() == pytest.approx(0.5 * of_views + 2 * of_patches, rel=1e-12)
    assert losses.parts["hidden"].item() == pytest.approx(19 / 64)


def test_patches_have_a_temperature_of_their_own() -> None:
    module = method(PLAIN.override(["patch_targets.temperature=0.5"]), unequal())
    plain = method(PLAIN, unequal())
    (changed, was) = (each.training_step(batch(), START).parts for each in (module, plain))
    assert torch.equal(changed["views"], was["views"])
    assert not torch.allclose(changed["patches"], was["patches"])


@pytest.mark.parametrize("config", [PLAIN, SEPARATE], ids=["shared", "separate"])
def test_the_patch_center_is_that_of_all_patches_logits(config: IbotConfig) -> None:
    """Hidden or not: from the comparison of their mean, without their logits."""
    module, given = method(config.override(["head.fixed_norm=false"]), unequal()), batch()
    with torch.no_grad():
        if module.teacher_head.norms is not None:
            module.teacher_head.norms.uniform_(0.5, 2)
        tokens = module.teacher(torch.cat((given.images, given.views[0])))
        logits = (module.teacher_patch_head or module.teacher_head)(tokens.patches)
        of_crops = module.teacher_head(tokens.cls)
    before, of_views = module.patch_targets.center.clone(), module.targets.center.clone()
    module.training_step(given, START)
    assert torch.equal(module.patch_targets.center, before)
    module.after_step(START)
    torch.testing.assert_close(module.patch_targets.center, 0.9 * before + 0.1 * logits.mean((0, 1)))
    torch.testing.assert_close(module.targets.center, 0.9 * of_views + 0.1 * of_crops.mean(0))


@pytest.mark.parametrize("config", [PLAIN, SEPARATE], ids=["shared", "separate"])
def test_micro_batches_move_the_centers_as_the_whole_batch(config: IbotConfig) -> None:
    whole, parts, given = method(config), method(config), batch(4)
    hidden = torch.zeros(8, 16, dtype=torch.bool)
    hidden[:, :5] = True
    whole.mask = Given(hidden)
    whole.training_step(given, START)
    for rows, number in ((slice(0, 3), 3), (slice(3, 4), 1)):
        parts.mask = Given(hidden[: 2 * number])
        views = tuple(view[rows] for view in given.views)
        parts.training_step(Batch(given.images[rows], None, given.indices[rows], views), START)
    for each in (whole, parts):
        each.after_step(START)
    torch.testing.assert_close(parts.targets.center, whole.targets.center)
    torch.testing.assert_close(parts.patch_targets.center, whole.patch_targets.center)


def test_the_bf16_center_is_computed_in_float32() -> None:
    module, given = method(hidden=unequal()), batch()
    exact = method(hidden=unequal())
    exact.training_step(given, START)
    with torch.autocast("cpu", torch.bfloat16):
        embedded = module.teacher_head.embed(module.teacher(torch.cat((given.images, given.views[0]))).patches)
        narrow = module.training_step(given, START).total
    assert embedded.dtype == narrow.dtype == torch.float32
    wanted = module.teacher_head.compare(embedded.double().mean((0, 1)).float())
    torch.testing.assert_close(module.patch_targets.seen / module.patch_targets.count, wanted)
    narrow.backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in module.parameters())


def test_sinkhorn_for_patches() -> None:
    config = PLAIN.override(["patch_targets.kind=sinkhorn"])
    module, given, hidden = method(config, unequal()), batch(), unequal()
    with torch.no_grad():
        crops = torch.cat((given.images, given.views[0]))
        target = sinkhorn(module.teacher_head(module.teacher(crops).patches)[hidden], 0.07, 3)
        tokens = module.backbone(crops, hidden=hidden, mask_token=module.mask_token)
        terms = -(target * (module.head(tokens.patches)[hidden] / 0.1).log_softmax(-1)).sum(-1)
    expected = (terms[:3].mean() + terms[3] + terms[4:].mean()) / 4
    torch.testing.assert_close(module.training_step(given, START).parts["patches"], expected)


@pytest.mark.parametrize("kind", ["centering", "sinkhorn"])
@pytest.mark.parametrize("config", [PLAIN, SEPARATE], ids=["shared", "separate"])
def test_where_no_patch_is_hidden_there_is_no_patch_loss(config: IbotConfig, kind: str) -> None:
    """All weights get a finite gradient nevertheless: several processes wait for each other's."""
    config = config.override(["ratio.probability=1e-9", f"patch_targets.kind={kind}"])
    module, given = method(config), batch()
    losses = module.training_step(given, START)
    assert losses.parts["patches"] == 0
    assert losses.parts["hidden"] == 0
    losses.total.backward()
    for name, value in module.named_parameters():
        if value.requires_grad:
            assert value.grad is not None, name
            assert value.grad.isfinite().all(), name
    assert not module.mask_token.grad.any()  # type: ignore[union-attr]
    plain = Dino(DinoConfig(**{name: getattr(config, name) for name in DinoConfig.model_fields}), create(TINY))
    plain.load_state_dict(
        {name: value for name, value in module.state_dict().items() if name in plain.state_dict()}, strict=True
    )
    torch.testing.assert_close(plain.training_step(given, START).total, losses.total)


class TestMasks:
    def test_the_mask_token_learns_and_is_not_decayed(self) -> None:
        module = method(hidden=unequal())
        module.training_step(batch(), START).total.backward()
        assert module.mask_token.grad is not None
        assert module.mask_token.grad.any()
        groups = [group for group in module.parameter_groups() if any(v is module.mask_token for v in group["params"])]
        assert [group["weight_decay"] for group in groups] == [0.0]
        assert "weight_decay_end" not in groups[0]

    def test_it_starts_at_zero(self) -> None:
        assert not Ibot(PLAIN, create(TINY)).mask_token.any()

    def test_local_crops_are_not_masked_and_the_teacher_sees_all(self) -> None:
        everything = unequal()
        everything[:, :15] = True
        few, many, given = method(hidden=unequal()), method(hidden=everything), batch()
        one, two = few.training_step(given, START), many.training_step(given, START)
        assert not torch.allclose(one.total, two.total)
        assert torch.equal(few.targets.seen, many.targets.seen)
        assert torch.equal(few.patch_targets.seen, many.patch_targets.seen)

    def test_numbers_lie_in_the_ratio_s_range(self) -> None:
        module, crops = method(), torch.randn(200, 3, 24, 24)
        torch.manual_seed(0)
        counts = module.hide(crops, module.teacher(crops)).sum(1)
        masked = counts[counts > 0]
        assert 60 < len(masked) < 140  # every other one
        assert set(masked.tolist()) == set(range(1, 8))  # 0.1 to 0.5 of 16, rounded down
        always = method(PLAIN.override(["ratio={mean: 0.5, spread: 0, probability: 1}"]))
        assert always.hide(crops, always.teacher(crops)).sum(1).unique().tolist() == [8]

    def test_a_ratio_that_hides_nothing_is_refused(self) -> None:
        module = method(PLAIN.override(["ratio={mean: 0.05, spread: 0.01}"]))
        crops = torch.randn(2, 3, 24, 24)
        with pytest.raises(ValueError, match=r"has 16 patches, and at most 0\.06 of them are hidden, which is none"):
            module.hide(crops, module.teacher(crops))

    def test_a_guided_mask_reads_the_teacher_s_attention(self) -> None:
        module, given = method(), batch()
        module.mask = mask = Given(unequal(), needs_attention=True)
        module.training_step(given, START)
        crops = torch.cat((given.images, given.views[0]))
        torch.testing.assert_close(mask.asked["attention"], cls_attention(module.teacher, crops))
        assert not torch.allclose(mask.asked["attention"], cls_attention(module.backbone, crops))
        assert mask.asked["grid"] == (4, 4)
        assert torch.equal(mask.asked["images"], crops)

    @pytest.mark.parametrize("kind", ["random", "block", "inverse_block", "dpp", "attmask", "amt"])
    def test_every_kind_trains(self, kind: str) -> None:
        config = PLAIN.model_copy(update={"mask": MaskConfig(kind=kind)})  # type: ignore[arg-type]
        module = method(config.override(["ratio={mean: 0.33, spread: 0.07, probability: 1}"]))
        losses = module.training_step(batch(), START)
        losses.total.backward()
        assert losses.total.isfinite()
        assert 4 / 16 <= losses.parts["hidden"] <= 6 / 16
        assert ("greedy_length" in losses.parts) == (kind == "dpp")
        for name, value in module.named_parameters():
            assert not value.requires_grad or value.grad.isfinite().all(), name  # type: ignore[union-attr]


class TestHeads:
    def test_shared_is_one_head(self) -> None:
        module = method()
        assert module.patch_head is module.teacher_patch_head is None
        assert "patch_projector" not in module.export().metadata["parts"]

    def test_separate_heads_follow_and_are_exported_both(self) -> None:
        module, given = method(SEPARATE, unequal()), batch()
        assert module.patch_targets.center.shape == (7,)
        module.training_step(given, START).total.backward()
        assert module.patch_head is not None
        assert module.teacher_patch_head is not None
        assert all(value.grad is not None for value in module.patch_head.parameters())
        before = module.teacher_patch_head.prototypes.clone()
        module.after_step(START)
        expected = 0.9 * before + 0.1 * module.patch_head.prototypes
        torch.testing.assert_close(module.teacher_patch_head.prototypes, expected)
        exported = module.export()
        assert exported.metadata["parts"] == {
            "projector": HEAD.plain(),
            "patch_projector": OWN.plain(),
            "centers": {},
        }
        assert torch.equal(exported.state["patch_projector.prototypes"], module.teacher_patch_head.prototypes)
        assert torch.equal(exported.state["centers.center2"], module.patch_targets.center)

    @pytest.mark.parametrize("config", [PLAIN, SEPARATE], ids=["shared", "separate"])
    def test_prototypes_are_frozen_at_first(self, config: IbotConfig) -> None:
        module = method(config.override(["frozen_epochs=1", "epochs=5"]))
        resting = [group for group in module.parameter_groups() if "frozen_until" in group]
        assert {group["frozen_until"] for group in resting} == {1 / 5}
        heads = [each for each in (module.head, module.patch_head) if each is not None]
        assert {id(value) for group in resting for value in group["params"]} == {id(each.prototypes) for each in heads}

    @pytest.mark.parametrize("config", [PLAIN, SEPARATE], ids=["shared", "separate"])
    def test_groups_hold_every_trained_weight_once(self, config: IbotConfig) -> None:
        module = method(config.override(["regularizers=[{kind: drloc, hidden: 8}]"]))
        grouped = [id(each) for group in module.parameter_groups() for each in group["params"]]
        assert len(grouped) == len(set(grouped))
        assert set(grouped) == {id(each) for each in module.parameters() if each.requires_grad}


def test_regularizers_see_the_masked_crops() -> None:
    entropy = "regularizers=[{kind: spatial_entropy, weight: {peak: 0.5}}]"
    module, given = method(PLAIN.override([entropy]), unequal()), batch()
    losses = module.training_step(given, START)
    crops = torch.cat((given.images, given.views[0]))
    tokens = module.backbone(crops, scores=(-1,), hidden=unequal(), mask_token=module.mask_token)
    expected = spatial_entropy(tokens.scores[-1]).mean()
    torch.testing.assert_close(losses.parts["spatial_entropy"], expected.detach())
    rest = losses.parts["views"] + losses.parts["patches"]
    torch.testing.assert_close(losses.total - rest, 0.5 * expected)


def test_the_state_holds_both_centers_and_no_pending_sums() -> None:
    names = {name for name in method().state_dict() if "targets." in name}
    assert names == {"targets.center", "patch_targets.center"}


def test_epochs_that_nobody_counts() -> None:
    with pytest.raises(ConfigError, match="0 and 3 and 0 epochs"):
        method(PLAIN.override(["patch_targets.warmup_epochs=3"]))
    with pytest.raises(ValueError, match="holds 1 view of each image and 2 global ones"):
        method().training_step(batch(2, (24,)), START)
