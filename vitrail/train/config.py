"""What the trainer can be told."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from vitrail.config import Config


class TrainConfig(Config):
    """How long, how fast and how exactly to train.

    Weight decay is not here: it belongs to the method's `parameter_groups()`, which know which weights decay.
    """

    epochs: int = Field(100, ge=1, description="passes over the training data")
    global_batch_size: int = Field(256, ge=1, description="images per optimizer step, all ranks and micro-batches")
    accumulate: int = Field(1, ge=1, description="micro-batches per optimizer step on each rank")
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="update rule; sgd is with Nesterov momentum, or plain"
    )
    learning_rate: float = Field(5e-4, gt=0, description="peak, taken as it is: not scaled by the batch size")
    min_learning_rate: float = Field(1e-6, ge=0, description="where the cosine ends")
    warmup_epochs: float = Field(5.0, ge=0, description="epochs of linear warm-up, inside `epochs`")
    warmup_learning_rate: float = Field(1e-6, ge=0, description="where the warm-up starts")
    betas: tuple[float, float] = Field((0.9, 0.999), description="moment decays of adamw, each in [0, 1)")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    nesterov: bool = Field(True, description="whether the momentum of sgd is Nesterov's; false: the plain one")
    clip_norm: float | None = Field(None, gt=0, description="largest L2 norm of the whole gradient; null: any")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of autocast; weights stay fp32")
    ema: float | None = Field(None, gt=0, lt=1, description="decay per step of the weights' average; null: none")
    compile: bool = Field(False, description="torch.compile the training step")
    deterministic: bool = Field(False, description="same bits on the same machine; slower, attention by plain math")
    fsdp: bool = Field(False, description="shard weights over the ranks (FSDP2) instead of copying them (DDP)")
    seed: int = Field(0, ge=0, description="of weights, order, augmentation and noise")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    log_every: int = Field(50, ge=1, description="optimizer steps between lines of metrics; at least one an epoch")
    checkpoint_every: int | None = Field(None, ge=1, description="optimizer steps; null: at the end of each epoch")
    evaluate_every: int | None = Field(1, ge=1, description="epochs; null: only at the end")

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        if self.global_batch_size % self.accumulate:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} does not split into accumulate={self.accumulate}"
                f" micro-batches; take a multiple, or accumulate=1"
            )
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} is more than epochs {self.epochs}; for a short run give "
                f"train.warmup_epochs={self.epochs / 20:g} too"
            )
        for name in ("min_learning_rate", "warmup_learning_rate"):
            value = getattr(self, name)
            if value > self.learning_rate:
                raise ValueError(f"{name} {value} is above the peak, learning_rate {self.learning_rate}; lower it")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must each be in [0, 1)")
        if self.fsdp and self.precision == "fp16":
            raise ValueError("fsdp with fp16 has no shared gradient scale; use precision=bf16, or fsdp=false")
        return self
