"""IA-RED2's interpreters: how much groups of blocks want to keep a patch. The network drops what they do not.

The blocks of a ViT stand in groups. Before each group g an interpreter looks at the normalized tokens and says of each
patch j

    I_j = mean over heads h of sigmoid(q_cls,h . k_j,h / sqrt(d))

and patches with I_j > 0.5 that were kept before go through the group's blocks; the class token always does. A dropped
patch is no longer attended to, which is the same as taking it out of the sequence.

Variants: `group2`, the second group's interpreter, as LTRP's text says; `group1`, the first one's, as its released code
has it. A score is I_j of patches that the group before kept, and I_j - 1 of that group for the others, so that these
come last, in the order in which they were wanted.

Source: Pan et al., "IA-RED^2: Interpretability-Aware Redundancy Reduction for Vision Transformers", 2021; the variants:
LTRP's supplement. `vitrail.methods.ia_red2` trains it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from vitrail.backbones import TimmViT
from vitrail.config import Config
from vitrail.rankers.source import Source, variant_of
from vitrail.rankers.vit import open_with_part

VARIANTS = ("group2", "group1")
WEIGHTS = "a run of `vitrail train folder_ia_red2`, or a released file of IA-RED2"
PART = "interpreters"
LEANING = 1.0
"""q . k / sqrt(d) of fresh interpreters, which want 73 % of the patches when patches are drawn, and all elsewhere."""
Choose = Callable[[int, Tensor], Tensor]
"""From a group's number and its interest `[B, N]` to the patches that it wants, bool `[B, N]`."""


class InterpretersConfig(Config):
    """What rebuilds the interpreters beside a backbone."""

    groups: tuple[int, ...] = ()
    """Blocks in each group, from below; empty for three groups of a third each."""
    heads: int | None = Field(None, gt=0)
    """Attention heads of an interpreter; null for as many as the backbone has."""


class Pruned(NamedTuple):
    """What `IaRed2Vit` returns."""

    cls: Tensor  # [B, D] after the final norm
    interest: tuple[Tensor, ...]  # of each group, [B, N] in (0, 1)
    kept: tuple[Tensor, ...]  # of each group, bool [B, N]: the patches that its blocks see


class Interpreter(nn.Module):
    """Queries and keys of normalized tokens; the norm has no weights."""

    def __init__(self, dim: int, heads: int) -> None:
        """Args: width of the tokens, and attention heads, which divide it."""
        super().__init__()
        if dim % heads:
            raise ValueError(f"tokens are {dim} wide, and {heads} heads of an interpreter do not divide that")
        self.heads = heads
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.qk = nn.Linear(dim, 2 * dim)
        # Alike biases of queries and keys: their product is LEANING at the start, and everything is kept.
        nn.init.trunc_normal_(self.qk.weight, std=0.02)
        nn.init.constant_(self.qk.bias, (LEANING * (dim / heads) ** -0.5) ** 0.5)

    def forward(self, x: Tensor, prefix: int = 1) -> Tensor:
        """Interest `[B, N]` in the patches of tokens `[B, P + N, D]`, the class token first, `prefix` P."""
        query, key = self.qk(self.norm(x)).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return interest(query[:, :, 0], key[:, :, prefix:])


def interest(query: Tensor, key: Tensor) -> Tensor:
    """mean_h sigmoid(q_h . k_h / sqrt(d)): `[B, N]` float32 of a query `[B, H, d]` and keys `[B, H, N, d]`."""
    products = (key.float() @ query.float().unsqueeze(-1)).squeeze(-1)
    return (products * query.shape[-1] ** -0.5).sigmoid().mean(1)


def over_half(group: int, found: Tensor) -> Tensor:
    """What is kept where nothing is drawn: interest above 0.5."""
    return found > 0.5


def thirds(depth: int) -> tuple[int, ...]:
    """Three groups of blocks, of equal size where 3 divides the depth, lower ones larger by one elsewhere."""
    count = min(3, depth)
    return tuple(depth // count + (index < depth % count) for index in range(count))


class IaRed2Vit(nn.Module):
    """A backbone with an interpreter before each group of its blocks; `backbone` and `interpreters` are its parts."""

    def __init__(self, backbone: TimmViT, config: InterpretersConfig | None = None) -> None:
        """Raises `ValueError` for groups that are not the backbone's blocks, or blocks that take no mask."""
        super().__init__()
        config = config or InterpretersConfig()
        groups = config.groups or thirds(backbone.depth)
        if sum(groups) != backbone.depth or min(groups) < 1:
            raise ValueError(
                f"groups of {list(groups)} blocks are {sum(groups)} in all, and the backbone has {backbone.depth}; "
                "let them add up, or leave them empty for thirds"
            )
        if backbone.closed:
            raise ValueError(f"patches cannot be left out of this backbone: {next(iter(backbone.closed.values()))}")
        heads = config.heads or backbone.heads
        self.config = InterpretersConfig(groups=groups, heads=heads)
        self.backbone = backbone
        self.interpreters = nn.ModuleList(Interpreter(backbone.embed_dim, heads) for _ in groups)

    def forward(
        self, images: Tensor, choose: Choose = over_half, *, dropping: int | None = None, resting: bool = False
    ) -> Pruned:
        """Run the network.

        Args:
            images: `[B, 3, H, W]`, normalized.
            choose: which patches a group wants; what an earlier group dropped stays dropped.
            dropping: so many groups drop patches, the others take what is left; None for all.
            resting: run the backbone without gradients; the interpreters keep theirs.
        """
        learning = torch.is_grad_enabled() and not resting
        with torch.set_grad_enabled(learning):
            x, _ = self.backbone.embed(images)
        number = len(self.interpreters) if dropping is None else dropping
        kept = torch.ones(len(x), x.shape[1] - self.backbone.prefix_tokens, dtype=torch.bool, device=x.device)
        found: list[Tensor] = []
        masks: list[Tensor] = []
        for group in range(len(self.interpreters)):
            found.append(self.look(group, x))
            if group < number:
                kept = kept & choose(group, found[-1].detach())
            masks.append(kept)
            with torch.set_grad_enabled(learning):
                x = self.run(group, x, kept)
        with torch.set_grad_enabled(learning):
            return Pruned(self.backbone.norm(x)[:, 0], tuple(found), tuple(masks))

    def look(self, group: int, x: Tensor) -> Tensor:
        """A group's interest `[B, N]` in the patches of its input. No gradient goes to the tokens."""
        found: Tensor = self.interpreters[group](x.detach(), self.backbone.prefix_tokens)
        return found

    def run(self, group: int, x: Tensor, kept: Tensor) -> Tensor:
        """Tokens `[B, P + N, D]` through a group's blocks, where `kept` (bool `[B, N]`) alone are attended to.

        The tokens of dropped patches go on being computed, and nothing reads them.
        """
        seen = kept.new_ones(len(kept), x.shape[1])
        seen[:, self.backbone.prefix_tokens :] = kept
        mask = torch.zeros(seen.shape, dtype=x.dtype, device=x.device).masked_fill(~seen, -torch.inf)[:, None, None]
        mask = mask.expand(-1, -1, x.shape[1], -1)
        first = sum(self.config.groups[:group])
        for block in self.backbone.vit.blocks[first : first + self.config.groups[group]]:
            x = self.backbone.run_block(block, x, attn_mask=mask)
        return x


def open_network(source: Source) -> IaRed2Vit:
    """Backbone and interpreters from a file: ours, or in the layout of the released one (`groups.G.agent.*`).

    Raises `ValueError` as `open_with_part`.
    """
    backbone, part = open_with_part(source, "ia_red2", PART, WEIGHTS)
    config = InterpretersConfig.parse(part.config, source=part.source) if part.config else _config(part.state, backbone)
    network = IaRed2Vit(backbone, config)
    part.fill(network.interpreters)
    return network


def _config(state: dict[str, Tensor], backbone: TimmViT) -> InterpretersConfig:
    """Of a released file, which has equal groups, and six heads in an interpreter as its ViT-S."""
    count = len({name.partition(".")[0] for name in state})
    if backbone.depth % count:
        raise ValueError(f"{count} interpreters do not divide {backbone.depth} blocks into equal groups")
    return InterpretersConfig(groups=(backbone.depth // count,) * count)


def from_source(source: Source) -> IaRed2:
    """Weights of IA-RED2, ours or released ones; variants `group2` and `group1`."""
    variant = variant_of(source, "ia_red2", VARIANTS)
    return IaRed2(open_network(source), variant)


class IaRed2(nn.Module):
    """Scores by the interest of a group's interpreter. Fulfills `vitrail.contracts.Ranker`."""

    needs_number = False

    def __init__(self, network: IaRed2Vit, variant: str = "group2") -> None:
        """Raises `ValueError` for a group that the network does not have."""
        super().__init__()
        self.group = int(variant[-1]) - 1
        if self.group >= len(network.interpreters):
            raise ValueError(
                f"the variant {variant} asks for group {self.group + 1}, and this network has "
                f"{len(network.interpreters)}; take group1"
            )
        self.network = network
        self.mean: Sequence[float] = network.backbone.mean
        self.std: Sequence[float] = network.backbone.std
        self.image_size = network.backbone.image_size
        self.patch_size = network.backbone.patch_size

    def forward(self, images: Tensor, *, number: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Scores `[B, Y, X]`: in (0, 1) where the group before kept the patch, in (-1, -0.5] where it did not."""
        x, grid = self.network.backbone.embed(images)
        scores = self.network.look(0, x)
        kept = torch.ones_like(scores, dtype=torch.bool)
        for group in range(self.group):
            wanted = over_half(group, scores) & kept
            x = self.network.run(group, x, wanted)
            scores = torch.where(wanted, self.network.look(group + 1, x), scores - kept.float())
            kept = wanted
        return scores.unflatten(1, grid)
