import numpy as np
import pytest
import torch
from evaluation_doubles import ListSet, MeanBackbone
from painted import painted

from vitrail.data.semantic import semantic_labels
from vitrail.evaluation.patch_sample import PatchConfig, patch_reader
from vitrail.ops.patches import patchify

CONFIG = PatchConfig(image_size=24, forward_batch_size=4)


def test_all_patches_in_order_with_their_shares() -> None:
    data = painted(6, void=True)
    labels = semantic_labels(data)
    with patch_reader(MeanBackbone(), labels, CONFIG, "cpu") as reader:
        sample = reader.sample(data, "train", 1000)
        images = torch.stack([reader.transform(each.image) for each in data.samples])
    torch.testing.assert_close(sample.patches, patchify(images, 8).flatten(0, 1))
    cells = torch.stack([labels.targets(torch.from_numpy(each.mask))[::8, ::8] for each in data.samples]).flatten()
    assert torch.equal(sample.shares.sum(1) > 0, cells >= 0)
    assert torch.equal(sample.shares.argmax(1)[cells >= 0], cells[cells >= 0])
    assert sample.total == 54


def test_some_patches_are_an_even_draw() -> None:
    data, labels = painted(40), semantic_labels(painted(1))
    with patch_reader(MeanBackbone(), labels, CONFIG, "cpu") as reader:
        whole = reader.sample(data, "train", 10**6)
        some = reader.sample(data, "train", 90)
        again = reader.sample(data, "train", 90)
    with patch_reader(MeanBackbone(), labels, CONFIG.override(["seed=1", "forward_batch_size=7"]), "cpu") as reader:
        other = reader.sample(data, "train", 90)
    assert (len(some.patches), some.total) == (90, 360)
    assert torch.equal(some.patches, again.patches)
    assert not torch.equal(some.patches, other.patches)
    places = [int((whole.patches == patch).all(1).nonzero()) for patch in some.patches]
    assert places == sorted(places)
    assert len(set(places)) == 90
    # A quarter of each ten images' patches; 22.5 are expected, with a standard deviation of 3.6.
    assert all(8 < count < 38 for count in np.histogram(places, [0, 90, 180, 270, 360])[0])


def test_unreadable_images_are_noted() -> None:
    data = ListSet(painted(5).samples, painted(1).classes, broken=(2,))
    with patch_reader(MeanBackbone(), semantic_labels(data), CONFIG, "cpu") as reader:
        assert len(reader.sample(data, "train", 1000).patches) == 36
    (note,) = reader.notes
    assert note.startswith("train: 1 of 5 images could not be used and were left out, the first one: ")
    assert "truncated" in note


def test_a_size_that_patches_do_not_divide() -> None:
    with (
        pytest.raises(ValueError, match="28 is not a multiple of the patch size 8"),
        patch_reader(MeanBackbone(), semantic_labels(painted(1)), PatchConfig(image_size=28), "cpu"),
    ):
        pass
