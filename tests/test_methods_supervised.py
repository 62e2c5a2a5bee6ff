"""Supervised training: the loss by hand, what regularizers add, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vitrail.backbones import BackboneConfig, create
from vitrail.config import ConfigError
from vitrail.contracts import Batch, Method, Step
from vitrail.data import SyntheticScenes
from vitrail.methods.supervised import Supervised, SupervisedConfig
from vitrail.ops.spatial_entropy import spatial_entropy
from vitrail.regularizers import RegularizerConfig

TINY = BackboneConfig(
    name="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=48, depth=2, heads=3, surgery=None
)
PLAIN = SupervisedConfig(mixup=0, cutmix=0, label_smoothing=0)
START = Step(0, 10)


def method(config: SupervisedConfig = PLAIN, backbone: BackboneConfig = TINY, classes: int = 4) -> Supervised:
    torch.manual_seed(0)
    return Supervised(config, create(backbone), tuple(f"class {n}" for n in range(classes)))


def batch(size: int = 6, classes: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 3, 32, 32, generator=generator)
    return Batch(images, torch.arange(size) % classes, torch.arange(size))


def test_fulfills_the_contract() -> None:
    assert isinstance(method(), Method)


def test_plain_loss_is_cross_entropy() -> None:
    module, given = method(), batch()
    losses = module.training_step(given, START)
    torch.testing.assert_close(losses.total, F.cross_entropy(module(given.images), given.labels))
    assert set(losses.parts) == {"cross_entropy", "top1"}


def test_the_mean_of_the_patches_is_classified_where_asked() -> None:
    module, given = method(PLAIN.override(["pool=mean"])), batch()
    tokens = module.backbone(given.images)
    logits = module.head(torch.stack([row.sum(0) / len(row) for row in tokens.patches]))
    torch.testing.assert_close(module(given.images), logits)
    losses = module.training_step(given, START)
    torch.testing.assert_close(losses.total, F.cross_entropy(logits, given.labels))
    assert not torch.allclose(logits, module.head(tokens.cls))
    assert module.export().metadata["pool"] == "mean"
    assert method().export().metadata["pool"] == "cls"
    losses.total.backward()
    for name, value in module.named_parameters():
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name


def test_label_smoothing_by_hand() -> None:
    module, given = method(PLAIN.override(["label_smoothing=0.1"])), batch()
    targets = F.one_hot(given.labels, 4) * 0.9 + 0.1 / 4
    expected = -(targets * module(given.images).log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(module.training_step(given, START).total, expected)


def test_regularizer_adds_its_weighted_value() -> None:
    config = PLAIN.override(["regularizers=[{kind: spatial_entropy, weight: {peak: 0.5}}]"])
    given = batch()
    plain, with_entropy = method(), method(config)
    with_entropy.load_state_dict(plain.state_dict())
    losses = with_entropy.training_step(given, START)
    scores = plain.backbone(given.images, scores=(-1,)).scores[-1]
    expected = plain.training_step(given, START).total + 0.5 * spatial_entropy(scores).mean()
    torch.testing.assert_close(losses.total, expected)
    assert {"cross_entropy", "spatial_entropy"} <= set(losses.parts)


def test_a_kind_on_two_blocks_is_logged_by_block() -> None:
    entropy = [{"kind": "spatial_entropy", "block": 0}, {"kind": "spatial_entropy", "block": -1}]
    config = PLAIN.override([f"regularizers={[*entropy, {'kind': 'drloc', 'block': 0}]}"])
    given, module = batch(), method(config)
    parts = module.training_step(given, START).parts
    names = {"spatial_entropy_block_0", "spatial_entropy_block_1", "drloc"}
    assert names | {f"{name}_weight" for name in names} <= set(parts)
    scores = module.backbone(given.images, scores=(0, 1)).scores
    for block in (0, 1):
        torch.testing.assert_close(parts[f"spatial_entropy_block_{block}"], spatial_entropy(scores[block]).mean())
    with pytest.raises(ConfigError, match="spatial_entropy_block_1 more than once"):
        method(PLAIN.override([f"regularizers={[{**each, 'block': block} for each, block in zip(entropy, (1, -1))]}"]))


def test_the_entropy_reaches_the_last_blocks_queries() -> None:
    module = method(PLAIN.override(["regularizers=[{kind: spatial_entropy, weight: {peak: 1.0}}]"]))
    given = batch()
    losses = module.training_step(given, START)
    (losses.total - losses.parts["cross_entropy"]).backward(retain_graph=True)
    plain = method()
    plain.training_step(given, START).total.backward()
    name = "vit.blocks.1.attn.qkv.weight"
    with_entropy, without = (dict(each.backbone.named_parameters())[name].grad for each in (module, plain))
    assert with_entropy is not None
    assert without is not None
    assert not torch.allclose(with_entropy, without)


def test_mixing_keeps_the_caller_s_images_and_the_labels_mass() -> None:
    module, given = method(SupervisedConfig()), batch()
    before = given.images.clone()
    np.random.seed(0)  # noqa: NPY002  timm's mixing draws from it
    images, targets = module._mix(given.images, given.labels)
    torch.testing.assert_close(given.images, before)
    assert not torch.equal(images, before)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))


def test_mixing_stays_out_of_the_compiled_graph() -> None:
    """Its random numbers would be compiled in: a new graph at every step. The backend needs no C++ compiler."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    module, counter = method(SupervisedConfig().override(["regularizers=[{kind: spatial_entropy}]"])), CompileCounter()
    step = torch.compile(module.training_step, backend=counter)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  timm's mixing draws from it
    for index in range(8):
        assert step(batch(), Step(index, 8)).total.isfinite()
    assert 1 <= counter.frame_count <= 3
    torch._dynamo.reset()


def test_an_odd_batch_cannot_be_mixed() -> None:
    with pytest.raises(ValueError, match=r"batch of 5 is odd.*even"):
        method(SupervisedConfig()).training_step(batch(5), START)
    with pytest.raises(ValueError, match=r"batch of 7 is odd.*even"):
        method(SupervisedConfig()).check_batch(7)
    method(SupervisedConfig()).check_batch(8)
    method().check_batch(7)


def test_images_without_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="one folder per class"):
        method().training_step(batch()._replace(labels=None), START)


def test_a_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 classes, the data has 1"):
        method(classes=1)


def test_every_parameter_is_in_one_group() -> None:
    module = method(SupervisedConfig(layer_decay=0.7, regularizers=(RegularizerConfig(kind="drloc"),)))
    grouped = [id(each) for group in module.parameter_groups() for each in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(each) for each in module.parameters() if each.requires_grad}


def test_exported_weights_say_what_is_needed_to_rebuild() -> None:
    exported = method().export()
    assert exported.metadata["classes"] == ["class 0", "class 1", "class 2", "class 3"]
    assert {"head.weight", "head.bias", "pos_embed", "blocks.1.attn.qkv.weight"} <= set(exported.state)


def test_it_learns_and_shuffled_labels_do_not_generalize() -> None:
    """A few dozen steps on scenes beat the untrained model and a control whose labels are shuffled."""
    train, held = (
        SyntheticScenes(512, image_size=32, seed=3),
        SyntheticScenes(256, image_size=32, seed=3, split="val"),
    )

    def tensors(data: SyntheticScenes) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels, _ = data.arrays(0, len(data))
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.from_numpy(labels)

    images, labels = tensors(train)
    held_images, held_labels = tensors(held)
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]

    def accuracy_after(targets: torch.Tensor, steps: int) -> float:
        module = method(classes=8)
        optimizer = torch.optim.AdamW(module.parameter_groups(), lr=2e-3)
        generator = torch.Generator().manual_seed(0)
        for step in range(steps):
            rows = torch.randint(len(images), (64,), generator=generator)
            given = Batch(images[rows], targets[rows], rows)
            optimizer.zero_grad()
            module.training_step(given, Step(step, steps)).total.backward()
            optimizer.step()
        with torch.no_grad():
            return (module(held_images).argmax(1) == held_labels).float().mean().item()

    learned, untrained, control = (
        accuracy_after(labels, 200),
        accuracy_after(labels, 0),
        accuracy_after(shuffled, 200),
    )
    assert learned > max(untrained, control) + 0.15, (learned, untrained, control)
