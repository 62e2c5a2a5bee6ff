"""CoTAP: each term by hand, which images it sees, what reaches which network, settings that the paper leaves open."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.test_methods_leopart import HEAD, START, TINY, batch, by_loops
from vitrail.backbones import create
from vitrail.backbones.architecture import add_object_filter
from vitrail.contracts import Batch, Method
from vitrail.methods.cotap import Cotap, CotapConfig, objects_of, partners
from vitrail.nn.object_filter import ObjectFilterConfig
from vitrail.ops.correspondence import correspondence, correspondence_bce
from vitrail.ops.overlap import overlap, within
from vitrail.ops.prototype_entropy import pool_3x3, prototype_entropy
from vitrail.ops.ranking_ap import cotap_loss
from vitrail.ops.ranking_ap.reference import cotap_loss as dense_cotap
from vitrail.ops.roi import roi_align
from vitrail.ops.sinkhorn import sinkhorn

TERMS = ("dense_alignment", "image_alignment", "correspondence", "concentration", "prototype_entropy")


def config(*terms: str, **settings: Any) -> CotapConfig:
    values: dict[str, Any] = {name: float(name in terms) for name in TERMS} | {"momentum": 0.9}
    return CotapConfig(head=HEAD, cells=3, **(values | settings))


def method(chosen: CotapConfig, filtered: bool = False) -> Cotap:
    torch.manual_seed(0)
    backbone = create(TINY)
    if filtered:
        add_object_filter(backbone, ObjectFilterConfig(prototypes=5))
    module = Cotap(chosen, backbone)
    with torch.no_grad():
        for value in (*module.backbone.parameters(), *module.head.parameters()):
            value.add_(torch.randn_like(value) * 0.05)
    return module


def mixed(size: int = 4, sides: tuple[int, ...] = (24, 24, 12, 12)) -> Batch:
    """Object-centric images at even places; with a last view more, of companions, where sides say so."""
    return batch(size, sides)._replace(sources=torch.arange(size) % 2)


def part(module: Cotap, given: Batch, name: str) -> float:
    torch.manual_seed(3)
    return module.training_step(given, START).parts[name].item()


def test_fulfills_the_contract() -> None:
    assert isinstance(method(config("dense_alignment")), Method)


def test_dense_alignment_is_leoparts() -> None:
    module = method(config("dense_alignment"))
    assert part(module, mixed(), "dense_alignment") == pytest.approx(by_loops(module, mixed()), rel=1e-5)  # type: ignore[arg-type]


def test_without_local_crops_the_global_ones_alone_are_aligned() -> None:
    module = method(config("dense_alignment", local_patches=False))
    given = mixed()
    alone = Batch(given.images, None, given.indices, given.views[:1], given.boxes[:, :2])  # type: ignore[index]
    assert part(module, mixed(), "dense_alignment") == pytest.approx(by_loops(module, alone), rel=1e-5)  # type: ignore[arg-type]


def test_image_alignment_sees_object_centric_images_alone() -> None:
    module, given = method(config("image_alignment")), mixed()
    views, terms = (given.images, *given.views), []
    with torch.no_grad():
        for t in range(2):
            target = sinkhorn(module.teacher_head(module.teacher(views[t][0::2]).cls), 0.05, 3)
            for s, view in enumerate(views):
                if s != t:
                    logs = (module.head(module.backbone(view[0::2]).cls) / 0.1).log_softmax(-1)
                    terms.append(-(target * logs).sum(-1).mean())
    assert part(module, given, "image_alignment") == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


def test_concentration_learns_from_the_companion_of_the_first_view() -> None:
    module, given = method(config("concentration")), mixed(sides=(24, 24, 12, 24))
    with torch.no_grad():
        target = sinkhorn(module.teacher_head(module.teacher(given.views[-1][0::2]).cls), 0.05, 3)
        logs = (module.head(module.backbone(given.images[0::2]).cls) / 0.1).log_softmax(-1)
    assert part(module, given, "concentration") == pytest.approx(-(target * logs).sum(-1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("features", ["head", "trunk"])
@pytest.mark.parametrize("scale", ["half", "raw"])
def test_correspondences_of_the_same_view(features: str, scale: Any) -> None:
    module = method(config("correspondence", correspondence_features=features, score_scale=scale, tau1=-0.1))
    given = mixed()
    torch.manual_seed(3)
    other = partners(4, "other")
    with torch.no_grad():
        seen = []
        for network, head in ((module.backbone, module.head), (module.teacher, module.teacher_head)):
            patches = network(given.images).patches
            mine = head.embed(patches) if features == "head" else patches
            seen.append(correspondence(mine, mine[other], scale))
        expected = dense_cotap(seen[0].double(), seen[1].double(), -0.1, 0.5).mean()
    assert part(module, given, "correspondence") == pytest.approx(expected.item(), rel=1e-5)


def test_correspondences_across_views() -> None:
    module, given = method(config("correspondence", correspondence_views="cross_view")), mixed()
    torch.manual_seed(3)
    other = partners(4, "other")
    boxes = given.boxes
    assert boxes is not None
    box = overlap(boxes[:, 0], boxes[:, 1])
    seen = []
    with torch.no_grad():
        for network, head, number in ((module.backbone, module.head, 0), (module.teacher, module.teacher_head, 1)):
            tokens = network((given.images, *given.views)[number])
            maps = head.embed(tokens.patches).transpose(1, 2).unflatten(2, tokens.grid)
            cells = roi_align(maps, within(box, boxes[:, number], tokens.grid), 3).flatten(2).transpose(1, 2)
            seen.append(correspondence(cells, cells[other]))
    expected = cotap_loss(*seen).mean().item()
    assert seen[0].shape == (4, 81)
    assert part(module, given, "correspondence") == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_and_samples_in_their_place() -> None:
    given = mixed()
    torch.manual_seed(3)
    other = partners(4, "other")
    module = method(config("correspondence", loss="bce"))
    with torch.no_grad():
        mine = module.head.embed(module.backbone(given.images).patches)
        theirs = module.teacher_head.embed(module.teacher(given.images).patches)
        expected = correspondence_bce(correspondence(mine, mine[other]), correspondence(theirs, theirs[other])).mean()
    assert part(module, given, "correspondence") == pytest.approx(expected.item(), rel=1e-5)
    full = part(method(config("correspondence")), given, "correspondence")
    sampled = part(method(config("correspondence", pairs=100)), given, "correspondence")
    assert sampled != full
    assert sampled == pytest.approx(full, abs=0.1)
    assert part(method(config("correspondence", pairs=10_000)), given, "correspondence") == full
    with pytest.raises(ValueError, match="score_scale is raw"):
        config("correspondence", loss="bce", score_scale="raw")


def test_prototypes_learn_from_the_teacher_of_object_centric_images() -> None:
    module, given = method(config("prototype_entropy"), filtered=True), mixed()
    with torch.no_grad():
        tokens = module.teacher(given.images[0::2])
        pooled = pool_3x3(tokens.patches, tokens.grid)
    filter_ = module.backbone.object_filter
    assert filter_ is not None
    expected = prototype_entropy(filter_.prototypes, pooled, 0.1).item()
    assert part(module, given, "prototype_entropy") == pytest.approx(expected, rel=1e-5)
    module.training_step(given, START).total.backward()
    reached = {name for name, value in module.named_parameters() if value.grad is not None and value.grad.any()}
    assert len(reached) == 1
    assert next(iter(reached)).endswith("object_filter.prototypes")


def test_prototypes_are_told_apart_by_the_images_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    module, given = method(config("prototype_entropy"), filtered=True), mixed()
    elsewhere = torch.randn(2, 24, 3, 3)
    monkeypatch.setattr("vitrail.methods.cotap.gathered", lambda pooled: torch.cat((pooled, elsewhere)))
    with torch.no_grad():
        tokens = module.teacher(given.images[0::2])
        pooled = torch.cat((pool_3x3(tokens.patches, tokens.grid), elsewhere))
    assert module.backbone.object_filter is not None
    expected = prototype_entropy(module.backbone.object_filter.prototypes, pooled, 0.1).item()
    assert part(module, given, "prototype_entropy") == pytest.approx(expected, rel=1e-5)


def test_the_total_is_the_weighted_sum() -> None:
    weights = dict(zip(TERMS, (1.0, 0.5, 2.0, 0.25, 3.0), strict=True))
    module = method(config(**weights), filtered=True)
    given = mixed(sides=(24, 24, 12, 24))
    losses = module.training_step(given, START)
    assert set(losses.parts) == set(TERMS)
    expected = sum(weights[name] * value.item() for name, value in losses.parts.items())
    assert losses.total.item() == pytest.approx(expected, rel=1e-5)
    losses.total.backward()
    assert all(value.grad is None for value in (*module.teacher.parameters(), *module.teacher_head.parameters()))
    assert module.backbone.object_filter is not None
    assert all(value.grad is not None for value in module.backbone.object_filter.parameters())


def test_scene_centric_images_reach_the_dense_terms_alone() -> None:
    def changed(name: str) -> bool:
        module = method(config(name), filtered=True)
        given = mixed(sides=(24, 24, 12, 24))
        images, *views = (view.clone() for view in (given.images, *given.views))
        for view in (images, *views):
            view[1::2] = torch.randn_like(view[1::2])
        return part(module, given, name) != part(module, given._replace(images=images, views=tuple(views)), name)

    assert [name for name in TERMS if changed(name)] == ["dense_alignment", "correspondence"]


def test_a_batch_of_one_kind_counts_as_object_centric() -> None:
    assert objects_of(batch(3)).tolist() == [0, 1, 2]
    assert objects_of(mixed(4)).tolist() == [0, 2]
    module = method(config("image_alignment"))
    assert part(module, batch(3), "image_alignment") > 0


class TestPartners:
    def test_nobody_is_their_own(self) -> None:
        for _ in range(50):
            for count in (2, 3, 7):
                other = partners(count, "other")
                assert sorted(other.tolist()) == list(range(count))
                assert (other != torch.arange(count)).all()

    def test_any_may_be_their_own(self) -> None:
        drawn = torch.stack([partners(3, "any") for _ in range(200)])
        assert (drawn == torch.arange(3)).any()
        assert (drawn.sort(1).values == torch.arange(3)).all()

    def test_a_single_image_has_none(self) -> None:
        with pytest.raises(ValueError, match="a batch of 1 image"):
            partners(1, "other")
        with pytest.raises(ValueError, match="at least 2 per device"):
            method(config("correspondence")).check_batch(1)
        method(config("dense_alignment")).check_batch(1)


def test_missing_views_are_told() -> None:
    with pytest.raises(ValueError, match="companion=True"):
        method(config("concentration")).training_step(batch(2, (24, 24)), START)
    with pytest.raises(ValueError, match="4 views, the last of 12 pixels, the first of 24"):
        method(config("concentration")).training_step(batch(2, (24, 24, 12, 12)), START)
    with pytest.raises(ValueError, match="OverlappingCrops"):
        method(config("dense_alignment")).training_step(batch()._replace(boxes=None), START)


def test_every_weight_is_in_one_group_and_new_ones_learn_at_their_rate() -> None:
    module = method(config(*TERMS, new_rate=10.0), filtered=True)
    groups = module.parameter_groups()
    scales = [(id(value), group["lr_scale"]) for group in groups for value in group["params"]]
    assert len(scales) == len(dict(scales)) == sum(1 for value in module.parameters() if value.requires_grad)
    filter_ = module.backbone.object_filter
    assert filter_ is not None
    new = {id(value) for value in (*filter_.parameters(), *module.head.parameters())}
    assert all(scale == (10.0 if number in new else 1.0) for number, scale in scales)


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_exports_what_is_asked_for_with_its_filter(network: Any, tmp_path: Any) -> None:
    from vitrail.backbones import load, save_exported

    module = method(config(*TERMS, exported=network), filtered=True)
    exported = module.export()
    assert exported.metadata["network"] == network
    save_exported(exported, tmp_path / "backbone.safetensors")
    again = load(None, str(tmp_path / "backbone.safetensors"))
    mine = module.backbone if network == "student" else module.teacher
    images = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        assert torch.equal(again.eval()(images).patches, mine.eval()(images).patches)
    assert again.object_filter is not None


def pictures(seed: int, count: int = 8) -> Batch:
    """Smooth colored noise: patches that are alike and others that are not."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (24, 24), mode="bilinear")
    return Batch(images, None, torch.arange(count), (images,))


@torch.no_grad()
def found(module: Cotap, given: Batch) -> float:
    """Of the tenth of all pairs that the teacher holds to be most alike, the share in the student's tenth."""
    mine = module.head.embed(module.backbone(given.images).patches)
    theirs = module.teacher_head.embed(module.teacher(given.images).patches)
    p, q = (correspondence(each, each.roll(1, 0)) for each in (mine, theirs))
    most = p.shape[1] // 10
    ranked = torch.zeros_like(p, dtype=torch.bool).scatter_(1, p.topk(most).indices, True)
    return float(ranked.gather(1, q.topk(most).indices).float().mean())


def distilled(monkeypatch: pytest.MonkeyPatch | None = None) -> Cotap:
    """A student that starts afresh beside a teacher that stays; with `monkeypatch`, of targets dealt out at random."""
    torch.manual_seed(0)
    module = Cotap(config("correspondence", momentum=1.0), create(TINY))
    torch.manual_seed(1)
    module.teacher, module.teacher_head = create(TINY), type(module.head)(HEAD, 24)
    if monkeypatch is not None:
        monkeypatch.setattr(
            "vitrail.methods.cotap.cotap_loss",
            lambda p, q, *tau: cotap_loss(p, q[:, torch.randperm(q.shape[1])], *tau),
        )
    optimizer = torch.optim.AdamW([*module.backbone.parameters(), *module.head.parameters()], lr=3e-3)
    for number in range(60):
        module.training_step(pictures(number), START).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        module.after_step(START)
    return module


def test_it_learns_which_patches_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    given, trained = pictures(1000, 32), distilled()
    torch.manual_seed(0)
    untrained = Cotap(config("correspondence"), create(TINY))
    untrained.teacher, untrained.teacher_head = trained.teacher, trained.teacher_head
    before, after, control = (found(each, given) for each in (untrained, trained, distilled(monkeypatch)))
    assert after > before + 0.1
    assert after > control + 0.1
