"""Several processes, which on this test's machine talk over gloo, do what one does."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path

import pytest
import tiny_training as tiny
import torch

from vitrail.train import Ranks, launch
from vitrail.train.distributed import _placed, join, units
from vitrail.train.loop import TrainingStep


def both(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, dict[str, torch.Tensor]]]:
    first, second = (torch.load(path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    return first, second


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process, one step of 32 images; and then a whole run."""
    path = tmp_path_factory.mktemp("alone")
    torch.manual_seed(0)
    _, step = tiny.train(path / "step", noise=0.0, epochs=1, count=32, batch=32)
    _, run = tiny.train(path / "run", noise=0.0, epochs=3, ema=0.9)
    return step, run


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
def test_two_processes_give_the_gradient_of_one(tmp_path, alone, fsdp):
    options = {
        "path": tmp_path,
        "noise": 0.0,
        "epochs": 1,
        "count": 32,
        "batch": 32,
        "accumulate": 2,
        "fsdp": fsdp,
    }
    assert tiny.wait(tiny.start(options, world=2)) == [0, 0]
    first, second = both(tmp_path)
    assert_equal(first["weights"], second["weights"])
    assert_equal(first["gradients"], second["gradients"])
    for name, value in alone[0].named_parameters():
        torch.testing.assert_close(first["gradients"][name], value.grad, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
def test_two_processes_train_sar_as_one_does(tmp_path, fsdp):
    options = {"with_sar": True, "epochs": 1, "count": 32, "optimizer": "sgd", "learning_rate": 0.1, "fsdp": fsdp}
    _, alone = tiny.train(tmp_path / "one", **options)
    assert tiny.wait(tiny.start({"path": tmp_path / "two", **options}, world=2)) == [0, 0]
    first, second = both(tmp_path / "two")
    assert_equal(first["weights"], second["weights"])
    untrained = tiny.sar().state_dict()
    for name, value in alone.named_parameters():
        torch.testing.assert_close(first["gradients"][name], value.grad, atol=1e-6, rtol=0)
        torch.testing.assert_close(first["weights"][name], value.detach(), atol=1e-6, rtol=0)
        assert not torch.equal(first["weights"][name], untrained[name]), name


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("kind", ["mae", "dino", "dino sinkhorn", "ibot"])
def test_two_processes_pretrain_as_one_does(tmp_path, kind, fsdp):
    """Centers, assignments and teachers included; the second step meets a center that has moved."""
    options = {"pretrain": kind, "epochs": 1, "count": 32, "optimizer": "sgd", "learning_rate": 0.1, "fsdp": fsdp}
    _, alone = tiny.train(tmp_path / "one", **options)
    assert tiny.wait(tiny.start({"path": tmp_path / "two", **options}, world=2)) == [0, 0]
    first, second = both(tmp_path / "two")
    assert_equal(first["weights"], second["weights"])
    state = alone.state_dict()
    assert state.keys() == first["weights"].keys()
    for name, value in state.items():
        torch.testing.assert_close(first["weights"][name], value, atol=4e-6, rtol=0, msg=name)
    for name, value in alone.named_parameters():
        if value.requires_grad:  # normalization enlarges the gradients of what comes before it
            wrong = (first["gradients"][name] - value.grad).abs().max()
            assert wrong <= 2e-6 * max(1.0, value.grad.abs().max().item()), name
    if kind in ("dino", "ibot"):
        assert state["targets.center"].abs().max() > 0


@pytest.mark.parametrize(("kind", "fsdp"), [("simclr", True), ("moco", False), ("mocov3", True), ("mocov3", False)])
def test_two_processes_compare_views_as_one_does(tmp_path, kind, fsdp):
    """Each looks for its views among those of both; the queue takes the keys of both in their order."""
    options = {"pretrain": kind, "epochs": 1, "count": 32, "optimizer": "sgd", "learning_rate": 0.05, "fsdp": fsdp}
    _, alone = tiny.train(tmp_path / "one", **options)
    assert tiny.wait(tiny.start({"path": tmp_path / "two", **options}, world=2)) == [0, 0]
    first, second = both(tmp_path / "two")
    assert_equal(first["weights"], second["weights"])
    untrained = tiny.pretraining(kind).state_dict()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(first["weights"][name], value, atol=1e-5, rtol=0, msg=name)
    assert not torch.equal(first["weights"]["head.mlp.0.weight"], untrained["head.mlp.0.weight"])
    if kind == "moco":  # 32 keys of two steps behind what is left of the first queue
        assert alone.queue.norm(dim=1).allclose(torch.ones(40))


@pytest.mark.parametrize("kind", ["mae by chance", "dino sinkhorn", "ibot by chance", "mocov3"])
def test_pretraining_that_is_killed_and_resumed_ends_in_the_same_bits(tmp_path, kind):
    """Masks, numbers of hidden patches and drop path that are drawn included."""
    options = {"pretrain": kind, "epochs": 2, "count": 48, "log_every": 2}
    assert tiny.wait(tiny.start({"path": tmp_path / "a", **options})) == [0]
    assert tiny.wait(tiny.start({"path": tmp_path / "b", "die_at": 4, **options})) == [-9]
    assert tiny.wait(tiny.start({"path": tmp_path / "b", "verb": "resume", **options})) == [0]
    first, second = (torch.load(tmp_path / name / "rank0.pt", weights_only=True) for name in ("a", "b"))
    assert_equal(first["weights"], second["weights"])
    lines = [[line["train/loss"] for line in tiny.metrics(tmp_path / name)] for name in ("a", "b")]
    assert lines[0] == lines[1]


def test_each_transformer_block_is_sharded_on_its_own():
    method = TrainingStep(tiny.sar())
    assert set(units(method)) == set(method.method.backbone.vit.blocks)
    head = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.GELU(), torch.nn.Linear(3, 2))
    assert units(torch.nn.ModuleDict({"head": head})) == []
    inner = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.GELU())
    stage = torch.nn.Sequential(inner, torch.nn.Linear(3, 3))
    assert units(torch.nn.ModuleList([stage])) == [inner, stage]


def test_sharded_and_copied_checkpoints_are_the_same_plain_file(tmp_path, alone):
    """FSDP2 on two ranks, evaluated and averaged; then resumed by one process without sharding."""
    options = {"noise": 0.0, "epochs": 3, "ema": 0.9, "log_every": 3, "clip_norm": 100.0}
    assert tiny.wait(tiny.start({"path": tmp_path, "fsdp": True, "probe": True, **options}, world=2)) == [
        0,
        0,
    ]
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    for name, value in alone[1].state_dict().items():
        assert type(state["method"][name]) is torch.Tensor
        torch.testing.assert_close(state["method"][name], value, atol=1e-5, rtol=0)
    assert all(moment["exp_avg"].shape == (48, 48) for moment in [state["optimizer"]["state"][0]])
    lines = tiny.metrics(tmp_path)
    averaged = tiny.Tiny()
    averaged.load_state_dict(state["ema"] | {"center": torch.zeros(())})
    answer = averaged(torch.ones(2, 3, 4, 4)).square().sum().item()
    assert [line["val/answer"] for line in lines if "val/answer" in line][-1] == pytest.approx(answer, rel=1e-5)
    settings = (tmp_path / "config.yaml").read_text().replace("fsdp: true", "fsdp: false")
    (tmp_path / "config.yaml").write_text(settings)
    outcome, method = tiny.train(tmp_path, "extend", **(options | {"epochs": 4}))
    assert outcome.steps == 12
    assert not torch.equal(method.head.weight, state["method"]["head.weight"])


def test_two_processes_resume_what_two_processes_saved(tmp_path):
    options = {"epochs": 2, "ema": 0.9, "fsdp": True}
    assert tiny.wait(tiny.start({"path": tmp_path / "a", **options}, world=2)) == [0, 0]
    assert -9 in tiny.wait(tiny.start({"path": tmp_path / "b", "die_at": 4, **options}, world=2))
    assert tiny.wait(tiny.start({"path": tmp_path / "b", "verb": "resume", **options}, world=2)) == [0, 0]
    for name in ("a", "b"):
        first, second = both(tmp_path / name)
        assert_equal(first["weights"], second["weights"])
    assert_equal(both(tmp_path / "a")[0]["weights"], first["weights"])


def test_a_nan_on_one_rank_stops_all(tmp_path):
    options = {"path": tmp_path, "epochs": 2, "fail_at": 3, "fail_rank": 1, "accumulate": 2}
    assert tiny.wait(tiny.start(options, world=2)) == [1, 1]
    report = json.loads((tmp_path / "nonfinite.json").read_text())
    assert [entry["loss"] == "nan" for entry in report["ranks"]] == [False, True]
    seen = [index for entry in report["ranks"] for part in entry["indices"] for index in part]
    order = [index for part in tiny.TinyLoader(48, 16).places(3) for _, index in part]
    assert seen == order
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert state["step"] == 3


def test_unreadable_images_of_all_ranks_are_counted_together(tmp_path):
    """Two on each rank are tolerated by each, and are too many together."""
    options = {"epochs": 2, "broken": 2}
    tiny.train(tmp_path / "one", **options)
    assert tiny.wait(tiny.start({"path": tmp_path / "two", **options}, world=2)) == [1, 1]
    assert torch.load(tmp_path / "two" / "checkpoints" / "last.pt", weights_only=True)["step"] == 3
    skipped = (tmp_path / "two" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in skipped] == [0, 1, 2, 3]


def test_the_launcher_restarts_a_dead_process_and_the_run_resumes_by_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    options = {"epochs": 3, "checkpoint_every": 2, "log_every": 1}

    def before(step: int) -> None:
        if step == 5:
            raise KeyError("crash")

    with pytest.raises(KeyError):
        tiny.train(tmp_path, before=before, **options)
    options |= {"path": str(tmp_path), "die_at": -1}  # both die once they have found each other
    command = [sys.executable, tiny.__file__, json.dumps(options)]
    assert launch(2, command, restarts=1) == 0
    assert [line["step"] for line in tiny.metrics(tmp_path)] == list(range(1, 10))
    assert "resuming at step 4" in (tmp_path / "log.txt").read_text()
    first, second = both(tmp_path)
    assert_equal(first["weights"], second["weights"])


@pytest.mark.parametrize(("exits", "code"), [(0, 0), (3, 3)])
def test_signals_do_what_they_did_before_a_launch(exits, code):
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD)

    def mine(number, frame):
        raise AssertionError(number)

    before = signal.signal(signal.SIGHUP, mine)
    try:
        handlers = [signal.getsignal(number) for number in numbers]
        assert launch(1, [sys.executable, "-c", f"raise SystemExit({exits})"]) == code
        assert [signal.getsignal(number) for number in numbers] == handlers
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_launch_from_a_thread_that_may_set_no_signals():
    found = []
    thread = threading.Thread(target=lambda: found.append(launch(1, [sys.executable, "-c", "pass"])))
    thread.start()
    thread.join()
    assert found == [0]


def test_places_are_read_from_torchrun_and_srun(monkeypatch):
    assert _placed() == (0, 1, 0)
    assert join("cpu") == Ranks(0, 1, torch.device("cpu"))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    monkeypatch.setenv("SLURM_PROCID", "5")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert _placed() == (5, 8, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert _placed() == (2, 4, 2)


@pytest.mark.parametrize(("nodes", "host"), [("node[003-006,009]", "node003"), ("a,b", "a"), ("gpu7", "gpu7")])
def test_the_main_host_of_srun(monkeypatch, nodes, host):
    from vitrail.train import distributed

    monkeypatch.setattr(distributed.os, "environ", {"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "70001"})
    distributed._name_main_host()
    assert distributed.os.environ["MASTER_ADDR"] == host
    assert 20000 <= int(distributed.os.environ["MASTER_PORT"]) < 40000


def test_more_processes_than_gpus_is_said(monkeypatch):
    from vitrail.train.distributed import _device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="process 4 of this host has no GPU: torch sees 2"):
        _device("auto", 3)
    assert _device("cuda", 1) == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no GPU"):
        _device("cuda", 0)
