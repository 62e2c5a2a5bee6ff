"""A classifier on kept patches: exactly those enter, the ranker rests, and it learns with one and with many labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training as tiny
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail.backbones import BackboneConfig, TimmViT, create, load_classifier, load_part, save_exported
from vitrail.config import ConfigError
from vitrail.contracts import Batch, Method, Step
from vitrail.data import SyntheticScenes
from vitrail.methods.kept_patches import KeptPatches, KeptPatchesConfig
from vitrail.methods.labels import LabelConfig
from vitrail.metrics.multi_label import mean_average_precision
from vitrail.nn.ml_decoder import MlDecoder, MlDecoderConfig
from vitrail.ops.asymmetric_loss import asymmetric_loss
from vitrail.ops.selection import mixed, select
from vitrail.rankers.center import Center

TINY = BackboneConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=48, depth=2, heads=3)
START = Step(0, 10)
DECODER = MlDecoderConfig(width=24, heads=2, hidden=32, dropout=0)
SEVERAL = KeptPatchesConfig(loss="asymmetric", head="ml_decoder", decoder=DECODER)


class Learned(nn.Module):
    """A ranker with weights, dropout and pixels of its own kind; remembers what it was given."""

    needs_number = True
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    image_size, patch_size = (32, 32), (8, 8)

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.layer = nn.Conv2d(3, 1, 8, stride=8)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(self.layer.weight.shape, generator=generator))
        self.drop = nn.Dropout(0.5)
        self.seen: list[tuple[Tensor, int | None, bool]] = []

    def forward(self, images: Tensor, *, number: int | None = None, generator: Any = None) -> Tensor:
        self.seen.append((images, number, torch.is_grad_enabled()))
        return self.drop(self.layer(images))[:, 0]


def center() -> Center:
    return Center((32, 32), (8, 8))


def method(
    config: KeptPatchesConfig | None = None, ranker: Any = None, classes: int = 4, backbone: TimmViT | None = None
) -> KeptPatches:
    torch.manual_seed(0)
    names = tuple(f"class {n}" for n in range(classes))
    return KeptPatches(config or KeptPatchesConfig(), backbone or create(TINY), ranker or center(), names)


def batch(size: int = 6, classes: int = 4, several: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 3, 32, 32, generator=generator)
    labels = torch.arange(size) % classes
    rows = (torch.rand(size, classes, generator=generator) < 0.4).float()
    return Batch(images, rows if several else labels, torch.arange(size))


def entered(module: KeptPatches, given: Tensor) -> list[int]:
    """How many tokens each block is given, the class token included."""
    counts: list[int] = []
    handles = [
        block.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[1]))
        for block in module.backbone.vit.blocks
    ]
    module(given)
    for handle in handles:
        handle.remove()
    return counts


def test_fulfills_the_contract() -> None:
    assert isinstance(method(), Method)


@pytest.mark.parametrize("head", ["cls", "mean", "ml_decoder"])
def test_all_patches_give_the_plain_classifier(head: str) -> None:
    """With keep=1 no ranker is asked; all ids in a row give the same."""
    changes = {"head": "ml_decoder", "decoder": DECODER} if head == "ml_decoder" else {"pool": head}
    ranker = Learned()
    module = method(KeptPatchesConfig(keep=1, **changes), ranker).eval()
    images = batch().images
    tokens = module.backbone(images)
    vector = {
        "cls": tokens.cls,
        "mean": tokens.patches.mean(1),
        "ml_decoder": torch.cat((tokens.cls[:, None], tokens.patches), 1),
    }
    logits = module(images)
    torch.testing.assert_close(logits, module.head(vector[head]))
    assert ranker.seen == []
    assert module.kept(images) is None
    every = torch.arange(16).expand(6, -1)
    torch.testing.assert_close(module.classify(module.backbone(images, keep=every)), logits)
    assert not torch.allclose(module(images, 0.5), logits)


@pytest.mark.parametrize(("keep", "number"), [(0.01, 1), (0.25, 4), (0.5, 8), (0.74, 11), (0.99, 15), (1.0, 16)])
def test_exactly_k_tokens_enter(keep: float, number: int) -> None:
    assert entered(method(KeptPatchesConfig(keep=keep)), batch().images) == [1 + number] * 2


def test_the_kept_patches_decide_alone() -> None:
    """Pixels of a patch that was left out change nothing, those of a kept one do."""
    module = method(KeptPatchesConfig(keep=0.25)).eval()
    images = batch().images
    ids = module.kept(images)
    assert ids is not None
    assert ids.tolist() == [[5, 6, 9, 10]] * 6  # the four in the middle
    corner, middle = images.clone(), images.clone()
    corner[:, :, :8, :8] = 3.0
    middle[:, :, 8:16, 8:16] = 3.0
    torch.testing.assert_close(module(corner), module(images))
    assert not torch.allclose(module(middle), module(images))
    tokens = module.backbone(images, keep=ids)
    torch.testing.assert_close(module(images), module.head(tokens.cls))


def test_some_patches_may_be_kept_because_they_are_unlike() -> None:
    module = method(KeptPatchesConfig(keep=0.5, by_score=0.7))
    images = batch().images
    assert entered(module, images) == [9, 9]
    ids = module.kept(images)
    assert ids is not None
    points = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(6, 16, -1)
    assert torch.equal(ids, mixed(center()(images), points, 8, 0.7))
    assert torch.equal(ids, module.kept(images))  # nothing is left to chance
    best = select(center()(images), 5)
    assert all(set(row) <= set(kept) for row, kept in zip(best.tolist(), ids.tolist()))
    assert not torch.equal(ids, select(center()(images), 8))
    with pytest.raises(ConfigError, match=r"by_score = 1.2"):
        KeptPatchesConfig().override(["by_score=1.2"])


def test_the_ranker_sees_its_own_normalization_and_rests() -> None:
    backbone, ranker = create(TINY), Learned()
    backbone.mean, backbone.std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.9)
    module = method(ranker=ranker, backbone=backbone).train()
    assert module.backbone.training
    assert not ranker.training
    assert not ranker.drop.training
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def normalized(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    images = normalized(backbone.mean, backbone.std)
    ids = module.kept(images)
    seen, number, differentiated = ranker.seen[-1]
    torch.testing.assert_close(seen, normalized(ranker.mean, ranker.std))
    assert number == 8
    assert not differentiated
    scores = ranker(normalized(ranker.mean, ranker.std))
    assert ids is not None
    assert torch.equal(ids, select(scores, 8))


def test_no_gradient_and_no_optimizer_reaches_the_ranker() -> None:
    ranker = Learned()
    module = method(KeptPatchesConfig(layer_decay=0.7), ranker)
    before = {name: value.clone() for name, value in ranker.state_dict().items()}
    groups = module.parameter_groups()
    grouped = [id(each) for group in groups for each in group["params"]]
    assert len(grouped) == len(set(grouped))
    own = [*module.backbone.parameters(), *module.head.parameters()]
    assert set(grouped) == {id(each) for each in own}
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    losses = module.training_step(batch(), START)
    losses.total.backward()
    optimizer.step()
    assert all(value.grad is None and not value.requires_grad for value in ranker.parameters())
    assert all(torch.equal(value, before[name]) for name, value in ranker.state_dict().items())
    for name, value in (*module.backbone.named_parameters(), *module.head.named_parameters()):
        assert value.grad is not None, name


def test_layer_decay_leaves_the_head_at_the_full_rate() -> None:
    module = method(KeptPatchesConfig(layer_decay=0.75))
    scales = {id(each): group["lr_scale"] for group in module.parameter_groups() for each in group["params"]}
    blocks = module.backbone.vit.blocks
    found = [scales[id(block.attn.qkv.weight)] for block in blocks]
    assert found == pytest.approx([0.75**2, 0.75])
    assert scales[id(module.head.weight)] == 1


def test_cross_entropy_by_hand() -> None:
    module, given = method(KeptPatchesConfig()), batch()
    losses = module.training_step(given, START)
    assert given.labels is not None
    targets = F.one_hot(given.labels, 4) * 0.9 + 0.1 / 4
    logits = module(given.images)
    torch.testing.assert_close(losses.total, -(targets * logits.log_softmax(-1)).sum(-1).mean())
    assert set(losses.parts) == {"cross_entropy", "top1"}
    assert losses.parts["top1"] == pytest.approx(100 * (logits.argmax(1) == given.labels).float().mean().item())


def test_the_asymmetric_loss_of_rows_of_labels() -> None:
    config = SEVERAL.override(["asymmetric.gamma_negative=2", "asymmetric.clip=0.1", "keep=0.25"])
    module, given = method(config), batch(several=True)
    losses = module.training_step(given, START)
    logits = module(given.images)
    assert given.labels is not None
    expected = asymmetric_loss(logits, given.labels, gamma_negative=2, clip=0.1)
    torch.testing.assert_close(losses.total, expected)
    assert set(losses.parts) == {"asymmetric"}
    ids = module.kept(given.images)
    tokens = module.backbone(given.images, keep=ids)
    assert tokens.patches.shape[1] == 4
    torch.testing.assert_close(logits, module.head(torch.cat((tokens.cls[:, None], tokens.patches), 1)))


def test_labels_that_the_loss_does_not_want_are_refused() -> None:
    with pytest.raises(ValueError, match="needs labels; put the images into one folder per class"):
        method().training_step(batch()._replace(labels=None), START)
    with pytest.raises(ValueError, match=r"of 4 classes, and cross entropy wants one; finetune_kept_multi"):
        method().training_step(batch(several=True), START)
    with pytest.raises(ValueError, match=r"have one each; set method.loss=cross_entropy"):
        method(SEVERAL).training_step(batch(), START)
    with pytest.raises(ValueError, match=r"needs labels; write a table labels.csv"):
        method(SEVERAL).training_step(batch()._replace(labels=None), START)


def test_mixing_is_off_unless_asked_for() -> None:
    given = batch()
    module = method(KeptPatchesConfig().override(["keep=1", "labels.mixup=0.8"]))
    np.random.seed(0)  # noqa: NPY002  timm's mixing draws from it
    assert set(module.training_step(given, START).parts) == {"cross_entropy"}
    with pytest.raises(ValueError, match=r"batch of 7 is odd"):
        module.check_batch(7)
    method().check_batch(7)
    method(SEVERAL).check_batch(7)
    with pytest.raises(ConfigError, match=r"labels.mixup 0.8 and labels.cutmix 0 mix images of one label"):
        SEVERAL.override(["labels.mixup=0.8"])


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 classes, the data has 1"):
        method(classes=1)
    with pytest.raises(ValueError, match="at least 1 class, the data has none"):
        method(SEVERAL, classes=0)
    assert method(SEVERAL, classes=1)(batch().images).shape == (6, 1)  # there, or not there
    for keep in (0, -0.5, 1.01):
        with pytest.raises(ConfigError, match=rf"keep is {keep:g}; it is the share .* above 0 and at most 1"):
            KeptPatchesConfig().override([f"keep={keep}"])
    with pytest.raises(ValueError, match=r"keep is 0; it is the share"):
        method()(batch().images, 0)
    with pytest.raises(ValueError, match=r"scores patches of 16x16 pixels and the backbone has patches of 8x8"):
        method(ranker=Center())
    with pytest.raises(ValueError, match=r"keep is 0.5, and there is no ranker"):
        KeptPatches(KeptPatchesConfig(), create(TINY), None, ("a", "b"))
    alone = KeptPatches(KeptPatchesConfig(keep=1), create(TINY), None, ("a", "b"))
    assert alone(batch().images).shape == (6, 2)
    with pytest.raises(ValueError, match=r"keep is 0.5, and there is no ranker"):
        alone(batch().images, 0.5)


def test_a_map_of_another_grid_is_refused() -> None:
    class Wrong(Learned):
        def forward(self, images: Tensor, **asked: Any) -> Tensor:
            return super().forward(images, **asked)[:, :2]

    with pytest.raises(ValueError, match=r"scores are \[6, 2, 4\], and 6 images have 4 x 4 patches"):
        method(ranker=Wrong())(batch().images)


def test_the_exported_classifier_is_any_classifier_and_says_what_was_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = {"name": "center", "weights": None}
    module = KeptPatches(KeptPatchesConfig(keep=0.25, pool="mean"), create(TINY), center(), ("a", "b"), words).eval()
    exported = module.export()
    assert exported.metadata["kept"] == {"keep": 0.25, "ranker": words}
    save_exported(exported, tmp_path / "w.safetensors")
    backbone, head, classes, pool = load_classifier(tmp_path / "w.safetensors")
    assert (classes, pool) == (("a", "b"), "mean")
    images = batch().images
    ids = module.kept(images)
    torch.testing.assert_close(head(backbone.eval()(images, keep=ids).patches.mean(1)), module(images))


def test_the_decoder_stands_beside_the_exported_backbone(tmp_path: Path) -> None:
    module = method(SEVERAL, classes=5).eval()
    save_exported(module.export(), tmp_path / "w.safetensors")
    part = load_part(tmp_path / "w.safetensors", "ml_decoder")
    assert part is not None
    sizes = dict(part.config)
    head = MlDecoder(
        MlDecoderConfig(**{k: v for k, v in sizes.items() if k not in ("classes", "features")}),
        sizes["features"],
        sizes["classes"],
    )
    part.fill(head)
    images = batch().images
    tokens = module.backbone(images, keep=module.kept(images))
    torch.testing.assert_close(head.eval()(torch.cat((tokens.cls[:, None], tokens.patches), 1)), module(images))


def small(noise: float = 0.2) -> KeptPatches:
    """For 24-pixel images of four labels, with drop path, whose chance a resumed run has to find again."""
    torch.manual_seed(0)
    ranker = Learned()
    ranker.layer = nn.Conv2d(3, 1, 6, stride=6)
    ranker.patch_size = (6, 6)  # type: ignore[misc]
    backbone = create(BackboneConfig(image_size=24, patch_size=6, embed_dim=24, depth=2, heads=2, drop_path=noise))
    return KeptPatches(KeptPatchesConfig(keep=0.4), backbone, ranker, tuple("abcd"))


def test_a_run_that_crashed_and_was_resumed_ends_in_the_same_bits(tmp_path: Path) -> None:
    def crash(step: int) -> None:
        if step == 4:
            raise RuntimeError("crash")

    options: dict[str, Any] = {"epochs": 2, "ema": 0.9, "checkpoint_every": 2, "log_every": 1, "pretrain": None}
    # `with_sar` asks the loader for 24-pixel images; the method is given.
    _, whole = tiny.train(tmp_path / "a", method=small(), with_sar=True, **options)
    with pytest.raises(RuntimeError, match="crash"):
        tiny.train(tmp_path / "b", method=small(), with_sar=True, before=crash, **options)
    _, resumed = tiny.train(tmp_path / "b", "resume", method=small(), with_sar=True, **options)
    first, second = whole.state_dict(), resumed.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], small().state_dict()["head.weight"])
    assert torch.equal(first["ranker.layer.weight"], small().state_dict()["ranker.layer.weight"])


def pixels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def fit(module: KeptPatches, images: Tensor, labels: Tensor, steps: int, rate: float) -> KeptPatches:
    optimizer = torch.optim.AdamW(module.parameter_groups(), lr=rate)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        rows = torch.randint(len(images), (64,), generator=generator)
        optimizer.zero_grad()
        module.training_step(Batch(images[rows], labels[rows], rows), Step(step, steps)).total.backward()
        optimizer.step()
    return module.eval()


def mixed_up(labels: Tensor) -> Tensor:
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


@torch.no_grad()
def test_half_of_the_patches_of_scenes_are_learned_from() -> None:
    """Better than untrained, and than a control whose labels are shuffled."""
    sets = [SyntheticScenes(512, 32, seed=3, split=split).arrays(0, 512)[:2] for split in ("train", "val")]  # type: ignore[arg-type]
    (images, labels), (held, known) = ((pixels(part), torch.from_numpy(numbers)) for part, numbers in sets)

    def accuracy(targets: Tensor, steps: int) -> float:
        with torch.enable_grad():
            module = fit(
                method(KeptPatchesConfig(keep=0.5, labels=LabelConfig(smoothing=0, mixup=0, cutmix=0)), classes=8),
                images,
                targets,
                steps,
                2e-3,
            )
        return (module(held).argmax(1) == known).float().mean().item()

    learned, untrained, control = accuracy(labels, 130), accuracy(labels, 0), accuracy(mixed_up(labels), 130)
    print(learned, untrained, control)
    assert learned > max(untrained, control) + 0.12, (learned, untrained, control)


def pairs(count: int, split: str) -> tuple[Tensor, Tensor]:
    """Two scenes of 32 pixels side by side, `[n, 3, 32, 64]`, and rows of both classes, or of the one that both are."""
    images, labels, _ = SyntheticScenes(2 * count, 32, 4, seed=1, split=split).arrays(0, 2 * count)  # type: ignore[arg-type]
    order = np.random.default_rng(0).permutation(2 * count)
    left, right = order[:count], order[count:]
    rows = torch.zeros(count, 4)
    for side in (left, right):
        rows[torch.arange(count), torch.from_numpy(labels[side])] = 1
    return torch.cat((pixels(images[left]), pixels(images[right])), 3), rows


@torch.no_grad()
def test_several_labels_are_learned() -> None:
    (images, rows), (held, known) = pairs(512, "train"), pairs(400, "val")
    config = SEVERAL.override(["keep=0.75", "asymmetric.gamma_negative=1"])
    wide = TINY.model_copy(update={"image_size": (32, 64)})

    def precision(targets: Tensor, steps: int) -> float:
        torch.manual_seed(0)
        with torch.enable_grad():
            module = fit(method(config, backbone=create(wide)), images, targets, steps, 2e-3)
        return mean_average_precision(module(held), known).mean

    learned, untrained, control = precision(rows, 90), precision(rows, 0), precision(mixed_up(rows), 90)
    print(learned, untrained, control)
    assert learned > max(untrained, control) + 12, (learned, untrained, control)
