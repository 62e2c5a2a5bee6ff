"""The loop: gradients, guards, verbs, signals, and what is left on disk."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from itertools import pairwise
from pathlib import Path

import numpy
import pytest
import tiny_training as tiny
import torch
from processes import until
from safetensors.torch import load_file

from vitrail.config import ConfigError
from vitrail.train import Interrupted, NonFiniteLoss, checkpoint
from vitrail.train.checkpoint import CheckpointError


def weights(method: tiny.Tiny) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items()}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def stop_at(step: int):
    def before(now: int) -> None:
        if now == step:
            raise RuntimeError("crash")

    return before


def test_a_run_learns_and_leaves_its_folder(tmp_path):
    def evaluate():
        random.random(), numpy.random.rand(), torch.rand(1)  # noqa: NPY002
        assert not method.training
        return {"top1": 50.0}

    method = tiny.Tiny()
    outcome, _ = tiny.train(
        tmp_path, method=method, epochs=4, learning_rate=1e-2, log_every=2, evaluate=evaluate, ema=0.9
    )
    assert outcome.steps == 12
    assert outcome.images_per_second > 0
    assert 0 <= outcome.data_wait <= 1
    assert outcome.losses["val/top1"] == 50
    assert method.training
    lines = tiny.metrics(tmp_path)
    trained = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in trained] == [2, 4, 6, 8, 10, 12]
    expected = {
        "step",
        "epoch",
        "time",
        "train/loss",
        "train/class",
        "train/pull",
        "train/lr",
        "train/grad_norm",
    }
    assert trained[0].keys() == expected | {"images_per_second", "data_wait", "memory_gb"}
    assert [line["step"] for line in lines if "val/top1" in line] == [3, 6, 9, 12]
    assert trained[-1]["train/loss"] < trained[0]["train/loss"]
    for name in (
        "config.yaml",
        "versions.json",
        "log.txt",
        "checkpoints/previous.pt",
        "exported/backbone.safetensors",
    ):
        assert (tmp_path / name).is_file(), name
    assert list((tmp_path / "tensorboard").glob("events.out.*"))
    assert "step 2/12" in (tmp_path / "log.txt").read_text()
    assert json.loads((tmp_path / "versions.json").read_text())["torch"].startswith(torch.__version__.split("+")[0])
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert state["step"] == 12
    assert state["config"]["train"]["ema"] == 0.9
    exported = load_file(tmp_path / "exported" / "backbone.safetensors")
    assert torch.equal(exported["head.weight"], state["ema"]["head.weight"])
    assert not torch.equal(exported["head.weight"], method.head.weight)


def test_accumulation_gives_the_whole_batch_gradient(tmp_path):
    _, whole = tiny.train(tmp_path / "a", method=fresh(noise=0), epochs=1, count=16)
    _, parts = tiny.train(tmp_path / "b", method=fresh(noise=0), epochs=1, count=16, accumulate=4)
    for one, other in zip(whole.parameters(), parts.parameters()):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=0)


def fresh(**options) -> tiny.Tiny:
    torch.manual_seed(0)
    return tiny.Tiny(**options)


def test_evaluation_and_logging_do_not_touch_training(tmp_path):
    _, plain = tiny.train(tmp_path / "a", epochs=2)

    def evaluate():
        return {"noise": float(torch.rand(1) + random.random() + numpy.random.rand())}  # noqa: NPY002

    _, other = tiny.train(tmp_path / "b", epochs=2, evaluate=evaluate, log_every=1, checkpoint_every=1)
    assert_equal(weights(plain), weights(other))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_clipping_and_lr_scale(tmp_path, optimizer):
    method = fresh(noise=0)
    before = weights(method)
    options = {
        "optimizer": optimizer,
        "momentum": 0.0,
        "warmup_epochs": 0,
        "clip_norm": 1e-3,
        "learning_rate": 1.0,
    }
    tiny.train(tmp_path, method=method, epochs=1, count=16, **options)
    total = torch.stack([value.grad.norm() for value in method.parameters()]).norm()
    assert total.item() == pytest.approx(1e-3, rel=1e-3)
    if optimizer == "sgd":  # weight <- weight - lr * lr_scale * gradient, and no decay on the head
        torch.testing.assert_close(method.head.weight, before["head.weight"] - 0.5 * method.head.weight.grad)


@pytest.mark.parametrize(("nesterov", "factor"), [(False, 1.0), (True, 1.5)])
def test_the_first_step_of_plain_and_of_nesterov_momentum(tmp_path, nesterov, factor):
    """The momentum starts at g: plain SGD goes by g, Nesterov's by g + momentum * g."""
    method = fresh(noise=0)
    before = weights(method)
    options = {"optimizer": "sgd", "momentum": 0.5, "nesterov": nesterov, "warmup_epochs": 0, "learning_rate": 0.1}
    tiny.train(tmp_path, method=method, epochs=1, count=16, **options)
    moved = before["head.weight"] - 0.1 * 0.5 * factor * method.head.weight.grad  # the head has lr_scale 0.5
    torch.testing.assert_close(method.head.weight.detach(), moved)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(tmp_path, precision):
    tiny.train(tmp_path, epochs=4, precision=precision, learning_rate=1e-2, log_every=3)
    lines = tiny.metrics(tmp_path)
    assert lines[-1]["train/loss"] < lines[0]["train/loss"]
    assert ("train/scale" in lines[0]) == (precision == "fp16")
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert bool(state["scaler"]) == (precision == "fp16")


class Overflowing(tiny.Tiny):
    """Its gradient is infinite in the first `steps` steps, its loss never."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.moved = steps, 0

    def training_step(self, batch, step):
        losses = super().training_step(batch, step)
        factor = float("inf") if step.index < self.steps else 1.0
        total = losses.total
        if factor != 1.0:
            total = total + (self.head.weight.sum() - self.head.weight.detach().sum()).sqrt()  # slope is infinite at 0
        return losses._replace(total=total)

    def after_step(self, step):
        self.moved += 1


def test_fp16_overflow_skips_steps_until_the_scale_collapses(tmp_path):
    method = Overflowing(3)
    tiny.train(tmp_path / "a", method=method, epochs=2, precision="fp16")
    assert method.moved == 3
    assert tiny.metrics(tmp_path / "a")[-1]["train/scale"] == 65536 / 8
    with pytest.raises(NonFiniteLoss, match="fp16"):
        tiny.train(tmp_path / "b", method=Overflowing(100), epochs=10, precision="fp16")
    with pytest.raises(NonFiniteLoss, match="gradient norm"):
        tiny.train(tmp_path / "c", method=Overflowing(1), epochs=1)


def test_a_nan_loss_stops_before_the_step(tmp_path):
    method = tiny.Tiny(fail_at=4)
    with pytest.raises(NonFiniteLoss, match="step 4: loss nan"):
        tiny.train(tmp_path, method=method, epochs=3, accumulate=2, checkpoint_every=1)
    assert all(value.isfinite().all() for value in method.state_dict().values())
    report = json.loads((tmp_path / "nonfinite.json").read_text())
    assert report["step"] == 4
    expected = [[index for _, index in part] for part in tiny.TinyLoader(48, 16, accumulate=2).places(4)]
    assert report["ranks"][0]["indices"] == expected
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert state["step"] == 4
    assert_equal({name: value.detach() for name, value in method.state_dict().items()}, state["method"])


def test_compiled_steps_are_the_same_and_few(tmp_path, monkeypatch):
    """The step number must not be compiled in; run with a backend that needs no C++ compiler."""
    from torch._dynamo.testing import CompileCounter

    counter, real = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_: real(function, backend=counter))
    _, compiled = tiny.train(tmp_path / "a", epochs=4, noise=0.0, compile=True)
    _, eager = tiny.train(tmp_path / "b", epochs=4, noise=0.0)
    assert 1 <= counter.frame_count <= 2
    for one, other in zip(compiled.parameters(), eager.parameters()):
        torch.testing.assert_close(one, other)


def test_crash_and_resume_gives_the_same_bits_and_no_step_twice(tmp_path):
    options = {"epochs": 4, "ema": 0.9, "accumulate": 2, "log_every": 1, "checkpoint_every": 2, "workers": 1}
    _, whole = tiny.train(tmp_path / "a", **options)
    with pytest.raises(RuntimeError, match="crash"):
        tiny.train(tmp_path / "b", before=stop_at(7), **options)
    torch.rand(17)  # whatever the process did in between
    _, resumed = tiny.train(tmp_path / "b", "resume", **options)
    assert_equal(weights(whole), weights(resumed))
    first, second = (torch.load(tmp_path / x / "checkpoints" / "last.pt", weights_only=True) for x in "ab")
    assert_equal(first["ema"], second["ema"])
    assert [line["step"] for line in tiny.metrics(tmp_path / "b")] == list(range(1, 13))
    losses = [[line["train/loss"] for line in tiny.metrics(tmp_path / x)] for x in "ab"]
    assert losses[0] == losses[1]


def test_a_line_of_metrics_is_the_same_after_a_crash_within_it(tmp_path):
    options = {"epochs": 4, "log_every": 3, "checkpoint_every": 2}
    tiny.train(tmp_path / "a", **options)
    with pytest.raises(RuntimeError, match="crash"):
        tiny.train(tmp_path / "b", before=stop_at(5), **options)  # step 4 is saved, the line of step 6 covers 4 to 6
    tiny.train(tmp_path / "b", "resume", **options)
    timed = {"time", "images_per_second", "data_wait", "memory_gb"}
    one, other = (
        [{name: value for name, value in line.items() if name not in timed} for line in tiny.metrics(tmp_path / x)]
        for x in "ab"
    )
    assert one == other


def test_another_number_of_processes_is_said_on_resume(tmp_path):
    with pytest.raises(RuntimeError, match="crash"):
        tiny.train(tmp_path, epochs=2, before=stop_at(4))
    last = tmp_path / "checkpoints" / "last.pt"
    state = torch.load(last, weights_only=True)
    assert state["world"] == 1
    tiny.train(tmp_path, "resume", epochs=2)
    assert "processes" not in (tmp_path / "log.txt").read_text()
    torch.save(state | {"world": 4}, last)
    tiny.train(tmp_path, "resume", epochs=2)
    assert "was saved by 4 processes and goes on with 1" in (tmp_path / "log.txt").read_text()
    assert "--resume with devices=4" in (tmp_path / "log.txt").read_text()


def test_resuming_a_finished_run_trains_nothing_and_evaluates_once(tmp_path):
    _, method = tiny.train(tmp_path, epochs=2)
    calls = []
    for _ in range(2):
        evaluate = lambda: calls.append(1) or {"top1": 1.0}  # noqa: E731
        outcome, resumed = tiny.train(tmp_path, "resume", epochs=2, evaluate=evaluate)
    assert outcome.steps == 6
    assert_equal(weights(method), weights(resumed))
    assert len(calls) == 1
    assert "nothing is left to train" in (tmp_path / "log.txt").read_text()


def test_resume_before_the_first_checkpoint_starts_from_the_beginning(tmp_path):
    _, whole = tiny.train(tmp_path / "a", epochs=2)
    with pytest.raises(RuntimeError, match="crash"):
        tiny.train(tmp_path / "b", before=stop_at(1), epochs=2, log_every=1)
    _, resumed = tiny.train(tmp_path / "b", "resume", epochs=2, log_every=1)
    assert_equal(weights(whole), weights(resumed))
    assert [line["step"] for line in tiny.metrics(tmp_path / "b")] == list(range(1, 7))


def test_extend_trains_on_under_the_longer_schedule(tmp_path):
    tiny.train(tmp_path, epochs=2)
    with pytest.raises(ConfigError, match="epochs was 2, is 4"):
        tiny.train(tmp_path, "resume", epochs=4)
    with pytest.raises(ConfigError, match="does not extend"):
        tiny.train(tmp_path, "extend", epochs=1)
    outcome, _ = tiny.train(tmp_path, "extend", epochs=4, log_every=1)
    assert outcome.steps == 12
    rates = {line["step"]: line["train/lr"] for line in tiny.metrics(tmp_path)}
    from vitrail.train import TrainConfig
    from vitrail.train.schedule import learning_rate_at

    config = TrainConfig(epochs=4, warmup_epochs=1)
    assert rates[7] == learning_rate_at(6, 3, config)
    outcome, _ = tiny.train(tmp_path, "resume", epochs=4)
    assert outcome.steps == 12


def test_a_truncated_checkpoint_falls_back_to_the_previous_one(tmp_path):
    options = {"epochs": 4}
    _, whole = tiny.train(tmp_path, **options)
    last = tmp_path / "checkpoints" / "last.pt"
    os.truncate(last, last.stat().st_size // 2)
    _, resumed = tiny.train(tmp_path, "resume", **options)
    assert_equal(weights(whole), weights(resumed))
    text = (tmp_path / "log.txt").read_text()
    assert "is damaged" in text
    assert "falling back to" in text
    for name in ("last.pt", "previous.pt"):
        (tmp_path / "checkpoints" / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read"):
        tiny.train(tmp_path, "resume", **options)


def test_a_damaged_checkpoint_is_set_aside_and_the_good_one_survives_the_next_save(tmp_path):
    tiny.train(tmp_path, epochs=4)
    checkpoints = tmp_path / "checkpoints"
    os.truncate(checkpoints / "last.pt", 1000)

    with pytest.raises(RuntimeError, match="crash"):  # after the save at step 10
        tiny.train(tmp_path, "resume", epochs=4, checkpoint_every=1, before=stop_at(10))
    assert checkpoint.load(checkpoints / "last.pt")["step"] == 10
    assert checkpoint.load(checkpoints / "previous.pt")["step"] == 9
    assert (checkpoints / "last.pt.damaged").stat().st_size == 1000
    assert "last.pt.damaged; delete it" in (tmp_path / "log.txt").read_text()
    tiny.train(tmp_path, "overwrite", epochs=1)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["last.pt"]


class Wider(tiny.Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(48, 5)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    tiny.train(tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"2 weights .* head\.weight"):
        tiny.train(tmp_path, "resume", method=Wider(), epochs=1)


def test_a_full_disk_leaves_the_older_checkpoint_whole(tmp_path, monkeypatch):
    real, calls = torch.save, []

    def failing(state, file, *args, **kwargs):
        if isinstance(state, dict) and "optimizer" in state:
            calls.append(state["step"])
            if state["step"] in (6, 9):
                file.write(b"half")
                raise OSError(28, "No space left on device")
        real(state, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", failing)
    outcome, _ = tiny.train(tmp_path / "a", epochs=4)
    assert outcome.steps == 12  # two failures in a row are outlived
    assert "STEP 6 IS NOT SAVED" in (tmp_path / "a" / "log.txt").read_text()
    with pytest.raises(CheckpointError, match="No space left"):
        tiny.train(tmp_path / "b", epochs=3)  # the last save of a run must succeed
    assert checkpoint.load(tmp_path / "b" / "checkpoints" / "last.pt")["step"] == 3
    assert not list((tmp_path / "b" / "checkpoints").glob("*.partial"))


def test_a_file_system_limit_while_saving_is_outlived(tmp_path):
    """A real failing write, deep inside torch's writer, rather than a pretended one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def before(step: int) -> None:
        small = 20_000 if step >= 3 else limits[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (small, limits[1]))

    try:
        with pytest.raises(CheckpointError, match="could not be saved"):
            tiny.train(tmp_path, epochs=5, before=before, writer=lambda exported, path: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.load(tmp_path / "checkpoints" / "last.pt")["step"] == 3
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["last.pt"]
    outcome, _ = tiny.train(tmp_path, "resume", epochs=5)
    assert outcome.steps == 15


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_exits(tmp_path, number, code):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    method = fresh()
    method.after_step = lambda step: signal.raise_signal(number) if step.index == 4 else None
    with pytest.raises(Interrupted) as stopped:
        tiny.train(tmp_path / "b", epochs=3, method=method)
    assert stopped.value.code == code
    line = f"stopped by {signal.Signals(number).name}, saved at step 5; go on with --resume"
    assert str(stopped.value) == line
    assert (tmp_path / "b" / "log.txt").read_text().count(line) == 1
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert checkpoint.load(tmp_path / "b" / "checkpoints" / "last.pt")["step"] == 5


def test_a_signal_while_waiting_for_data_stops_before_the_step(tmp_path):
    _, whole = tiny.train(tmp_path / "a", epochs=3)
    with pytest.raises(Interrupted, match="saved at step 4"):
        tiny.train(tmp_path / "b", epochs=3, before=lambda step: signal.raise_signal(2) if step == 4 else None)
    _, resumed = tiny.train(tmp_path / "b", "resume", epochs=3)
    assert_equal(weights(whole), weights(resumed))


def test_a_signal_during_evaluation_stops_at_once(tmp_path):
    def evaluate():
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("went on")

    with pytest.raises(Interrupted):
        tiny.train(tmp_path, epochs=2, evaluate=evaluate, ema=0.5)
    assert "stopped by SIGINT, saved at step 3; go on with --resume" in (tmp_path / "log.txt").read_text()
    assert checkpoint.load(tmp_path / "checkpoints" / "last.pt")["step"] == 3
    calls = []
    tiny.train(tmp_path, "resume", epochs=2, evaluate=lambda: calls.append(1) or {"top1": 0.0}, ema=0.5)
    assert len(calls) == 2  # the one that was cut off, and the last


def test_data_workers_lost_to_ctrl_c_do_not_lose_the_run(tmp_path):
    def before(step: int) -> None:
        if step == 4:
            signal.raise_signal(signal.SIGINT)
            raise RuntimeError("DataLoader worker (pid(s) 1) exited unexpectedly")

    with pytest.raises(Interrupted) as stopped:
        tiny.train(tmp_path, epochs=3, before=before)
    assert stopped.value.code == 130
    assert checkpoint.load(tmp_path / "checkpoints" / "last.pt")["step"] == 4


def test_skipped_samples_are_listed_once(tmp_path):
    loader_skips = {3: ("broken.jpg", "truncated")}
    for verb in ("new", "resume"):
        config = {"epochs": 1}
        method = fresh()
        ranks = tiny.join("cpu")
        settings = tiny.TrainConfig(device="cpu", global_batch_size=16, warmup_epochs=0, **config)
        loader = tiny.TinyLoader(48, 16)
        loader.skipped = loader_skips
        with tiny.RunFolder(tmp_path, settings, verb, main=ranks.main) as folder:
            tiny.fit(method, loader, settings, folder, save_exported=tiny.save_exported)
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert lines == [{"index": 3, "path": "broken.jpg", "reason": "truncated"}]


def test_killed_and_resumed_gives_the_same_bits(tmp_path):
    """SIGKILL at a random moment, twice, with data workers, accumulation and EMA; the lock dies too."""
    options = {
        "epochs": 12,
        "ema": 0.95,
        "accumulate": 2,
        "workers": 2,
        "checkpoint_every": 4,
        "log_every": 5,
    }
    options |= {"deterministic": True, "clip_norm": 1.0}
    assert tiny.wait(tiny.start({"path": tmp_path / "a", **options})) == [0]
    verb = "new"
    for after in (3, 9 + random.Random(time.time()).randrange(12)):
        (process,) = tiny.start({"path": tmp_path / "b", "verb": verb, "delay": 0.05, **options})
        wait_for_step(tmp_path / "b", after, process)
        os.kill(process.pid, signal.SIGKILL)
        tiny.wait([process])
        verb = "resume"
    assert tiny.wait(tiny.start({"path": tmp_path / "b", "verb": "resume", **options})) == [0]
    first, second = (torch.load(tmp_path / x / "checkpoints" / "last.pt", weights_only=True) for x in "ab")
    assert first["step"] == second["step"] == 36
    assert_equal(first["method"], second["method"])
    assert_equal(first["ema"], second["ema"])
    steps = [line["step"] for line in tiny.metrics(tmp_path / "b")]
    assert steps == sorted(set(steps))
    assert "taking over" in (tmp_path / "b" / "log.txt").read_text()


def wait_for_step(path: Path, step: int, process) -> None:
    """Wait until a checkpoint of at least this step stands."""

    def stands() -> bool:
        try:
            return checkpoint.load(path / "checkpoints" / "last.pt")["step"] >= step
        except CheckpointError:
            return False

    until(stands, f"a checkpoint of step {step} stood", process)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_a_process_and_its_workers_can_be_resumed(tmp_path, number, code):
    options = {"epochs": 8, "workers": 1, "checkpoint_every": 1}
    (process,) = tiny.start({"path": tmp_path, "delay": 0.1, **options})
    wait_for_step(tmp_path, 2, process)
    os.killpg(process.pid, number)
    assert tiny.wait([process]) == [code]
    assert checkpoint.load(tmp_path / "checkpoints" / "last.pt")["step"] < 24
    outcome, _ = tiny.train(tmp_path, "resume", **options)
    assert outcome.steps == 24


def test_an_epoch_shorter_than_the_interval_still_gets_its_line(tmp_path):
    tiny.train(tmp_path, epochs=2, log_every=50)
    assert [line["step"] for line in tiny.metrics(tmp_path) if "train/loss" in line] == [3, 6]


def test_weight_decay_moves_in_the_groups_that_ask_for_it_and_survives_a_resume(tmp_path):
    from vitrail.train.schedule import weight_decay_at

    class Decaying(tiny.Tiny):
        def parameter_groups(self):
            blocks, head = super().parameter_groups()
            return [blocks | {"weight_decay_end": 0.5}, head | {"weight_decay": 0.1}]

    used = []

    class Watching(torch.optim.AdamW):
        def step(self, closure=None):
            used.append([group["weight_decay"] for group in self.param_groups])
            return super().step(closure)

    original, torch.optim.AdamW = torch.optim.AdamW, Watching
    try:
        tiny.train(tmp_path / "run", method=Decaying(), epochs=2)
        tiny.train(tmp_path / "run", "extend", method=Decaying(), epochs=3)
    finally:
        torch.optim.AdamW = original
    expected = [[weight_decay_at(step, 6, 0.05, 0.5), 0.1] for step in range(6)]
    expected += [[weight_decay_at(step, 9, 0.05, 0.5), 0.1] for step in range(6, 9)]
    numpy.testing.assert_allclose(used, expected, rtol=1e-12)


def test_a_group_that_rests_is_left_alone_until_its_time(tmp_path):
    """Two of four epochs: no update, no decay, no moments; then as if training began for it."""

    class Resting(tiny.Tiny):
        def parameter_groups(self):
            blocks, head = super().parameter_groups()
            return [blocks, head | {"frozen_until": 0.5, "weight_decay": 0.1}]

    method = Resting()
    start = method.head.weight.detach().clone()
    seen = {}

    def evaluate():
        seen[len(seen)] = method.head.weight.detach().clone()
        return {"answer": 1.0}

    tiny.train(tmp_path / "run", method=method, epochs=4, evaluate=evaluate)
    assert [torch.equal(seen[epoch], start) for epoch in range(4)] == [True, True, False, False]
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    steps = [int(entry["step"]) for entry in state["optimizer"]["state"].values()]
    assert set(steps) == {12, 6}


def test_a_group_that_rests_in_between_goes_on_where_it_was(tmp_path):
    """The second of four epochs: nothing moves; before and after it trains."""

    class Resting(tiny.Tiny):
        def parameter_groups(self):
            blocks, head = super().parameter_groups()
            return [blocks, head | {"frozen": ((0.25, 0.5),), "weight_decay": 0.1}]

    method, seen = Resting(), []

    def evaluate():
        seen.append(method.head.weight.detach().clone())
        return {"answer": 1.0}

    tiny.train(tmp_path / "run", method=method, epochs=4, evaluate=evaluate)
    assert [torch.equal(*pair) for pair in pairwise(seen)] == [True, False, False]
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert {int(entry["step"]) for entry in state["optimizer"]["state"].values()} == {12, 9}
