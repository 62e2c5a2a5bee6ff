"""The training loop: plain torch, from one process to many, for any method.

What is promised, whatever the method:

- a step is forward and backward over the micro-batches, a check that loss and gradient are finite on every
  rank, then the update, the average of the weights, and the method's own `after_step`;
- a run that is killed and resumed ends in the same bits as one that was not (same machine, same ranks, and
  `deterministic` where a GPU's kernels need it);
- Ctrl-C and SIGTERM on any rank finish the step, save, and exit with 130 or 143; during an evaluation, which
  always has a checkpoint before it, they exit at once;
- a save that fails leaves the older checkpoints whole; training goes on and stops after three failures in a
  row, or where it would end anyway.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import torch
from torch import Tensor, nn

from vitrail.contracts import Batch, Exported, Losses, Method, Step
from vitrail.metrics.by_head import is_of_head
from vitrail.nn.ema import Ema
from vitrail.train import checkpoint
from vitrail.train.config import TrainConfig
from vitrail.train.distributed import Ranks, gradient_sync, join, whole_weights, wrap
from vitrail.train.interruption import Interrupted, Signals
from vitrail.train.progress import Progress, memory_gb
from vitrail.train.randomness import deterministic_kernels, seed_everything
from vitrail.train.run_folder import RunFolder
from vitrail.train.schedule import learning_rate_at, weight_decay_at

log = logging.getLogger("vitrail")
FAILED_SAVES = 3  # in a row, before training stops
SMALLEST_SCALE = 1.0  # of fp16 gradients; below it, overflow is the model's doing and not the scale's


class Loader(Protocol):
    """What the loop asks of a loader. `vitrail.data.Loader` is one."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the data."""
        ...

    @property
    def skipped(self) -> Mapping[int, tuple[str, str]]:
        """Samples that could not be read so far: index -> (path, reason)."""
        ...

    def tolerate(self, skipped: Mapping[int, tuple[str, str]]) -> None:
        """Raise where these, which all ranks met so far, are too many. Every rank is asked, after each save."""
        ...

    def batches(self, start: int, stop: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of the run's optimizer steps start, ..., stop - 1: a list for each."""
        ...


class Outcome(NamedTuple):
    """How a training run ended."""

    steps: int
    seconds: float  # spent in training steps, over all resumptions
    losses: dict[str, float]  # the last `train/...` and `val/...` numbers
    images_per_second: float  # of this process's steps
    data_wait: float  # share of their time spent waiting for data, in [0, 1]


class NonFiniteLoss(ArithmeticError):
    """Loss or gradient is NaN or infinite. The weights are untouched; `nonfinite.json` names the images."""


class TrainingStep(nn.Module):
    """`method.training_step` as a module's forward, so that the hooks of DDP and FSDP see it."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch, step: Step) -> Losses:
        """The method's losses."""
        return self.method.training_step(batch, step)  # type: ignore[operator]


@dataclass
class Run:
    """Everything that moves during training."""

    method: Any  # a Method that is an nn.Module
    model: nn.Module  # its training step, wrapped for the ranks
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | None
    ranks: Ranks
    config: TrainConfig
    folder: RunFolder
    loader: Loader
    save_exported: Callable[[Exported, Path], None]
    signals: Signals
    step: int = 0  # optimizer steps done
    seconds: float = 0.0  # spent in them
    saved: int = -1  # the last step that a checkpoint holds
    failed_saves: int = 0
    window: _Meter = field(default_factory=lambda: _Meter())  # steps since the last line of metrics
    last: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Optimizer steps of the whole run."""
        return self.config.epochs * self.loader.steps_per_epoch

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.step / self.loader.steps_per_epoch

    def due(self, every: int | None) -> bool:
        """Whether something done every so many steps (None: only at the end) falls on this one."""
        return self.step == self.total or (every is not None and self.step % every == 0)

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the method holds the weights to use."""
        return nullcontext() if self.ema is None else self.ema.applied(self.method)


def fit(
    method: Method,
    loader: Loader,
    config: TrainConfig,
    folder: RunFolder,
    *,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    save_exported: Callable[[Exported, Path], None],
) -> Outcome:
    """Train a method to the end of `config.epochs`, from where the run folder stands.

    Args:
        method: an `nn.Module` that fulfills `Method`; moved to the device.
        loader: gives this rank its micro-batches; its order must depend on the step alone.
        config: the schedule and the switches.
        folder: an open run folder; rank 0's is written to.
        evaluate: returns numbers for `val/...`. Every rank calls it (it may split the work), in eval mode,
            with the averaged weights where there are any; rank 0's numbers are kept.
        save_exported: writes `method.export()` to a path; called on rank 0 at each checkpoint.

    Raises `NonFiniteLoss`, `Interrupted` (a `SystemExit`), `CheckpointError`, and whatever the loader raises.
    """
    ranks = join(config.device)
    with deterministic_kernels(config.deterministic), _stopping_aloud(ranks), Signals() as signals:
        run = _assemble(method, loader, config, folder, ranks, save_exported, signals)
        evaluate_every = config.evaluate_every and config.evaluate_every * loader.steps_per_epoch
        checkpoint_every = config.checkpoint_every or loader.steps_per_epoch
        _restore(run)
        if run.step and run.due(evaluate_every) and not _evaluated(run):
            _evaluate(run, evaluate)
        everything = _Meter()
        with Progress(run.total, run.step, shown=ranks.main) as progress:
            for micro_batches, waited in _timed(run):
                _stop_if_asked(run)
                started = time.perf_counter()
                losses = _train_step(run, micro_batches)
                seconds = time.perf_counter() - started + waited
                run.seconds += seconds
                everything.add(seconds, waited, {})
                run.window.add(seconds, waited, losses)
                progress.step()
                if run.due(min(config.log_every, loader.steps_per_epoch)):
                    numbers = _write_line(run, run.window)
                    if ranks.main:
                        progress.line(numbers)
                    run.window = _Meter()
                evaluating = evaluate is not None and run.due(evaluate_every)
                if evaluating or run.due(checkpoint_every):
                    _save(run, final=run.step == run.total)
                if evaluating:
                    _stop_if_asked(run)
                    _evaluate(run, evaluate)
    assert run.step == run.total, f"the loader ended at step {run.step} of {run.total}"
    rate = everything.steps * config.global_batch_size / max(everything.seconds, 1e-9)
    return Outcome(run.step, run.seconds, run.last, rate, everything.wait_share)


def _train_step(run: Run, micro_batches: Sequence[Batch]) -> dict[str, Tensor]:
    """One optimizer step; returns its losses, [] each, on the device."""
    config, step, share = run.config, Step(run.step, run.total), 1 / len(micro_batches)
    _schedule(run)
    run.optimizer.zero_grad()
    seed_everything(config.seed, run.ranks.rank, run.step)

    losses: dict[str, Tensor] = {}
    for number, batch in enumerate(micro_batches, 1):
        with gradient_sync(run.model, number == len(micro_batches)):
            with _autocast(run):
                found = run.model(batch.to(run.ranks.device), step)
            run.scaler.scale(found.total * share).backward()
        for name, value in {"loss": found.total, **found.parts}.items():
            losses[name] = losses.get(name, 0.0) + value.detach() * share

    _leave_resting(run, step)
    run.scaler.unscale_(run.optimizer)
    parameters = [value for group in run.optimizer.param_groups for value in group["params"]]
    norm = _gradient_norm(parameters)
    finite = norm.isfinite().item()
    fine = bool(losses["loss"].isfinite().item()) and (finite or config.precision == "fp16")
    if run.ranks.maximum(torch.tensor(not fine, dtype=torch.uint8)).item():
        _refuse(run, losses["loss"], norm, micro_batches)
    if config.clip_norm is not None and finite:
        nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()

    if finite:
        if run.ema is not None:
            run.ema.update(run.method)
        run.method.after_step(step)
    elif run.scaler.get_scale() < SMALLEST_SCALE:
        _refuse(run, losses["loss"], norm, micro_batches)
    run.step += 1
    return losses | {"grad_norm": norm}


def _schedule(run: Run) -> None:
    """Set this step's learning rate and weight decay of each group."""
    rate = learning_rate_at(run.step, run.loader.steps_per_epoch, run.config)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
        if "weight_decay_end" in group:
            span = group["weight_decay_start"], group["weight_decay_end"]
            group["weight_decay"] = weight_decay_at(run.step, run.total, *span)


def _leave_resting(run: Run, step: Step) -> None:
    """Groups whose time has not come have no gradient: optimizers pass them by."""
    now = step.progress + 1e-9
    for group in run.optimizer.param_groups:
        spans = [(0, group.get("frozen_until", 0)), *group.get("frozen", ())]
        if any(start <= now < stop for start, stop in spans):
            for value in group["params"]:
                value.grad = None


def _gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    gradients = [value.grad for value in parameters if value.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _refuse(run: Run, loss: Tensor, norm: Tensor, micro_batches: Sequence[Batch]) -> NoReturn:
    mine: dict[str, Any] = {
        "loss": str(float(loss)),
        "grad_norm": str(float(norm)),
        "indices": [batch.indices.tolist() for batch in micro_batches],
    }
    ranks = run.ranks.gather(mine)
    if run.ranks.main:
        run.folder.write_json("nonfinite.json", {"step": run.step, "epoch": run.epoch, "ranks": ranks})
    losses = ", ".join(entry["loss"] for entry in ranks)
    raise NonFiniteLoss(
        f"step {run.step}: loss {losses}, gradient norm {mine['grad_norm']}, {run.config.precision}."
        f" The weights were not touched and the last checkpoint is good; the images' indices are in"
        f" {run.folder.path / 'nonfinite.json'}. Lower learning_rate, set clip_norm, or raise the precision"
    )


def _autocast(run: Run) -> AbstractContextManager[Any]:
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(run.config.precision)
    return nullcontext() if kind is None else torch.autocast(run.ranks.device.type, kind)


def _timed(run: Run) -> Iterator[tuple[list[Batch], float]]:
    """The loader's steps with the seconds that were waited for each; an empty one where stopping lost it."""
    batches = run.loader.batches(run.step, run.total)
    try:
        while True:
            asked = time.perf_counter()
            try:
                micro_batches = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError):  # data workers may have died of the same signal
                if run.signals.caught is None:
                    raise
                micro_batches = []
            yield micro_batches, time.perf_counter() - asked
    finally:
        if run.ranks.main:
            run.folder.write_skipped(run.loader.skipped)


def _stop_if_asked(run: Run) -> None:
    """Save and raise where any rank has caught a signal."""
    number = int(run.ranks.maximum(torch.tensor(run.signals.caught or 0)).item())
    if number:
        if run.saved != run.step:
            _save(run, final=True)
        raise Interrupted(number, run.step)


@contextmanager
def _stopping_aloud(ranks: Ranks) -> Iterator[None]:
    """Say where the run was stopped: nobody prints a `SystemExit`."""
    try:
        yield
    except Interrupted as stopped:
        if ranks.main:
            log.warning("%s", stopped)
        raise


class _Meter:
    """Sums over the steps since it was made; tensors stay on the device until they are asked for."""

    def __init__(self) -> None:
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        self.sums: dict[str, Tensor] = {}

    def add(self, seconds: float, waited: float, losses: Mapping[str, Tensor]) -> None:
        self.steps, self.seconds, self.waited = self.steps + 1, self.seconds + seconds, self.waited + waited
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    @property
    def wait_share(self) -> float:
        return self.waited / max(self.seconds, 1e-9)

    def state(self, ranks: Ranks) -> dict[str, Any]:
        """For a checkpoint, so that the first line after a restart covers the same steps; means over the ranks."""
        sums = {name: ranks.mean(self.sums[name].double()).item() for name in sorted(self.sums)}
        return {"steps": self.steps, "seconds": self.seconds, "waited": self.waited, "sums": sums}

    @classmethod
    def restored(cls, state: Mapping[str, Any] | None, device: torch.device) -> _Meter:
        """What `state` gave; empty where a checkpoint holds none."""
        meter = cls()
        if state:
            meter.steps, meter.seconds, meter.waited = state["steps"], state["seconds"], state["waited"]
            sums = state["sums"].items()
            meter.sums = {name: torch.tensor(value, dtype=torch.float32, device=device) for name, value in sums}
        return meter


def _write_line(run: Run, window: _Meter) -> dict[str, float]:
    """Means over the steps since the last line and over the ranks; memory is the largest."""
    names, device = sorted(window.sums), run.ranks.device
    sums = torch.stack([window.sums[name].double() for name in names]) / window.steps
    means = run.ranks.mean(torch.cat([sums, sums.new_tensor([window.wait_share])])).tolist()
    memory = run.ranks.maximum(torch.tensor([memory_gb(device)], device=device)).item()
    numbers = {"step": run.step, "epoch": run.epoch, "time": run.seconds}
    numbers |= {f"train/{name}": value for name, value in zip(names, means)}
    numbers["train/lr"] = learning_rate_at(run.step - 1, run.loader.steps_per_epoch, run.config)
    if run.config.precision == "fp16":
        numbers["train/scale"] = run.scaler.get_scale()
    numbers["images_per_second"] = window.steps * run.config.global_batch_size / max(window.seconds, 1e-9)
    numbers |= {"data_wait": means[-1], "memory_gb": memory}
    run.last |= {name: value for name, value in numbers.items() if name.startswith("train/")}
    run.folder.write_metrics(numbers)
    return numbers


def _evaluate(run: Run, evaluate: Callable[[], Mapping[str, float]] | None) -> None:
    if evaluate is None:
        return
    modes = [(part, part.training) for part in run.method.modules()]
    run.method.eval()
    with run.signals.stopping_at_once(run.step), run.averaged(), whole_weights(run.model):
        found = run.ranks.agree(dict(evaluate()))
    for part, training in modes:
        part.training = training
    numbers = {name if name.startswith("val/") else f"val/{name}": float(found[name]) for name in found}
    run.last |= numbers
    run.folder.write_metrics({"step": run.step, "epoch": run.epoch, **numbers})
    if run.ranks.main:
        told = {name: value for name, value in numbers.items() if not is_of_head(name)}
        log.info("step %d  %s", run.step, "  ".join(f"{name} {value:.4g}" for name, value in told.items()))


def _evaluated(run: Run) -> bool:
    lines = run.folder.metrics() if run.ranks.main else []
    found = any(line["step"] == run.step and any(name.startswith("val/") for name in line) for line in lines)
    return run.ranks.agree(found)


def _assemble(
    method: Any,
    loader: Loader,
    config: TrainConfig,
    folder: RunFolder,
    ranks: Ranks,
    save_exported: Callable[[Exported, Path], None],
    signals: Signals,
) -> Run:
    method.to(ranks.device).train()
    step = TrainingStep(method)
    if config.compile:
        step.compile()
    model = wrap(step, ranks, config.fsdp)
    groups = [{"weight_decay": 0.0, "lr_scale": 1.0} | group for group in method.parameter_groups()]
    for group in groups:
        group["params"] = list(group["params"])
        if "weight_decay_end" in group:
            group["weight_decay_start"] = group["weight_decay"]
    held = {id(value) for group in groups for value in group["params"]}
    left = [name for name, value in method.named_parameters() if value.requires_grad and id(value) not in held]
    if left:
        log.warning("%d trainable tensors are in no parameter group and stay as they are: %s", len(left), left[:5])
    fused = ranks.device.type == "cuda"
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused)
    else:
        nesterov = config.nesterov and config.momentum > 0
        optimizer = torch.optim.SGD(groups, config.learning_rate, config.momentum, nesterov=nesterov, fused=fused)
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=config.precision == "fp16")
    ema = None if config.ema is None else Ema(method, config.ema)
    return Run(method, model, optimizer, scaler, ema, ranks, config, folder, loader, save_exported, signals)


def _restore(run: Run) -> None:
    """Bring back the newest checkpoint where the folder is resumed."""
    ranks, folder = run.ranks, run.folder
    path = None
    if ranks.agree(folder.resuming):
        path = ranks.agree(checkpoint.newest(folder.checkpoints) if ranks.main else None)
        if path is None and ranks.main:
            log.warning("%s holds no checkpoint yet; starting from the beginning", folder.path)
    if path is None:
        folder.forget_after(-1)
        return
    state = checkpoint.load(path)
    checkpoint.load_module(run.method, state["method"])
    checkpoint.load_optimizer(run.optimizer, state["optimizer"])
    run.scaler.load_state_dict(state["scaler"])
    if run.ema is not None:
        averages = run.ema.average
        run.ema.load_state_dict({name: checkpoint.like(state["ema"][name], averages[name]) for name in averages})
    run.step, run.seconds, run.saved = state["step"], state["seconds"], state["step"]
    run.window = _Meter.restored(state.get("window"), ranks.device)
    folder.forget_after(run.step)
    before = state.get("world", ranks.world)
    if ranks.main and before != ranks.world:
        log.warning(
            "the run was saved by %d processes and goes on with %d: the images and the schedule stay the same, but"
            " random numbers (drop path, mixup) and rounding will differ; for the same bits, --resume with devices=%d",
            *(before, ranks.world, before),
        )
    if ranks.main:
        left = "" if run.step < run.total else "; nothing is left to train, --extend trains longer"
        log.info("resuming at step %d of %d, epoch %.2f%s", run.step, run.total, run.epoch, left)


def _save(run: Run, *, final: bool) -> None:
    """Export, then checkpoint: where a checkpoint is, exported weights are. A final one must succeed."""
    ranks, failure, window = run.ranks, None, run.window.state(run.ranks)
    skipped = {index: why for part in ranks.gather(dict(run.loader.skipped)) for index, why in part.items()}
    run.folder.write_skipped(skipped)
    with run.averaged():
        exported = run.method.export()
        if ranks.main or run.config.fsdp:
            exported = exported._replace(state=checkpoint.whole(exported.state))
        if ranks.main:
            try:
                run.save_exported(exported, run.folder.exported)
            except OSError as error:
                failure = f"the weights could not be exported to {run.folder.exported}: {error}"
    if ranks.main or run.config.fsdp:
        moving = {
            "method": run.method.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "scaler": run.scaler.state_dict(),
            "ema": None if run.ema is None else run.ema.state_dict(),
        }
        state = checkpoint.whole(moving) | {"step": run.step, "seconds": run.seconds, "world": ranks.world}
        state["window"] = window
    if ranks.main:
        try:
            checkpoint.save(state | {"config": run.folder.config}, run.folder.checkpoints)
        except checkpoint.CheckpointError as error:
            failure = str(error)
    failure = ranks.agree(failure)
    run.failed_saves = 0 if failure is None else run.failed_saves + 1
    if failure is None:
        run.saved = run.step
        run.loader.tolerate(skipped)
        return
    log.error("STEP %d IS NOT SAVED: %s; the checkpoint before it is whole", run.step, failure)
    if run.failed_saves >= FAILED_SAVES or final:
        raise checkpoint.CheckpointError(
            f"stopping at step {run.step}: {failure}. The older checkpoint is whole: free some space in"
            f" {run.folder.path} and --resume"
        )
