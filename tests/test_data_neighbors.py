import random

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.contracts import Sample
from vitrail.data.images import UnreadableImage
from vitrail.data.neighbors import NeighborTable, WithNeighbors


class Gray:
    classes = ("one", "other")

    def __init__(self, count, broken=()):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.broken:
            raise UnreadableImage(f"image {index}", "broken")
        return Sample(Image.fromarray(np.full((2, 2, 3), index, np.uint8)), label=index % 2)

    def digest(self):
        return f"gray {self.count}"


TABLE = NeighborTable(
    torch.tensor([[1, 2], [0, 3], [3, 0], [-1, -1]], dtype=torch.int32), "gray 4", "abc", "class token"
)


def companion(sample):
    return int(np.asarray(sample.companion)[0, 0, 0])


def test_comes_back_as_it_was_saved(tmp_path):
    TABLE.save(tmp_path / "a" / "table.safetensors")
    read = NeighborTable.load(tmp_path / "a" / "table.safetensors")
    assert torch.equal(read.neighbors, TABLE.neighbors)
    assert read[1:] == TABLE[1:]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["table.safetensors"]


def test_draws_all_neighbors_and_no_other():
    data = WithNeighbors(Gray(4), TABLE)
    random.seed(0)
    drawn = [companion(data[0]) for _ in range(100)]
    assert set(drawn) == {1, 2}
    assert 30 < drawn.count(1) < 70
    assert data[3].companion is None  # it could not be read when the table was made
    assert data[1].label == 1


def test_a_neighbor_that_cannot_be_read_is_passed_over():
    data = WithNeighbors(Gray(4, broken=(1,)), TABLE)
    assert {companion(data[0]) for _ in range(20)} == {2}
    assert WithNeighbors(Gray(4, broken=(1, 2)), TABLE)[0].companion is None


def test_tables_of_other_images_or_weights_are_refused():
    with pytest.raises(
        ValueError, match=r"of other images \(4, digest gray 4\).*\(5, digest gray 5\).*vitrail neighbors"
    ):
        WithNeighbors(Gray(5), TABLE)
    TABLE.check(Gray(4), "abc", "t")
    with pytest.raises(ValueError, match=r"digest abc, and training starts from xyz.*neighbors_of=any"):
        TABLE.check(Gray(4), "xyz", "t")
    far = TABLE._replace(neighbors=TABLE.neighbors + 5)
    with pytest.raises(ValueError, match="names images up to 8 of 4"):
        far.check(Gray(4), None, "t")


def test_files_of_another_kind_are_refused(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(ValueError, match="no table of neighbors that can be read"):
        NeighborTable.load(tmp_path / "missing")
    save_file({"weights": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="no table of neighbors"):
        NeighborTable.load(tmp_path / "weights.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"12345")
    with pytest.raises(ValueError, match="no table of neighbors"):
        NeighborTable.load(tmp_path / "cut.safetensors")
    TABLE._replace(neighbors=TABLE.neighbors.float()).save(tmp_path / "float.safetensors")
    with pytest.raises(ValueError, match="not int32"):
        NeighborTable.load(tmp_path / "float.safetensors")
