"""Many linear classifiers on the same features, trained at once, one learning rate each.

The gradient of the cross-entropy of a linear layer is closed: with p = softmax(W f + b),
dW = (p - onehot)^T f / B and db = mean(p - onehot). So a sweep of learning rates is one matrix product
forward and one backward, without autograd, and every head equals what SGD with momentum alone would have made
of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LinearHeads(nn.Module):
    """L linear classifiers `[D] -> [C]` that start equal and differ in their learning rate.

    Args:
        features: D.
        classes: C.
        learning_rates: L peak learning rates of plain SGD (no scaling happens here).
        momentum: of SGD.
        seed: of the normal(0, 0.01) initial weights; biases start at 0.

    Raises:
        ValueError: no learning rate, or one that is not positive and finite.
    """

    weight: Tensor  # [L, C, D]
    bias: Tensor  # [L, C]
    learning_rates: Tensor  # [L]

    def __init__(
        self,
        features: int,
        classes: int,
        learning_rates: Sequence[float],
        momentum: float = 0.9,
        seed: int = 0,
    ) -> None:
        super().__init__()
        rates = torch.tensor(list(learning_rates), dtype=torch.float64)
        if not len(rates) or not bool((rates.isfinite() & (rates > 0)).all()):
            raise ValueError(f"learning rates {list(learning_rates)} must be one or more positive numbers")
        generator = torch.Generator().manual_seed(seed)
        start = 0.01 * torch.randn(classes, features, generator=generator)
        self.momentum = momentum
        self.register_buffer("weight", start.repeat(len(rates), 1, 1))
        self.register_buffer("bias", torch.zeros(len(rates), classes))
        self.register_buffer("learning_rates", rates.float())
        self.register_buffer("weight_velocity", torch.zeros(len(rates), classes, features), persistent=False)
        self.register_buffer("bias_velocity", torch.zeros(len(rates), classes), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `[L, B, C]` of features `[B, D]`."""
        heads, classes, width = self.weight.shape
        flat = torch.addmm(self.bias.reshape(-1), features, self.weight.reshape(heads * classes, width).T)
        return flat.reshape(-1, heads, classes).transpose(0, 1)

    @torch.no_grad()
    def sgd_step(self, features: Tensor, labels: Tensor, factor: float = 1.0) -> Tensor:
        """One step of every head on features `[B, D]` and labels `[B]`; its learning rate is times `factor`.

        Returns:
            The cross-entropy `[L]` before the step, nats, mean over the batch.
        """
        heads, classes, width = self.weight.shape
        log_probability = self(features).log_softmax(-1)
        rows = torch.arange(len(labels), device=labels.device)
        losses = -log_probability[:, rows, labels].mean(1)
        slope = log_probability.exp_()
        slope[:, rows, labels] -= 1.0
        slope = slope.div_(len(labels)).transpose(0, 1).reshape(len(labels), heads * classes)
        rate = (self.learning_rates * factor)[:, None]
        weight_velocity, bias_velocity = self.get_buffer("weight_velocity"), self.get_buffer("bias_velocity")
        weight_velocity.mul_(self.momentum).add_((slope.T @ features).reshape(heads, classes, width))
        bias_velocity.mul_(self.momentum).add_(slope.sum(0).reshape(heads, classes))
        self.weight.sub_(rate[..., None] * weight_velocity)
        self.bias.sub_(rate * bias_velocity)
        return losses
