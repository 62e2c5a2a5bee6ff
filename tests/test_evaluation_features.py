import os
from pathlib import Path

import pytest
import torch
from evaluation_doubles import ListSet, TinyBackbone, colored_set

from vitrail.data.transforms import EvalTransformConfig
from vitrail.evaluation import features as module
from vitrail.evaluation.features import (
    FeatureConfig,
    Features,
    eval_transform,
    extract,
    frozen,
    read_features,
    weights_digest,
)

SMALL = EvalTransformConfig(image_size=16)


def run(
    backbone: TinyBackbone, data: ListSet, cache: Path | None = None, what: FeatureConfig | None = None
) -> Features:
    return extract(
        backbone,
        data,
        eval_transform(SMALL, backbone),
        what,
        batch_size=4,
        cache=cache,
    )


@pytest.fixture
def short_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD", 5)


def files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.safetensors"))


def test_values_labels_and_order() -> None:
    backbone, data = TinyBackbone(), colored_set(10)
    found = run(backbone, data)
    assert found.labels is not None
    assert found.labels.tolist() == [sample.label for sample in data.samples]
    assert found.indices.tolist() == list(range(10))
    transform = eval_transform(SMALL, backbone)
    with frozen(backbone):
        alone = torch.cat([backbone(transform(sample.image)[None]).cls for sample in data.samples])
    torch.testing.assert_close(found.values, alone, atol=1e-5, rtol=1e-4)


def test_what_is_read() -> None:
    backbone, images = TinyBackbone(depth=3), torch.randn(2, 3, 16, 16)
    with frozen(backbone):
        tokens = backbone(images, layers=(-2,))
        joined = read_features(backbone, images, FeatureConfig(cls_blocks=2, mean_patch=True))
        expected = torch.cat([backbone.norm(tokens.layers[-2][:, 0]), tokens.cls, tokens.patches.mean(1)], 1)
        torch.testing.assert_close(joined, expected)
        with pytest.raises(ValueError, match="has 3 blocks"):
            read_features(backbone, images, FeatureConfig(cls_blocks=4))
        del backbone.norm
        backbone.norm = None
    assert FeatureConfig(cls_blocks=4).words() == ("last 4 blocks, after the final norm", "CLS")


def test_training_flags_device_and_gradients_are_given_back() -> None:
    backbone = TinyBackbone()
    backbone.train()
    backbone.blocks[0].eval()
    before = [module.training for module in backbone.modules()]

    def fail() -> None:
        with frozen(backbone):
            assert not any(module.training for module in backbone.modules())
            assert not torch.is_grad_enabled()
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert [module.training for module in backbone.modules()] == before
    assert torch.is_grad_enabled()


@pytest.mark.usefixtures("short_shards")
def test_a_second_run_reads_the_disk(tmp_path: Path) -> None:
    backbone, data = TinyBackbone(), colored_set(12)
    first = run(backbone, data, tmp_path)
    assert len(files(tmp_path)) == 3
    backbone.calls = data.reads = 0
    second = run(backbone, data, tmp_path)
    assert (backbone.calls, data.reads) == (0, 0)
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.indices, second.indices)


def test_anything_that_matters_gets_its_own_folder(tmp_path: Path) -> None:
    backbone, data = TinyBackbone(), colored_set(6)
    run(backbone, data, tmp_path)
    run(TinyBackbone(seed=1), data, tmp_path)
    run(backbone, colored_set(6, seed=1), tmp_path)
    run(backbone, data, tmp_path, FeatureConfig(mean_patch=True))
    with torch.no_grad():
        backbone.norm.bias[0] += 1e-6
    run(backbone, data, tmp_path)
    assert len(files(tmp_path)) == 5


@pytest.mark.usefixtures("short_shards")
def test_an_interrupted_extraction_goes_on(tmp_path: Path) -> None:
    class Power(TinyBackbone):
        def forward(self, *values: object, **named: object) -> object:  # type: ignore[override]
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().forward(*values, **named)  # type: ignore[arg-type]

    backbone, data = Power(), colored_set(12)
    with pytest.raises(KeyboardInterrupt):
        run(backbone, data, tmp_path)
    assert len(files(tmp_path)) == 1
    data.reads, backbone.calls = 0, -100
    found = run(backbone, data, tmp_path)
    assert data.reads == 7
    assert torch.equal(found.values, run(TinyBackbone(), data).values)


@pytest.mark.usefixtures("short_shards")
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_broken_file_is_computed_again_and_said(tmp_path: Path, damage: str) -> None:
    backbone, data = TinyBackbone(), colored_set(12)
    first = run(backbone, data, tmp_path)
    broken = files(tmp_path)[1]
    content = bytearray(broken.read_bytes())
    if damage == "flipped":
        content[-3] ^= 1
    broken.write_bytes(content[: {"truncated": 100, "flipped": len(content), "empty": 0}[damage]])
    data.reads = 0
    with pytest.warns(UserWarning, match="computed again"):
        second = run(backbone, data, tmp_path)
    assert data.reads == 5
    assert any("broken" in note for note in second.notes)
    assert torch.equal(first.values, second.values)
    assert run(backbone, data, tmp_path).notes == ()


def test_a_full_disk_costs_the_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.warns(UserWarning, match="No space left"):
        found = run(TinyBackbone(), colored_set(6), tmp_path)
    assert len(found.values) == 6


@pytest.mark.usefixtures("short_shards")
def test_unreadable_images_are_left_out_and_said(tmp_path: Path) -> None:
    data = colored_set(12, broken=(1, 5, 6))
    for _ in range(2):
        found = run(TinyBackbone(), data, tmp_path)
        assert found.indices.tolist() == [0, 2, 3, 4, 7, 8, 9, 10, 11]
        assert found.labels is not None
        assert found.labels.tolist() == [index % 4 for index in found.indices.tolist()]
        assert found.notes == ("features: 3 of 12 images could not be read and were left out",)
    with pytest.raises(ValueError, match="none of the 3 images"):
        run(TinyBackbone(), colored_set(3, broken=(0, 1, 2)))


def test_features_that_are_not_finite_stop(tmp_path: Path) -> None:
    backbone = TinyBackbone()
    with torch.no_grad():
        backbone.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match=r"images \[0, 1, 2, 3\] are not finite"):
        run(backbone, colored_set(6), tmp_path)
    assert not files(tmp_path)


def test_bf16_is_close_and_comes_back_as_float32() -> None:
    backbone, data = TinyBackbone(), colored_set(6)
    half = extract(
        backbone,
        data,
        eval_transform(SMALL, backbone),
        precision="bf16",
    )
    assert half.values.dtype is torch.float32
    torch.testing.assert_close(half.values, run(backbone, data).values, atol=0.1, rtol=0.1)


def test_weights_digest_sees_names_types_and_every_bit() -> None:
    module_ = torch.nn.Linear(3, 2)
    digest = weights_digest(module_)
    assert len(digest) == 16
    assert digest == weights_digest(module_)
    assert weights_digest(module_.to(torch.bfloat16)) != digest
    assert weights_digest(torch.nn.Sequential(torch.nn.Linear(3, 2))) != digest
    assert weights_digest(torch.nn.BatchNorm1d(2)) == weights_digest(torch.nn.BatchNorm1d(2))
    assert weights_digest(lambda images: images) == "none"
    assert weights_digest(torch.nn.Identity()) == "none"


def test_cache_files_are_readable_by_others_like_any_file(tmp_path: Path) -> None:
    run(TinyBackbone(), colored_set(6), tmp_path)
    mask = os.umask(0)
    os.umask(mask)
    assert files(tmp_path)[0].stat().st_mode & 0o777 == 0o666 & ~mask


def test_workers_change_nothing() -> None:
    backbone, data = TinyBackbone(), colored_set(9)
    with_workers = extract(backbone, data, eval_transform(SMALL, backbone), batch_size=4, workers=2)
    assert torch.equal(with_workers.values, run(backbone, data).values)


def test_the_backbones_own_normalization_wins() -> None:
    backbone = TinyBackbone()
    assert eval_transform(SMALL, backbone).config.mean == (0.5, 0.5, 0.5)
    assert eval_transform(SMALL, object()).config.mean == SMALL.mean
