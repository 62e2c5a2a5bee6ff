"""SAR's surgery on the last transformer block: patch tokens lose the path around the attention.

    plain      z' = MSA(LN1(z)) + z       output = MLP(LN2(z')) + z'      (Eq. 1 and 2)
    operated   z' = MSA(LN1(z))           output = MLP(z') + z'           (Eq. 10 and 11)

Source: Peruzzo et al., "Spatial Entropy as an Inductive Bias for Vision Transformers", Section 4.2; the
presets are the rows of Table 1(b). There is no drop path on a branch without a skip connection: dropping the
branch would zero the tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vitrail.config import Config, ConfigError
from vitrail.nn.open_block import OpenBlock

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

Preset = Literal["A", "B", "C", "D", "E", "F"]


class SurgeryConfig(Config):
    """Which parts of the last block stay, and whether training adds the spatial entropy.

    `entropy` stands here because rows of Table 1(b) differ in it; `operate` changes the block alone, the loss
    is `vitrail.regularizers.SpatialEntropy`.
    """

    msa_skip: bool = True
    """The skip connection around the attention."""
    norm2: bool = True
    """The normalization before the MLP."""
    mlp_skip: bool = True
    """The skip connection around the MLP."""
    entropy: bool = False
    """Train with the spatial-entropy loss."""

    @property
    def changes_block(self) -> bool:
        """Whether the last block differs from a plain one."""
        return not (self.msa_skip and self.norm2 and self.mlp_skip)

    def same_block(self, other: SurgeryConfig) -> bool:
        """Whether both make the same network; the entropy is a loss and does not count."""
        return self.model_copy(update={"entropy": False}) == other.model_copy(update={"entropy": False})


PRESETS: dict[Preset, SurgeryConfig] = {
    "A": SurgeryConfig(),
    "B": SurgeryConfig(msa_skip=False),
    "C": SurgeryConfig(msa_skip=False, norm2=False),
    "D": SurgeryConfig(msa_skip=False, norm2=False, mlp_skip=False),
    "E": SurgeryConfig(entropy=True),
    "F": SurgeryConfig(msa_skip=False, norm2=False, entropy=True),
}
"""Rows of Table 1(b), ImageNet-100 top-1 in brackets: A baseline (74.22), B no MSA skip (74.64), C and no LN2
(75.72), D and no MLP skip (73.76), E baseline with entropy loss (74.78), F is C with entropy loss: SAR
(76.72)."""


def surgery(preset: Preset | SurgeryConfig | None) -> SurgeryConfig:
    """The switches of a preset; None is the plain block. Raises `ConfigError` for an unknown letter."""
    if preset is None:
        return PRESETS["A"]
    if isinstance(preset, SurgeryConfig):
        return preset
    if preset not in PRESETS:
        raise ConfigError(f"surgery {preset!r} is no row of Table 1(b); choose one of {', '.join(PRESETS)}, or null")
    return PRESETS[preset]


def operate(vit: VisionTransformer, preset: Preset | SurgeryConfig | None) -> SurgeryConfig:
    """Operate on the last block of a timm `VisionTransformer`, in place; returns the switches.

    The weights keep timm's names; without norm2 its two are gone. A and E change nothing.

    Raises:
        ValueError: for a block that is no plain timm block, has layer scale, or was operated on before.
    """
    switches = surgery(preset)
    if not switches.changes_block:
        return switches
    last = vit.blocks[-1]
    if isinstance(last, OpenBlock) and last.operated:
        raise ValueError("the last block was operated on before; start from a plain model")
    vit.blocks[-1] = OpenBlock(
        last, msa_skip=switches.msa_skip, norm2=switches.norm2, mlp_skip=switches.mlp_skip
    ).train(last.training)
    return switches
