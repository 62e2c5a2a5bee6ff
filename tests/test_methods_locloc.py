"""LocLoc and PPD in training: what learns and what rests, closed forms, refusals; and that both learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from object_scenes import squares
from tiny_vit import images, tiny_vit
from torch.nn import functional

from vitrail.contracts import Batch, Method, Step
from vitrail.data import EvalTransformConfig, Loader, TrainTransformConfig, build_eval_transform
from vitrail.data.mask_views import MaskViews, MaskViewsConfig
from vitrail.methods.locloc import Locloc, LoclocConfig
from vitrail.methods.ppd import PpdConfig, PpdMethod
from vitrail.nn.deconvolution import GegConfig, PpdGeneratorConfig
from vitrail.ops.mask_regression import mask_regression

CLASSES = ("red", "green", "blue")
HALF = (0.5, 0.5, 0.5)
STEP = Step(0, 10)
BOTH = ["locloc", "ppd"]


def make(name: str, *, seed: int = 0, classes: Any = CLASSES, **config: Any) -> Any:
    backbone = tiny_vit(seed)
    if name == "locloc":
        generator = GegConfig(channels=8, width=12, **config.pop("generator", {}))
        return Locloc(LoclocConfig(generator=generator, **config), backbone, classes)
    generator = PpdGeneratorConfig(hidden=16, width=12)
    return PpdMethod(PpdConfig(generator=generator, crop=1.0, **config), backbone, classes)


def batch(parts: str = "both", count: int = 4) -> Batch:
    image, view = images(count), images(count, seed=1)
    mask = (torch.rand(count, 1, 32, 32) > 0.5).float()
    labels = torch.arange(count) % 3
    views = {"both": (mask, view), "generator": (mask,), "classifier": ()}[parts]
    return Batch(view if parts == "classifier" else image, labels, torch.arange(count), views)


@pytest.mark.parametrize("name", BOTH)
class TestBoth:
    def test_the_contract(self, name: str) -> None:
        method = make(name)
        assert isinstance(method, Method)
        losses = method.training_step(batch(), STEP)
        assert set(losses.parts) == {"segmentation", "cross_entropy", "top1"}
        assert torch.allclose(losses.total, losses.parts["segmentation"] + losses.parts["cross_entropy"])

    @pytest.mark.parametrize("parts", ["both", "generator", "classifier"])
    def test_what_learns_gets_a_gradient_and_the_backbone_none(self, name: str, parts: str) -> None:
        method = make(name, parts=parts).train()
        method.training_step(batch(parts), STEP).total.backward()
        for part, module in (("generator", method.localizer.generator), ("classifier", method.localizer.classifier)):
            if parts in ("both", part):
                assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in module.parameters())
            else:
                assert module is None
        assert all(value.grad is None and not value.requires_grad for value in method.backbone.parameters())
        held = {id(value) for group in method.parameter_groups() for value in group["params"]}
        assert held == {id(value) for value in method.parameters() if value.requires_grad}

    def test_the_backbone_stays_in_evaluation_mode(self, name: str) -> None:
        method = make(name).train()
        assert not any(part.training for part in method.backbone.modules())
        assert method.localizer.generator.training

    def test_a_part_that_was_trained_before_is_kept(self, name: str) -> None:
        first = make(name, parts="generator").train()
        generator = first.localizer.generator
        first.training_step(batch("generator"), STEP)  # its averages move
        kept = {key: value.clone() for key, value in generator.state_dict().items()}
        second = make(name, parts="classifier").train()
        second = type(second)(second.config, second.backbone, CLASSES, generator=generator).train()
        assert not generator.training
        optimizer = torch.optim.SGD(second.parameter_groups(), 0.1)
        second.training_step(batch("classifier"), STEP).total.backward()
        optimizer.step()
        assert all(torch.equal(value, kept[key]) for key, value in generator.state_dict().items())
        assert {key.split(".")[0] for key in second.export().state} >= {f"{name}_generator", f"{name}_classifier"}

    def test_rates(self, name: str) -> None:
        method = make(name, generator_rate=4.0, weight_decay=0.1)
        scales = {id(value): group["lr_scale"] for group in method.parameter_groups() for value in group["params"]}
        assert {scales[id(value)] for value in method.localizer.generator.parameters()} == {4.0}
        assert {scales[id(value)] for value in method.localizer.classifier.parameters()} == {1.0}
        assert {group["weight_decay"] for group in method.parameter_groups()} == {0.0, 0.1}

    def test_refusals(self, name: str) -> None:
        with pytest.raises(ValueError, match="a classifier needs at least 2 classes, and the images have 1"):
            make(name, classes=("bird",))
        with pytest.raises(ValueError, match="a classifier needs at least 2 classes, and the images have 0"):
            make(name, classes=None)
        make(name, classes=None, parts="generator")
        method = make(name)
        with pytest.raises(ValueError, match="the classifier needs labels"):
            method.training_step(batch()._replace(labels=None), STEP)
        with pytest.raises(ValueError, match="images have any number of labels"):
            method.training_step(batch()._replace(labels=torch.zeros(4, 3)), STEP)
        with pytest.raises(ValueError, match=r"a batch of 1 views.*is not what parts=both learns from"):
            method.training_step(batch("classifier"), STEP)
        with pytest.raises(ValueError, match="is not what parts=both learns from"):
            method.training_step(batch()._replace(views=batch().views[::-1]), STEP)
        with pytest.raises(ValueError, match="a batch of 1 image per device cannot be normalized over"):
            method.check_batch(1)
        method.check_batch(2)


def test_locloc_in_closed_form() -> None:
    """From tokens of the backbone itself: half the squared error, and the cross entropy of the other view."""
    method, given = make("locloc", label_smoothing=0.1).eval(), batch()
    found = method.training_step(given, STEP).parts
    patches = method.backbone(given.images, layers=(-1,)).layers[-1][:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    maps = method.localizer.generator(patches)
    assert maps.shape == (4, 32, 32)
    assert torch.allclose(found["segmentation"], (maps - given.views[0][:, 0]).square().mean() / 2, atol=1e-6)
    logits = method.localizer.classifier(*method.backbone.embed(given.views[1]))
    expected = functional.cross_entropy(logits, given.labels, label_smoothing=0.1)
    assert torch.allclose(found["cross_entropy"], expected, atol=1e-6)


def test_ppd_in_closed_form() -> None:
    method, given = make("ppd").eval(), batch()
    found = method.training_step(given, STEP).parts
    patches = method.backbone(given.images, layers=(-1,)).layers[-1][:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    maps = method.localizer.generator(patches)
    assert maps.shape == (4, 16, 16)
    target = functional.avg_pool2d(given.views[0], 2)[:, 0]
    assert torch.allclose(found["segmentation"], (maps - target).square().mean() / 2, atol=1e-6)
    layers = method.backbone(given.views[1], layers=(0, 1, 2)).layers
    cls = torch.cat([method.backbone.norm(layers[block])[:, 0] for block in range(3)], 1)
    assert torch.allclose(cls[:, -24:], method.backbone(given.views[1]).cls, atol=1e-6)
    logits = method.localizer.classifier.linear(cls)
    assert torch.allclose(found["cross_entropy"], functional.cross_entropy(logits, given.labels), atol=1e-6)


def test_ppds_classifier_sees_the_middle_of_the_image() -> None:
    backbone = tiny_vit(0)
    method = PpdMethod(PpdConfig(generator=PpdGeneratorConfig(hidden=16, width=12), crop=0.5), backbone, CLASSES)
    localizer, x = method.eval().localizer, images(2)
    expected = localizer.classifier(localizer.class_tokens(x[..., 8:24, 8:24]))
    assert torch.equal(localizer(x).logits, expected)
    assert not torch.allclose(localizer.classifier(localizer.class_tokens(x)), expected)


def test_drop_path_is_the_classifiers_alone() -> None:
    backbone = tiny_vit(0, drop_path=0.1)
    method = Locloc(LoclocConfig(generator=GegConfig(channels=8, width=12)), backbone, CLASSES).train()
    last = method.localizer.classifier.blocks[-1].drop_path1
    assert last.drop_prob == pytest.approx(0.1)
    assert last.training
    assert not any(part.training for part in backbone.modules())


def test_the_released_wiring_leaves_its_deepest_level_idle() -> None:
    method = make("locloc", generator={"wiring": "released"}).train()
    method.training_step(batch(), STEP).total.backward()
    unet = method.localizer.generator.unet
    idle = {name.split(".")[0] for name, value in unet.named_parameters() if value.grad is None}
    assert idle == {"down_3", "up_1"}
    held = {id(value) for group in method.parameter_groups() for value in group["params"]}
    assert not held & {id(value) for part in (unet.down_3, unet.up_1) for value in part.parameters()}


def learned(name: str, control: str = "") -> dict[str, float]:
    """Train on squares; the segmentation loss and the accuracy of held-out ones, of the right masks and labels."""
    torch.manual_seed(0)
    method, other = make(name, generator_rate=2.0), "others" if control else "own"
    views = MaskViewsConfig(
        image_size=32,
        resize=None,
        masked=name == "locloc",
        augment=TrainTransformConfig.flips(32),
        mean=HALF,
        std=HALF,
    )
    data = squares(180, masks_of=other, labels_of=other)
    loader = Loader(data, MaskViews(views), global_batch_size=18, seed=0)
    optimizer = torch.optim.AdamW(method.parameter_groups(), 1e-3)
    for group in optimizer.param_groups:
        group["lr"] = 4e-3 * group["lr_scale"]
    for (given,) in loader.batches(0, 0 if control == "untrained" else 8 * loader.steps_per_epoch):
        optimizer.zero_grad()
        method.train().training_step(given, STEP).total.backward()
        optimizer.step()
    return held_out(method)


@torch.no_grad()
def held_out(method: Any) -> dict[str, float]:
    transform = build_eval_transform(EvalTransformConfig(image_size=32, mean=HALF, std=HALF))
    samples = list(squares(60, seed=1).samples)
    masks = torch.stack([torch.from_numpy(each.mask).float() for each in samples])
    labels = torch.tensor([each.label for each in samples])
    maps, logits = method.eval().localizer(torch.stack([transform(each.image) for each in samples]))
    return {
        "segmentation": float(mask_regression(maps, masks)),
        "top1": 100 * float((logits.argmax(1) == labels).float().mean()),
    }


@pytest.mark.parametrize("name", BOTH)
def test_it_beats_itself_untrained_and_a_control_with_the_answers_of_other_images(name: str) -> None:
    found, shuffled, before = learned(name), learned(name, "shuffled"), learned(name, "untrained")
    words = f"{found}; shuffled {shuffled}; untrained {before}"
    print(words)
    assert found["segmentation"] < 0.75 * min(shuffled["segmentation"], before["segmentation"]), words
    assert found["top1"] > max(shuffled["top1"], before["top1"]) + 20, words
