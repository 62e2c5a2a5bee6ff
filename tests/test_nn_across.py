"""What processes tell each other: two real ones give the loss and the gradient of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import processes
import torch
import torch.distributed as dist
from torch import Tensor

from vitrail.nn.across import gathered, joined, largest, summed
from vitrail.nn.whole_batch_norm import WholeBatchNorm
from vitrail.ops.contrast import barlow_twins, batch_contrast, nt_xent


def test_a_single_process_keeps_its_own() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    found, first = joined(rows)
    assert found is rows
    assert first == 0
    assert torch.equal(summed(rows), rows.detach())
    assert torch.equal(largest(rows), rows.detach())
    assert torch.equal(gathered(rows), rows.detach())


def views() -> tuple[Tensor, Tensor]:
    one, two = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return one, two


def loss_of(weight: Tensor, start: int, stop: int) -> Tensor:
    one, two = (view[start:stop] @ weight for view in views())
    return nt_xent(one, two, 0.3, gather=joined) + barlow_twins(one, two, 0.1, gather=joined)


def normed(weight: Tensor, start: int, stop: int) -> tuple[Tensor, WholeBatchNorm]:
    """Contrast after batch norm, which has running statistics to keep."""
    norm = WholeBatchNorm(4).double()
    one, two = (norm(3 + view[start:stop] @ weight) for view in views())
    return batch_contrast(one, two, 0.3, gather=joined) + one.sigmoid().mean(), norm


def work(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    weight = torch.eye(4, dtype=torch.float64).mul_(0.7).add_(0.1).requires_grad_()
    loss = loss_of(weight, 3 * rank, 3 * rank + 3)
    loss.backward()
    assert weight.grad is not None
    found: dict[str, Any] = {"loss": summed(loss) / 2, "gradient": summed(weight.grad) / 2}
    found["rows"], found["first"] = joined(torch.full((2, 1), float(rank)))
    found["plain"] = gathered(torch.full((2, 1), float(rank)))
    weight.grad = None
    normed_loss, norm = normed(weight, 3 * rank, 3 * rank + 3)
    normed_loss.backward()
    assert weight.grad is not None
    found["normed"] = [summed(normed_loss) / 2, summed(weight.grad) / 2, norm.running_mean, norm.running_var]
    found["narrow"] = WholeBatchNorm(4)(views()[0][3 * rank : 3 * rank + 3].bfloat16())
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_loss_and_the_gradient_of_one(tmp_path: Path) -> None:
    weight = torch.eye(4, dtype=torch.float64).mul_(0.7).add_(0.1).requires_grad_()
    whole = loss_of(weight, 0, 6)
    whole.backward()
    normed_weight = weight.detach().clone().requires_grad_()
    normed_loss, norm = normed(normed_weight, 0, 6)
    normed_loss.backward()
    wanted = [normed_loss.detach(), normed_weight.grad, norm.running_mean, norm.running_var]
    port = processes.free_port()
    assert processes.wait(processes.start(work, [(rank, port, tmp_path) for rank in range(2)])) == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["loss"], whole.detach())
        torch.testing.assert_close(found["gradient"], weight.grad)
        assert found["rows"].flatten().tolist() == [0, 0, 1, 1]
        assert torch.equal(found["plain"], found["rows"])
        assert found["first"] == 2 * rank
        for mine, right in zip(found["normed"], wanted):
            torch.testing.assert_close(mine, right)
        assert found["narrow"].dtype == torch.bfloat16
