"""Several regularizers on one set of tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor, nn

from vitrail.config import ConfigError
from vitrail.contracts import Backbone, Step, Tokens
from vitrail.regularizers.build import RegularizerConfig, build
from vitrail.regularizers.weighted import Weighted


class Regularizers(nn.ModuleList):
    """The sum of weighted regularizers. `layers` and `scores` are what they want to see, ascending.

        tokens = backbone(images, layers=regularizers.layers, scores=regularizers.scores)
        penalty, parts = regularizers(tokens, step)

    Where a kind stands on several blocks, its names in the log end with the block, such as `drloc_block_3`.
    """

    def __init__(self, configs: Sequence[RegularizerConfig], backbone: Backbone) -> None:
        """Raises `ConfigError` for a block that is not there, or a kind twice on one block."""
        made = [build(each, backbone) for each in configs]
        kinds, blocks = Counter(each.name for each in made), [each.block % backbone.depth for each in configs]
        for weighted, block in zip(made, blocks):
            if kinds[weighted.name] > 1:
                weighted.name = f"{weighted.name}_block_{block}"
        twice = [name for name, count in Counter(each.name for each in made).items() if count > 1]
        if twice:
            raise ConfigError(
                f"method.regularizers holds {' and '.join(twice)} more than once; the backbone has blocks 0 to "
                f"{backbone.depth - 1}, -1 is the last: choose another block, or add up the weights in one entry"
            )
        super().__init__(made)

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks whose outputs are wanted."""
        return tuple(sorted({block for each in self._all() for block in each.layers}))

    @property
    def scores(self) -> tuple[int, ...]:
        """Blocks whose similarity maps are wanted."""
        return tuple(sorted({block for each in self._all() for block in each.scores}))

    def forward(self, tokens: Tokens, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the weighted losses `[]`, 0 without any, and raw values and weights to log."""
        total, parts = tokens.cls.new_zeros(()), {}
        for weighted in self._all():
            loss, named = weighted(tokens, step)
            total = total + loss
            parts.update(named)
        return total, parts

    def _all(self) -> list[Weighted]:
        return [each for each in self if isinstance(each, Weighted)]
