import os
from pathlib import Path

import processes
import pytest
import torch

from vitrail.metrics.confusion import Confusion


def filled(*pairs: tuple[list[int], list[int]], classes: int = 3) -> Confusion:
    confusion = Confusion(classes)
    for predicted, truth in pairs:
        confusion.add(torch.tensor(predicted), torch.tensor(truth))
    return confusion


def test_by_hand() -> None:
    confusion = filled(([0, 0, 1, 1, 2], [0, 0, 0, 1, 1]))
    assert confusion.counts.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    scores = confusion.scores()
    assert scores.iou == pytest.approx((100 * 2 / 3, 100 * 1 / 3, 0.0))
    assert scores.miou == pytest.approx(100 / 3)
    assert scores.accuracy == 60.0
    assert scores.recall[:2] == pytest.approx((100 * 2 / 3, 50.0))
    assert scores.recall[2] is None
    assert scores.mean_accuracy == pytest.approx((200 / 3 + 50) / 2)


def test_pixels_of_the_set_are_counted_and_not_images() -> None:
    """The first image's class 1 is one pixel, wrong; a mean of images' IoUs would punish it as much as a hundred."""
    first = ([0] * 99 + [0], [0] * 99 + [1])
    second = ([1] * 99 + [0], [1] * 99 + [1])
    scores = filled(first, second, classes=2).scores()
    assert scores.iou == pytest.approx((100 * 99 / 101, 100 * 99 / 101))
    of_images = (filled(first, classes=2).scores().miou + filled(second, classes=2).scores().miou) / 2
    assert abs(of_images - scores.miou) > 40


def test_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, truth = (torch.randint(0, 7, (4, 9, 11), generator=generator) for _ in range(2))
    truth[torch.rand(truth.shape, generator=generator) < 0.2] = -1
    confusion = Confusion(9)
    for one, other in zip(predicted, truth, strict=True):
        confusion.add(one, other)
    scores = confusion.scores()
    for label in range(9):
        both = ((predicted == label) & (truth == label)).sum().item()
        either = (((predicted == label) | (truth == label)) & (truth >= 0)).sum().item()
        assert scores.iou[label] == (pytest.approx(100 * both / either) if either else None)
    assert scores.iou[7:] == (None, None)
    assert scores.accuracy == pytest.approx(100 * (predicted == truth).sum().item() / (truth >= 0).sum().item())


def test_ignored_pixels_count_nowhere() -> None:
    confusion = filled(([0, 1, 2], [0, -1, -1]))
    assert int(confusion.counts.sum()) == 1
    assert confusion.scores().miou == 100.0


def test_a_constant_prediction() -> None:
    confusion = filled(([0, 1, 2, 2], [0, 0, 0, 1]))
    floor = confusion.constant(0)
    assert floor.counts.tolist() == filled(([0] * 4, [0, 0, 0, 1])).counts.tolist()
    assert floor.scores().miou == pytest.approx(37.5)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"\[2\] and truth \[3\]"):
        filled(([0, 1], [0, 1, 1]))
    with pytest.raises(ValueError, match="run from 0 to 3, but there are 3 classes"):
        filled(([0, 3], [0, 1]))
    with pytest.raises(ValueError, match="run from 0 to 4"):
        filled(([0, 0], [0, 4]))
    with pytest.raises(ValueError, match="no labeled pixel"):
        filled(([0], [-1])).scores()
    with pytest.raises(ValueError, match="0 classes"):
        Confusion(0)
    with pytest.raises(ValueError, match=r"\[2, 2\]"):
        Confusion(3, torch.zeros(2, 2))


def _rank(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    confusion = filled(([rank, 2], [0, 2]))
    Path(folder, str(rank)).write_text(str(confusion.merge().counts.tolist()))
    torch.distributed.destroy_process_group()


def test_ranks_are_merged(tmp_path: Path) -> None:
    port = processes.free_port()
    assert processes.wait(processes.start(_rank, [(rank, port, str(tmp_path)) for rank in range(2)])) == [0, 0]
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["[[1, 1, 0], [0, 0, 0], [0, 0, 2]]"] * 2
