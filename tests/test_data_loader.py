"""The loader: one order for any workers, ranks and restarts; bad images; errors in words."""

from __future__ import annotations

import os
import pickle
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from processes import python
from torch import Tensor

from vitrail.contracts import Batch, Sample
from vitrail.data import (
    EvalTransform,
    EvalTransformConfig,
    ImageFolder,
    Loader,
    MultiCrop,
    MultiCropConfig,
    TooManyUnreadable,
    TrainTransform,
    TrainTransformConfig,
    UnreadableImage,
    WorkerCrashed,
    ordered_batches,
)
from vitrail.data.loader import _Loaded, _Reader, _Request, _scramble, _tuples, epoch_order, sample_seed


class Pictures:
    """Small random images in memory; some unreadable; `deadly` ones kill the process that reads them."""

    def __init__(
        self, count: int, size: int = 8, bad: tuple[int, ...] = (), labeled: bool = True, deadly: int = -1
    ) -> None:
        self.count, self.size, self.bad, self.labeled, self.deadly = count, size, set(bad), labeled, deadly
        self.classes = ("even", "odd") if labeled else None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise UnreadableImage(f"{index}.jpg", "the file is empty (0 bytes)")
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        pixels = np.random.default_rng(index).integers(0, 256, (self.size, self.size, 3), dtype=np.uint8)
        return Sample(Image.fromarray(pixels), index % 2 if self.labeled else None, path=f"{index}.jpg")

    def digest(self) -> str:
        return str(self.count)


class Draws:
    """A transform that shows what was drawn from all three generators, and from which image."""

    def __call__(self, image: Image.Image) -> Tensor:
        drawn = [random.random(), np.random.rand(), torch.rand(()).item()]  # noqa: NPY002
        return torch.tensor([*drawn, float(np.asarray(image).astype(int).sum())])


class TwoViews:
    def __call__(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        return torch.rand(2), torch.rand(3)


class Uneven:
    def __call__(self, image: Image.Image) -> tuple[Tensor, ...]:
        return (torch.zeros(2),) * (1 + int(np.asarray(image)[0, 0, 0]) % 3)


class Growing:
    def __call__(self, image: Image.Image) -> Tensor:
        return torch.zeros(int(np.asarray(image)[0, 0, 0]) % 7 + 1)


def loader(count: int = 50, **changes: Any) -> Loader:
    data = changes.pop("data", None) or Pictures(count)
    transform = changes.pop("transform", None) or Draws()
    settings: dict[str, Any] = {"global_batch_size": 8, "seed": 3, **changes}
    return Loader(data, transform, **settings)


def flat(steps: Iterator[list[Batch]]) -> list[Batch]:
    return [batch for step in steps for batch in step]


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.indices, other.indices)
        assert all(torch.equal(view, twin) for view, twin in zip(one.views, other.views, strict=True))
        assert (one.labels is None) == (other.labels is None)
        if one.labels is not None and other.labels is not None:
            assert torch.equal(one.labels, other.labels)


def test_a_step_is_a_list_of_micro_batches() -> None:
    steps = list(loader(accumulate=2).batches(0, 3))
    assert [len(step) for step in steps] == [2, 2, 2]
    batch = steps[0][0]
    assert batch.images.shape == (4, 4)
    assert batch.labels is not None
    assert batch.labels.dtype == batch.indices.dtype == torch.int64
    assert torch.equal(batch.labels, batch.indices % 2)


def test_an_epoch_sees_each_image_at_most_once_and_drops_the_rest() -> None:
    made = loader(50)
    assert made.steps_per_epoch == 6
    first = torch.cat([batch.indices for batch in flat(made.batches(0, 6))])
    second = torch.cat([batch.indices for batch in flat(made.batches(6, 12))])
    assert len(first.unique()) == len(first) == 48
    assert len(second.unique()) == 48
    assert not torch.equal(first, second)
    assert first.tolist() == made.order(0)[:48].tolist()
    assert second.tolist() == made.order(1)[:48].tolist()


def test_the_order_is_a_permutation_and_is_pinned() -> None:
    assert _scramble(0) == 0xE220A8397B1DCDAF  # the first number of SplitMix64 from seed 0
    assert epoch_order(8, 0, 0).tolist() == [4, 1, 7, 5, 2, 0, 6, 3]  # a run of today must resume tomorrow
    seen = np.zeros((100, 100))
    for epoch in range(2000):
        order = epoch_order(100, 1, epoch)
        assert np.array_equal(np.sort(order), np.arange(100))
        seen[np.arange(100), order] += 1
    expected = 20
    chi2 = ((seen - expected) ** 2 / expected).sum()
    assert abs(chi2 - 99**2) < 6 * np.sqrt(2 * 99**2)  # uniform over places, 6 sigma
    assert not np.array_equal(epoch_order(100, 1, 0), epoch_order(100, 2, 0))
    assert not np.array_equal(epoch_order(100, 0, 1), epoch_order(100, 1, 0))


def test_neighboring_seeds_are_unlike() -> None:
    seeds = [sample_seed(s, e, i) for s in range(10) for e in range(10) for i in range(100)]
    assert len(set(seeds)) == 10_000
    bits = np.array([[seed >> place & 1 for place in range(64)] for seed in seeds])
    assert np.abs(bits.mean(0) - 0.5).max() < 0.03


def test_workers_change_nothing() -> None:
    plain = flat(loader(accumulate=2).batches(2, 15))
    for workers in (1, 2):
        assert_equal(flat(loader(accumulate=2, workers=workers).batches(2, 15)), plain)


def test_a_restart_at_any_step_goes_on_as_if_nothing_had_been() -> None:
    whole = flat(loader().batches(0, 14))
    for start in (0, 1, 5, 6, 7, 13):
        assert_equal(flat(loader().batches(start, 14)), whole[start:])
    assert list(loader().batches(14, 14)) == []


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (2, 2), (4, 1), (1, 4), (8, 1)])
def test_ranks_and_accumulation_split_the_same_global_batch(world: int, accumulate: int) -> None:
    single = flat(loader().batches(0, 8))
    ranks = [list(loader(rank=rank, world=world, accumulate=accumulate).batches(0, 8)) for rank in range(world)]
    for step, whole in enumerate(single):
        parts = [batch for rank in ranks for batch in rank[step]]
        assert len(parts) == world * accumulate
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert torch.equal(torch.cat([part.indices for part in parts]), whole.indices)


def test_the_real_augmentation_is_equal_to_the_bit() -> None:
    transform = TrainTransform(TrainTransformConfig(image_size=24, color_jitter=0.4))  # type: ignore[arg-type]
    data = Pictures(20, 32)
    plain = flat(loader(data=data, transform=transform).batches(0, 4))
    assert_equal(flat(loader(data=data, transform=transform, workers=2).batches(0, 4)), plain)
    assert plain[0].images.shape == (8, 3, 24, 24)


def test_the_deit_augmentation_is_equal_to_the_bit() -> None:
    transform = TrainTransform(TrainTransformConfig.deit(32))
    data = Pictures(20, 40)
    plain = flat(loader(data=data, transform=transform).batches(0, 4))
    assert_equal(flat(loader(data=data, transform=transform, workers=2).batches(0, 4)), plain)
    first, second = (flat(loader(data=data, transform=transform).batches(2 * k, 2 * k + 1)) for k in (0, 1))
    assert not torch.equal(first[0].images, second[0].images)


def test_views_are_equal_to_the_bit_with_workers_after_a_restart_and_over_ranks() -> None:
    transform = MultiCrop(MultiCropConfig(global_size=24, local_size=12, locals=3))
    data = Pictures(20, 32)
    whole = flat(loader(data=data, transform=transform).batches(0, 4))
    assert [tuple(view.shape) for view in whole[0].views] == [(8, 3, 24, 24)] + [(8, 3, 12, 12)] * 3
    assert isinstance(whole[0].views, tuple)
    assert not torch.equal(whole[0].images, whole[0].views[0])
    assert_equal(flat(loader(data=data, transform=transform, workers=2).batches(0, 4)), whole)
    for workers in (0, 2):
        assert_equal(flat(loader(data=data, transform=transform, workers=workers).batches(3, 4)), whole[3:])
    halves = [
        flat(loader(data=data, transform=transform, rank=rank, world=2, accumulate=2).batches(0, 1)) for rank in (0, 1)
    ]
    parts = [batch.views for half in halves for batch in half]
    assert len(parts) == 4
    for place, view in enumerate(whole[0].views):
        assert torch.equal(torch.cat([part[place] for part in parts]), view)


def test_views_keep_the_images_that_are_really_there() -> None:
    found = flat(loader(data=Pictures(200, bad=(3,)), transform=TwoViews()).batches(0, 25))
    assert 3 not in {int(index) for batch in found for index in batch.indices}
    assert all(len(view) == 8 for batch in found for view in batch.views)
    rest = list(ordered_batches(Pictures(5, bad=(3,)), TwoViews(), 4))
    assert [len(batch.views[0]) for batch in rest] == [3, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_images_with_different_numbers_of_views(workers: int) -> None:
    with pytest.raises(ValueError, match=r"image \d+ became \d views and image \d+ \d; a transform gives the same"):
        flat(loader(transform=Uneven(), workers=workers).batches(0, 1))


def test_no_view_at_all_and_views_of_different_sizes() -> None:
    with pytest.raises(ValueError, match="became 0 views"):
        flat(loader(transform=lambda image: ()).batches(0, 1))
    with pytest.raises(ValueError, match="one batch needs one size"):
        flat(loader(transform=lambda image: (torch.zeros(2), Growing()(image))).batches(0, 1))


def test_what_pinning_makes_lists_of_are_tuples_again() -> None:
    batch = Batch(torch.zeros(1), None, torch.zeros(1), [torch.ones(1)])  # type: ignore[arg-type]
    found = _tuples(_Loaded(batch, {3: ["3.jpg", "empty"]}))  # type: ignore[dict-item]
    assert found.batch is not None
    assert isinstance(found.batch.views, tuple)
    assert found.skipped == {3: ("3.jpg", "empty")}
    assert _tuples(_Loaded(None, {})) == _Loaded(None, {})


def test_seeds_and_epochs_draw_anew() -> None:
    images = {}
    for seed, step in [(0, 0), (0, 6), (1, 0)]:
        batch = next(loader(seed=seed).batches(step, step + 6))[0]
        images[seed, step] = {row[0] for row in batch.images.tolist()}
        assert len(images[seed, step]) == 8
    assert not images[0, 0] & images[0, 6]
    assert not images[0, 0] & images[1, 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_main_process_keeps_its_generators(workers: int) -> None:
    def state() -> list[float]:
        return [random.random(), np.random.rand(), torch.rand(()).item()]  # noqa: NPY002

    def seed() -> None:
        random.seed(7)
        np.random.seed(7)  # noqa: NPY002
        torch.manual_seed(7)

    seed()
    expected = [state(), state()]
    seed()
    batches = loader(workers=workers).batches(0, 3)
    next(batches)
    found = [state()]
    next(batches)
    found.append(state())
    assert found == expected
    batches.close()  # type: ignore[attr-defined]


def test_unlabeled_images_and_views() -> None:
    batch = flat(loader(data=Pictures(20, labeled=False), transform=TwoViews()).batches(0, 1))[0]
    assert batch.labels is None
    assert batch.images.shape == (8, 2)
    assert [view.shape for view in batch.views] == [(8, 3)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_replaced_by_the_next_one(workers: int) -> None:
    made = loader(data=Pictures(300, bad=(10, 11, 200)), workers=workers)
    good = flat(loader(data=Pictures(300)).batches(0, 37))
    found = flat(made.batches(0, 37))
    replaced = {10: 12, 11: 12, 200: 201}
    for one, other in zip(found, good, strict=True):
        expected = [replaced.get(index, index) for index in other.indices.tolist()]
        assert one.indices.tolist() == expected
        same = torch.tensor([a == b for a, b in zip(expected, other.indices.tolist())])
        assert torch.equal(one.images[same], other.images[same])
    order = made.order(0)[:296].tolist()
    assert set(made.skipped) == {index for index in (10, 11, 200) if index in order} | ({11} if 10 in order else set())
    assert made.skipped[200] == ("200.jpg", "the file is empty (0 bytes)")


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_images_stop_with_the_list(workers: int) -> None:
    made = loader(data=Pictures(200, bad=(5, 50, 150)), workers=workers)
    with pytest.raises(TooManyUnreadable, match=r"3 images cannot be read, more than 1 % of 200") as caught:
        flat(made.batches(0, 25))
    assert "150.jpg: the file is empty" in str(caught.value)
    assert caught.value.total == 200
    assert set(caught.value.skipped) == {5, 50, 150}


def test_what_all_ranks_skipped_is_judged_against_the_whole_set() -> None:
    made = loader(data=Pictures(200), world=2)
    skipped = {index: (f"{index}.jpg", "truncated") for index in range(3)}
    made.tolerate({0: skipped[0], 1: skipped[1]})
    with pytest.raises(TooManyUnreadable, match="3 images cannot be read, more than 1 % of 200"):
        made.tolerate(skipped)
    assert made.skipped == {}


def test_a_set_with_nothing_readable_ends() -> None:
    for count in (50, 1000):
        with pytest.raises(TooManyUnreadable):
            flat(loader(data=Pictures(count, bad=tuple(range(count)))).batches(0, 1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"global_batch_size": 51}, "51 is larger than the 50 images .* train.global_batch_size=32"),
        (
            {"global_batch_size": 8, "world": 3},
            r"8 does not divide into 3 ranks x 1 micro-batches; use 6 or 9",
        ),
        ({"global_batch_size": 8, "world": 2, "accumulate": 3}, "2 ranks x 3 micro-batches; use 6 or 12"),
        ({"global_batch_size": 2, "accumulate": 4}, "use 4"),
        ({"world": 60}, "60 ranks are more than the 50 images"),
        ({"world": 2, "rank": 2}, "rank 2 is not within a world of 2"),
        ({"accumulate": 0}, "at least 1"),
        ({"global_batch_size": 0}, "at least 1"),
        ({"workers": -1}, "workers"),
    ],
)
def test_sizes_that_do_not_fit(changes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        loader(**changes)


def test_an_empty_set() -> None:
    with pytest.raises(ValueError, match="empty"):
        Loader(Pictures(0), Draws(), global_batch_size=1, seed=0)


def test_mixed_labels_and_mixed_sizes() -> None:
    class Half(Pictures):
        def __getitem__(self, index: int) -> Sample:
            return super().__getitem__(index)._replace(label=None if index == 3 else 0)

    with pytest.raises(ValueError, match=r"\[3\] have no label"):
        flat(loader(data=Half(8)).batches(0, 1))
    with pytest.raises(ValueError, match="one batch needs one size"):
        flat(loader(transform=Growing()).batches(0, 1))


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_the_transform_are_not_hidden(workers: int) -> None:
    with pytest.raises(ValueError, match="one batch needs one size"):
        flat(loader(transform=Growing(), workers=workers).batches(0, 1))


def test_a_worker_that_dies_is_explained() -> None:
    with pytest.raises(WorkerCrashed, match=r"a loading process died .*memory.*fewer workers than 2"):
        flat(loader(data=Pictures(50, deadly=7), workers=2).batches(0, 6))


class Slow(Pictures):
    def __getitem__(self, index: int) -> Sample:
        time.sleep(0.05)
        return super().__getitem__(index)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="NO /proc: what workers do on signals was not looked at")
def test_workers_ignore_ctrl_c_and_end_with_the_loader() -> None:
    strangers = _children()  # other tests' servers
    batches = loader(data=Slow(50), workers=2).batches(0, 60)
    next(batches)
    children = _children() - strangers
    assert len(children) >= 2
    for child in children:
        os.kill(child, signal.SIGINT)
    assert len(flat(iter([next(batches), next(batches)]))) == 2
    batches.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 10
    while _children() & children and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _children() & children


def _children() -> set[int]:
    found: set[int] = set()
    for thread in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            found |= {int(pid) for pid in (thread / "children").read_text().split()}
    return found


def test_ordered_batches_keep_the_order_and_the_rest() -> None:
    for workers in (0, 2):
        batches = list(ordered_batches(Pictures(11), Draws(), 4, workers))
        assert [batch.indices.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


@pytest.mark.parametrize("world", [1, 2, 3, 13])
def test_ordered_batches_of_all_ranks_are_the_set(world: int) -> None:
    parts = [
        batch.indices
        for rank in range(world)
        for batch in ordered_batches(Pictures(11), Draws(), 2, rank=rank, world=world)
    ]
    assert torch.cat(parts).tolist() == list(range(11))


def test_ordered_batches_leave_out_what_is_unreadable() -> None:
    skipped: dict[int, tuple[str, str]] = {}
    batches = list(ordered_batches(Pictures(9, bad=(0, 1, 2, 4)), Draws(), 3, skipped=skipped))
    assert [batch.indices.tolist() for batch in batches] == [[3, 5], [6, 7, 8]]
    assert set(skipped) == {0, 1, 2, 4}
    with pytest.raises(ValueError, match="batch_size 0"):
        next(ordered_batches(Pictures(3), Draws(), 0))


def test_a_real_folder_with_broken_files(tmp_path: Path) -> None:
    for number in range(120):
        (tmp_path / str(number % 2)).mkdir(exist_ok=True)
        Image.new("RGB", (20, 30), (number, 0, 0)).save(tmp_path / str(number % 2) / f"{number:03d}.jpg")
    (tmp_path / "0" / "000.jpg").write_bytes(b"")
    data = ImageFolder(tmp_path)
    made = Loader(data, TrainTransform(TrainTransformConfig(image_size=16)), global_batch_size=24, seed=0, workers=2)
    batches = flat(made.batches(0, 5))
    assert len(batches) == 5
    assert made.skipped == {0: (data.path(0), "the file is empty (0 bytes)")}
    whole = list(ordered_batches(data, EvalTransform(EvalTransformConfig(image_size=16)), 50))
    assert sum(len(batch.indices) for batch in whole) == 119


def test_small_images_load_fast() -> None:
    class Cached(Pictures):
        def __init__(self) -> None:
            super().__init__(512, 48)
            self.samples = [super(Cached, self).__getitem__(index) for index in range(512)]

        def __getitem__(self, index: int) -> Sample:
            return self.samples[index]

    made = loader(data=Cached(), transform=TrainTransform(TrainTransformConfig.flips(48)), global_batch_size=64)
    rates = []
    for epoch in range(4):
        started = time.perf_counter()
        count = sum(len(batch.indices) for batch in flat(made.batches(8 * epoch, 8 * epoch + 8)))
        rates.append(count / (time.perf_counter() - started))
    assert max(rates) > 1000  # measured 10,000 and more; the bound is for busy machines


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="NO /proc: what workers do on signals was not looked at")
def test_workers_that_are_asked_to_end_do_not_disturb_the_main_process() -> None:
    strangers = _children()
    batches = loader(data=Slow(50), workers=2).batches(0, 60)
    next(batches)
    for child in _children() - strangers:
        os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        time.sleep(0.01)  # torch would raise here, in the middle of a save
    with pytest.raises(WorkerCrashed):
        flat(batches)


def test_the_process_can_end_at_any_time() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from test_data_loader import loader, Slow\n"
        "batches = loader(data=Slow(50), workers=2).batches(0, 60)\n"
        "next(batches)\n"
        "print('done')"
    )
    root = Path(__file__).resolve().parents[1]
    done = python("-c", code, cwd=root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_what_workers_get_can_be_pickled(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    for transform in (
        TrainTransform(TrainTransformConfig.deit(16)),
        EvalTransform(EvalTransformConfig(image_size=16)),
    ):
        reader = pickle.loads(pickle.dumps(_Reader(ImageFolder(tmp_path), transform, 0, replace=True)))
        loaded = reader[_Request(0, np.array([0]))]
        assert loaded.batch.images.shape == (1, 3, 16, 16)
