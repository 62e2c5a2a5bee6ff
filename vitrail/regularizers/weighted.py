"""A regularizer and its weight over time, as one module that a method adds to its loss."""

from __future__ import annotations

from torch import Tensor, nn

from vitrail.contracts import Regularizer, Step, Tokens
from vitrail.regularizers.weight import WeightConfig, weight_at


class Weighted(nn.Module):
    """`weight_at(step) * regularizer(tokens)`.

    A method asks the backbone for what the regularizer wants to see and adds the result:

        tokens = backbone(images, layers=weighted.layers, scores=weighted.scores)
        penalty, parts = weighted(tokens, step)
        return Losses(task_loss + penalty, {"task": task_loss, **parts})
    """

    def __init__(self, regularizer: Regularizer, weight: WeightConfig, name: str = "regularizer") -> None:
        """Args: name: the key under which the raw value is logged; its weight goes to `name + "_weight"`."""
        super().__init__()
        self.regularizer = regularizer
        self.weight = weight
        self.name = name

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks whose outputs the regularizer wants."""
        return self.regularizer.layers

    @property
    def scores(self) -> tuple[int, ...]:
        """Blocks whose similarity maps the regularizer wants."""
        return self.regularizer.scores

    def forward(self, tokens: Tokens, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss `[]`, differentiable; and, to log, the raw value and the weight, `[]` each."""
        raw = self.regularizer(tokens)
        weight = weight_at(self.weight, step.progress)
        return raw * weight, {
            self.name: raw.detach(),
            f"{self.name}_weight": raw.detach().new_full((), weight),
        }
