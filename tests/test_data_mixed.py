from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.contracts import Sample
from vitrail.data.images import UnreadableImage
from vitrail.data.loader import Loader
from vitrail.data.mixed import Mixed


class Numbered:
    """Images of one gray level each, the level is the number."""

    classes = None

    def __init__(self, count, start=0, broken=()):
        self.count, self.start, self.broken = count, start, broken

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.broken:
            raise UnreadableImage(f"image {index}", "broken")
        return Sample(Image.fromarray(np.full((4, 4, 3), self.start + index, np.uint8)), label=3)

    def digest(self):
        return f"{self.count} {self.start}"


def level(image):
    return torch.from_numpy(np.asarray(image)[:, :, 0].astype(np.float32))[None].expand(3, 4, 4)


def levels(batch):
    return batch.images[:, 0, 0, 0].tolist()


def test_the_two_sets_take_turns_and_the_shorter_starts_over():
    mixed = Mixed(Numbered(5), Numbered(2, start=100))
    assert len(mixed) == 10
    assert [mixed[index].source for index in range(4)] == [0, 1, 0, 1]
    assert [np.asarray(mixed[index].image)[0, 0, 0] for index in range(10)] == [0, 100, 1, 101, 2, 100, 3, 101, 4, 100]
    assert mixed[0].label is None
    assert mixed.digest() != Mixed(Numbered(5), Numbered(3, start=100)).digest()


@pytest.mark.parametrize("world", [1, 2])
def test_each_batch_holds_as_many_of_one_as_of_the_other(world):
    seen = Counter()
    mixed = Mixed(Numbered(12), Numbered(6, start=100))
    for rank in range(world):
        loader = Loader(mixed, level, global_batch_size=8, seed=0, rank=rank, world=world)
        for parts in loader.batches(0, loader.steps_per_epoch):
            batch = parts[0]
            assert batch.sources.tolist() == [0, 1] * (4 // world)
            assert [value >= 100 for value in levels(batch)] == [False, True] * (4 // world)
            seen.update(levels(batch))
    assert all(seen[number] == 1 for number in range(12))
    assert all(seen[100 + number] == 2 for number in range(6))


def test_the_order_differs_between_epochs_and_between_the_sets():
    loader = Loader(Mixed(Numbered(50), Numbered(50)), level, global_batch_size=4, seed=0)
    first, second = loader.order(0), loader.order(1)
    assert sorted(first) == list(range(100))
    assert (first % 2 == [0, 1] * 50).all()
    assert not (first == second).all()
    assert not (first[0::2] == first[1::2] - 1).all()


def test_an_unreadable_image_is_replaced_by_one_of_its_kind():
    mixed = Mixed(Numbered(200, broken=(3,)), Numbered(200))
    loader = Loader(mixed, level, global_batch_size=400, seed=0)
    batch = next(loader.batches(0, 1))[0]
    assert batch.sources.tolist() == [0, 1] * 200
    assert Counter(batch.indices.tolist())[8] == 2
    assert list(loader.skipped) == [6]


def test_sets_of_one_kind_keep_their_order():
    loader = Loader(Numbered(50), level, global_batch_size=4, seed=7)
    from vitrail.data.loader import epoch_order

    assert (loader.order(3) == epoch_order(50, 7, 3)).all()
    assert next(loader.batches(0, 1))[0].sources is None


def test_empty_sets_are_refused():
    with pytest.raises(ValueError, match="0 object-centric and 2 scene-centric"):
        Mixed(Numbered(0), Numbered(2))
